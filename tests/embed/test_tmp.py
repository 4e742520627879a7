from tests.embed.desk import *
from tests.support import audit
from tests.support.work import *
from embedmill.ingest.storing import Storing
async def test_x(app, pipeline, provider):
    l = await add_document(app, pipeline, "doc", ["a","b"])
    provider.configure(fail_rate_500=1.0)
    await embed_until_idle(app, pipeline)
    provider.configure(fail_rate_500=0.0)
    await Storing(app.database, pipeline, batch_id=uuid4()).relaunch(l.document_id, l.job_id)
    await embed_until_idle(app, pipeline)
    print(await audit.dead_letters(app), await audit.newest_jobs(app))
async def test_crowd(app, pipeline, provider):
    # the same text in 20k documents, nothing embedded
    await app.database.fetch("INSERT INTO embedmill.knowledge_documents (tenant_id,pipeline_id,source_type,source_id,name) SELECT 1,%s,'t',n::text,n::text FROM generate_series(1,30000) n", (pipeline.id,))
    await app.database.fetch("""INSERT INTO embedmill.knowledge_chunks (tenant_id,pipeline_id,document_id,ordinal,start_offset,end_offset,token_count,text_config,content_hash,text)
      SELECT 1,%s,d.id,0,0,4,5,'simple',substring(sha256(convert_to('same','UTF8')) FROM 1 FOR 16),'same' FROM embedmill.knowledge_documents d""",(pipeline.id,))
    await app.database.fetch("""INSERT INTO embedmill.embedding_queue (tenant_id,generation_id,document_id,first_ordinal,last_ordinal,source_type,source_id) SELECT 1,%s,id,0,0,'document',id::text FROM embedmill.knowledge_documents""",(pipeline.generation.id,))
    import time; t=time.time()
    provider.configure(latency_ms=200)
    r = await Run(app, pipeline)(seconds=200)
    print("crowd", time.time()-t, provider.stats()["inputs_paid"], await missing_chunks(app, pipeline))
