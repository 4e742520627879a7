"""embedmill: documents and Postgres rows into vectors that people can trust.

`from embedmill import Client, AsyncClient`; the client is loaded when it is asked for, so that the command stays fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedmill.client.client import AsyncClient, Client

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "__version__"]


def __getattr__(name: str) -> object:
    if name in {"AsyncClient", "Client"}:
        from embedmill.client import client  # noqa: PLC0415 - the command line does not need it

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
