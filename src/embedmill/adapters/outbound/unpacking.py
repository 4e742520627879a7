"""Takes a compressed body apart as it comes. Owns what HTTP calls Content-Encoding; must not let a few bytes become
many at once, nor take a body that breaks off, or goes on behind its end, for a whole one."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from embedmill.errors import DocumentError

PIECE_BYTES = 256 * 1024
_GZIP = zlib.MAX_WBITS | 16


class Unpacker:
    """`feed` what comes, then `finish`. Knows gzip (any number of members), deflate in both readings of the word,
    and bodies that are not compressed."""

    def __init__(self, encoding: str | None) -> None:
        """Raises DocumentError for a compression that nobody asked for."""
        name = (encoding or "identity").strip().lower()
        if name not in ("identity", "", "gzip", "x-gzip", "deflate"):
            raise DocumentError(
                "unreadable", f"the server packs the document in a way unknown here: {name[:40]!r}"
            )
        self._is_packed = name not in ("identity", "")
        self._is_deflate = name == "deflate"
        self._window = zlib.MAX_WBITS if self._is_deflate else _GZIP
        self._stream = zlib.decompressobj(self._window)
        self._has_begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What becomes of it, in pieces of at most PIECE_BYTES. Raises DocumentError where it is broken."""
        if not self._is_packed:
            yield data
            return
        while data:
            if self._stream.eof:
                if self._is_deflate or not data.strip(b"\0"):
                    return  # padding
                self._stream = zlib.decompressobj(self._window)
            piece = self._unpack(data)
            self._has_begun = True
            data = self._stream.unconsumed_tail or self._stream.unused_data
            if piece:
                yield piece
            # What is left inside the decompressor comes out without new data.
            while not data and len(piece) == PIECE_BYTES and not self._stream.eof:
                piece = self._unpack(b"")
                if piece:
                    yield piece
                data = self._stream.unconsumed_tail or self._stream.unused_data

    def finish(self) -> None:
        """Raises DocumentError where the packed body is not whole."""
        if self._is_packed and self._has_begun and not self._stream.eof:
            raise DocumentError("unreadable", "the packed document breaks off before its end: fetch it again")

    def _unpack(self, data: bytes) -> bytes:
        try:
            return self._stream.decompress(data, PIECE_BYTES)
        except zlib.error as error:
            if self._is_deflate and not self._has_begun and self._window > 0:
                # Half the servers that say deflate leave out the frame that the standard asks for.
                self._window = -zlib.MAX_WBITS
                self._stream = zlib.decompressobj(self._window)
                return self._unpack(data)
            raise DocumentError("unreadable", f"the packed document is broken: {error}") from error
