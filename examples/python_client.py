"""Upload a document, look at what embedding it costs, embed it, and ask it something.

    embedmill up                                           # in another terminal
    python examples/python_client.py handbook.pdf "how do I return a mill wheel?"

EMBEDMILL_API_KEY holds the key, where the service asks for one; a third argument is its address, if not this machine.
"""

import sys

from embedmill import Client


def main(path: str, question: str, address: str = "http://127.0.0.1:8080") -> None:
    with Client(address) as client:
        job = client.upload(path, metadata={"from": "example"})
        job.wait(until="preview", progress=True)

        estimate = job.estimate()
        price = "at no cost" if not estimate.cost_usd else f"for ${estimate.cost_usd:.4f}"
        print(f"{job.name}: {job.total_chunks} chunks, {estimate.tokens} tokens to embed {price}")

        if job.status == "chunk_preview_ready":  # else it was uploaded and launched before
            job.launch()
        job.wait(progress=True, raise_on_failure=True)
        print(f"{job.status}: {job.embedded_chunks} embedded, {job.failed_chunks} failed")

        for passage in client.search(question, document_id=job.document_id, limit=3):
            print(f"\n{passage.score:.3f}  {passage.name}  {' > '.join(passage.heading_path)}")
            print(passage.text[:300])


if __name__ == "__main__":
    main(*sys.argv[1:])
