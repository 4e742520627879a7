"""The life of a job over HTTP: upload, preview, price, launch, completed; found again; deleted."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import httpx2

from embedmill.database.pipelines import Pipeline
from tests.support.prose import paragraphs
from tests.support.provider import RunningProvider
from tests.support.serving import Serving


async def test_an_upload_is_parsed_previewed_priced_launched_and_completed(
    service: Serving, pipeline: Pipeline, provider: RunningProvider
) -> None:
    text = paragraphs(40)
    taken = await service.upload("handbook.md", text.encode(), pipeline="standin", metadata='{"team": "ops"}')
    assert taken["status"] in {"staged", "parsing"}
    assert taken["isResumable"] is True
    assert taken["isKnown"] is False
    job = await service.until(taken["jobId"], "chunk_preview_ready")
    assert job["status"] == "chunk_preview_ready"
    assert job["progress"] == 0
    preview = (await service.client.get(f"/ingestion-jobs/{job['jobId']}/chunks")).json()
    assert preview["totalChunks"] == len(preview["chunks"]) == job["totalChunks"] > 1
    assert preview["estimate"]["chunks"] == job["totalChunks"]
    assert preview["estimate"]["tokens"] == sum(chunk["tokens"] for chunk in preview["chunks"])
    assert provider.stats()["calls"] == 0
    launched = await service.client.post(f"/ingestion-jobs/{job['jobId']}/launch")
    assert launched.status_code == 202
    done = await service.until(job["jobId"])
    assert (done["status"], done["progress"], done["embeddedChunks"]) == (
        "completed",
        100,
        job["totalChunks"],
    )
    assert done["cost"]["paidTokens"] == provider.stats()["tokens_paid"]
    assert done["cost"]["spentUsd"] == done["cost"]["paidTokens"] / 1e6
    assert done["metadata"] == {"team": "ops"}
    whole = (await service.client.get(f"/ingestion-jobs/{job['jobId']}/text")).json()
    for chunk in preview["chunks"]:
        assert whole["text"][chunk["startOffset"] : chunk["endOffset"]] == chunk["text"]


async def test_the_same_bytes_are_recognised_and_paid_for_once(
    service: Serving, pipeline: Pipeline, provider: RunningProvider
) -> None:
    text = paragraphs(5).encode()
    first = await service.upload("a.txt", text, pipeline="standin", autoLaunch="true")
    await service.until(first["jobId"])
    paid = provider.stats()["tokens_paid"]
    again = await service.upload("b.txt", text, pipeline="standin", autoLaunch="true")
    assert (again["jobId"], again["documentId"], again["isKnown"]) == (
        first["jobId"],
        first["documentId"],
        True,
    )
    assert provider.stats()["tokens_paid"] == paid
    listed = (await service.client.get("/ingestion-jobs")).json()
    assert [job["jobId"] for job in listed["jobs"]] == [first["jobId"]]


async def test_a_named_source_gets_a_new_version_and_pays_for_what_changed_only(
    service: Serving, pipeline: Pipeline, provider: RunningProvider
) -> None:
    parts = [paragraphs(3, seed=seed) for seed in range(12)]
    first = await service.upload(
        "guide.txt", "\n\n".join(parts).encode(), pipeline="standin", sourceId="guide", autoLaunch="true"
    )
    before = await service.until(first["jobId"])
    paid = provider.stats()["inputs_paid"]
    parts[11] = paragraphs(3, seed=99)
    second = await service.upload(
        "guide.txt", "\n\n".join(parts).encode(), pipeline="standin", sourceId="guide", autoLaunch="true"
    )
    assert second["documentId"] == first["documentId"]
    assert second["jobId"] != first["jobId"]
    after = await service.until(second["jobId"])
    assert after["status"] == "completed"
    assert before["totalChunks"] > 4
    assert provider.stats()["inputs_paid"] - paid <= 3


async def test_several_files_make_a_batch_and_what_is_wrong_with_one_harms_no_other(
    service: Serving, pipeline: Pipeline
) -> None:
    files = [
        ("file", ("good.txt", paragraphs(3, seed=1).encode())),
        ("file", ("bad.pdf", b"%PDF-1.7 this is no PDF at all")),
        ("file", ("fine.md", paragraphs(3, seed=2).encode())),
    ]
    response = await service.client.post(
        "/ingestion-jobs", files=files, data={"pipeline": "standin", "autoLaunch": "true"}
    )
    assert response.status_code == 202, response.text
    taken = response.json()
    ended = [await service.until(job["jobId"]) for job in taken["jobs"]]
    assert [job["status"] for job in ended] == ["completed", "failed", "completed"]
    assert ended[1]["errorStage"] == "parsing"
    assert ended[1]["errorMessage"]
    batch = (await service.client.get(f"/batches/{taken['batchId']}")).json()
    assert (batch["jobs"], batch["completed"], batch["failed"]) == (3, 2, 1)


async def test_another_plan_before_the_launch_cuts_anew(service: Serving, pipeline: Pipeline) -> None:
    taken = await service.upload("long.txt", paragraphs(60).encode(), pipeline="standin")
    coarse = await service.until(taken["jobId"], "chunk_preview_ready")
    changed = await service.client.patch(f"/ingestion-jobs/{taken['jobId']}", json={"chunkTokens": 64})
    assert changed.status_code == 200, changed.text
    fine = await service.until(taken["jobId"], "chunk_preview_ready")
    assert fine["chunkTokens"] == 64
    assert fine["totalChunks"] > 2 * coarse["totalChunks"]
    preview = (await service.client.get(f"/ingestion-jobs/{taken['jobId']}/chunks?limit=1000")).json()
    assert max(chunk["tokens"] for chunk in preview["chunks"]) <= 64


async def test_a_request_sent_again_with_its_key_is_answered_as_before(
    service: Serving, pipeline: Pipeline
) -> None:
    async def send(content: bytes, key: str) -> httpx2.Response:
        return await service.client.post(
            "/ingestion-jobs",
            files={"file": ("a.txt", content)},
            data={"pipeline": "standin"},
            headers={"Idempotency-Key": key},
        )

    first, again = await send(b"some words", "k1"), await send(b"some words", "k1")
    assert first.json() == again.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    other = await send(b"other words", "k1")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


async def test_deleting_a_job_takes_its_document_its_vectors_and_its_original(
    service: Serving, pipeline: Pipeline
) -> None:
    taken = await service.upload("a.txt", paragraphs(3).encode(), pipeline="standin", autoLaunch="true")
    await service.until(taken["jobId"])
    gone = await service.client.delete(f"/ingestion-jobs/{taken['jobId']}")
    assert gone.status_code == 204
    assert (await service.client.get(f"/ingestion-jobs/{taken['jobId']}")).status_code == 404
    row = await service.app.database.fetch_one(
        "SELECT (SELECT count(*) FROM embedmill.knowledge_documents), (SELECT count(*) FROM embedmill.knowledge_chunks)"
    )
    assert row == (0, 0)
    originals = Path(service.service.settings.data_dir) / "originals"
    assert [path for path in originals.rglob("*") if path.is_file()] == []


async def test_what_is_not_there_or_cannot_be_done_is_a_problem_with_a_code(
    service: Serving, pipeline: Pipeline
) -> None:
    missing = await service.client.post(f"/ingestion-jobs/{uuid4()}/launch")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    assert missing.headers["content-type"] == "application/problem+json"
    taken = await service.upload("a.txt", b"a few words", pipeline="standin", autoLaunch="true")
    await service.until(taken["jobId"])
    again = await service.client.post(f"/ingestion-jobs/{taken['jobId']}/launch")
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    unknown = await service.client.post(
        "/ingestion-jobs", files={"file": ("a.txt", b"x")}, data={"pipeline": "nope"}
    )
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    extra = await service.client.post(
        "/ingestion-jobs", files={"file": ("a.txt", b"x")}, data={"prioritty": "high"}
    )
    assert (extra.status_code, extra.json()["code"]) == (422, "invalid_request")
