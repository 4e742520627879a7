"""Who gives a command, for the audit log. Owns that name."""

from __future__ import annotations

import os
import socket


def local_actor() -> str:
    """The account that runs this process, and its machine: ann@mill-1."""
    try:
        import pwd

        account = pwd.getpwuid(os.getuid()).pw_name
    except (ImportError, KeyError):
        # Containers run accounts that no list knows.
        account = f"uid{os.getuid()}" if hasattr(os, "getuid") else "somebody"
    return f"{account}@{socket.gethostname()}"
