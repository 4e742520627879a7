"""The systems that are compared: where each runs, and where its texts and vectors stand afterwards. A new one is a line
here and a driver in drivers/."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ROOT / ".peers"
LIMIT = "bare_loop"


@dataclass(frozen=True)
class System:
    """`driver`: its module in drivers/. `requirements`: what is installed into its environment, empty for what runs in
    ours; the first is what its version is told of. `stands`: (text, vector) of all that it has embedded; None where
    nothing stays. `variables` of its process."""

    name: str
    driver: str
    stands: str | None
    requirements: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def is_peer(self) -> bool:
        return bool(self.requirements)

    @property
    def environment(self) -> Path:
        return ENVIRONMENTS / self.driver

    @property
    def program(self) -> Path:
        """The Python that runs it."""
        return self.environment / "bin" / "python" if self.is_peer else Path(sys.executable)


_OURS = "SELECT text, embedding FROM embedmill.embeddings_peers"
SYSTEMS = (
    System("bare loop", LIMIT, None),
    System("embedmill, launched", "embedmill_launched", _OURS),
    System("embedmill, documents", "embedmill_documents", _OURS),
    System("embedmill, table", "embedmill_table", _OURS),
    System(
        "pgai",
        "pgai",
        "SELECT chunk AS text, embedding FROM public.texts_embedding_store",
        ("pgai[vectorizer-worker]==0.12.1",),
        (("OPENAI_API_KEY", "none"),),
    ),
    System(
        "CocoIndex",
        "cocoindex",
        "SELECT body AS text, embedding FROM public.peers",
        ("cocoindex[postgres]==1.0.26", "openai==3.54.0"),
        (("COCOINDEX_DISABLE_USAGE_TRACKING", "1"),),
    ),
    System(
        "LlamaIndex",
        "llamaindex",
        "SELECT text, embedding FROM public.data_peers",
        (
            "llama-index-core==0.14.25",
            "llama-index-vector-stores-postgres==0.9.0",
            "llama-index-embeddings-openai==0.7.0",
        ),
    ),
    System(
        "LangChain",
        "langchain",
        "SELECT content AS text, embedding FROM public.peers",
        ("langchain-postgres==0.0.19", "langchain-openai==1.7.3"),
    ),
)
