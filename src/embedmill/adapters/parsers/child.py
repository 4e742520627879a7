"""The program of the limited parsing process: `python -m embedmill.adapters.parsers.child`.

Reads requests and writes replies on its standard pipes (ingest/parsing_protocol.py), one at a time, until
stdin ends. Whatever a document does to it may only cost this process: it holds no key, no database and no
open file, and leaves by os._exit, because a library's own clean-up may hang.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from embedmill.adapters.parsers.limits import Allowance, close_in
from embedmill.adapters.parsers.reading import Reader
from embedmill.core.documents import Chunk, ParsedDocument
from embedmill.errors import ConfigurationError, DocumentError
from embedmill.ingest.parsing_protocol import (
    LENGTH,
    MIB,
    ChildReady,
    CutReply,
    CutRequest,
    ParseFailure,
    ParseReply,
    ParseRequest,
    ParseUnavailable,
    Reply,
    Request,
    TokenizerSpec,
)

if TYPE_CHECKING:
    from embedmill.ports import TokenCounter

MAX_TOKENIZERS = 4


class Child:
    """Serves requests; keeps the parsers and the tokenizers that it loaded."""

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._readers: dict[int, Reader] = {}
        self._counters: dict[TokenizerSpec, TokenCounter] = {}
        self._decoder = msgspec.msgpack.Decoder(Request)
        self._encoder = msgspec.msgpack.Encoder()

    def serve(self, requests: BinaryIO, replies: BinaryIO) -> None:
        self._send(replies, self._encoder.encode(ChildReady()))
        while True:
            header = requests.read(LENGTH.size)
            if len(header) < LENGTH.size:
                return
            (length,) = LENGTH.unpack(header)
            body = requests.read(length)
            if len(body) < length:
                return
            self._send(replies, self._answer(body))

    def _send(self, replies: BinaryIO, body: bytes) -> None:
        replies.write(LENGTH.pack(len(body)))
        replies.write(body)
        replies.flush()

    def _answer(self, body: bytes) -> bytes:
        self._allowance.begin()
        try:
            return self._encoder.encode(self._reply(self._decoder.decode(body)))
        except MemoryError:
            failure = ParseFailure(
                "memory", "Reading this document takes more memory than it is allowed.", True
            )
        except RecursionError:
            failure = ParseFailure("corrupt", "The document nests its parts too deep to be a real one.", True)
        except BaseException as error:  # noqa: BLE001
            # The border of the process: a fault in a parser, a Rust panic included (it is a BaseException),
            # must become a reason on this document, and the process is not used again.
            traceback.print_exc()
            message = f"The parser failed on this document ({type(error).__name__}); it may be damaged."
            failure = ParseFailure("corrupt", message, True)
        return self._encoder.encode(failure)

    def _reply(self, request: Request) -> Reply:
        try:
            if isinstance(request, CutRequest):
                return self._cut(request)
            document = self._document(request)
            return ParseReply(document, self._chunks(request, document))
        except DocumentError as error:
            return ParseFailure(error.reason, str(error))
        except ConfigurationError as error:
            return ParseUnavailable(str(error))
        except ImportError as error:
            return ParseUnavailable(
                f"The parsing process lacks a part ({error}); install embedmill[all] again."
            )

    def _cut(self, request: CutRequest) -> CutReply:
        from embedmill.core.chunking import chunk_document  # noqa: PLC0415

        reader = self._reader(request.max_text_chars)
        count = self._counter(request.tokenizer).count
        replies: list[ParseReply | ParseFailure] = []
        for given in request.documents:
            try:
                read = reader.read_text(given.text, given.media_type, is_markdown=given.is_markdown)
                document = msgspec.structs.replace(given, text=read.text)
                replies.append(ParseReply(document, chunk_document(document, request.plan, count)))
            except DocumentError as error:
                replies.append(ParseFailure(error.reason, str(error)))
        return CutReply(tuple(replies))

    def _reader(self, max_text_chars: int) -> Reader:
        reader = self._readers.get(max_text_chars)
        if reader is None:
            reader = Reader(max_text_chars, self._allowance.lifted)
            self._readers = {max_text_chars: reader}
        return reader

    def _document(self, request: ParseRequest) -> ParsedDocument:
        reader = self._reader(request.max_text_chars)
        if request.text is not None:
            return reader.read_text(request.text, request.media_type, is_markdown=request.is_markdown)
        if request.path is None:
            raise ConfigurationError("A request to parse names neither a path nor a text.")
        return reader.read_file(request.path, request.name, request.media_type, request.max_bytes)

    def _chunks(self, request: ParseRequest, document: ParsedDocument) -> tuple[Chunk, ...]:
        if request.plan is None:
            return ()
        if request.tokenizer is None:
            raise ConfigurationError("A request to cut a document needs a tokenizer beside its plan.")
        # Parsing alone needs no cutter.
        from embedmill.core.chunking import chunk_document  # noqa: PLC0415

        return chunk_document(document, request.plan, self._counter(request.tokenizer).count)

    def _counter(self, spec: TokenizerSpec) -> TokenCounter:
        counter = self._counters.pop(spec, None)
        if counter is None:
            from embedmill.adapters.tokenizers import load_token_counter  # noqa: PLC0415

            with self._allowance.lifted():
                counter = load_token_counter(
                    spec.tokenizer,
                    spec.model,
                    spec.provider,
                    models_dir=Path(spec.models_dir) if spec.models_dir else None,
                )
            while len(self._counters) >= MAX_TOKENIZERS:
                self._counters.pop(next(iter(self._counters)))
        self._counters[spec] = counter
        return counter


def main() -> None:
    options = _options()
    # Requests and replies move to descriptors of their own: what a library prints goes to stderr.
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    _widen(replies)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.dont_write_bytecode = True
    close_in()
    try:
        Child(Allowance(options.memory_bytes, options.cpu_seconds)).serve(requests, replies)
    except BrokenPipeError:
        pass  # the pool is gone
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _widen(pipe: BinaryIO) -> None:
    """A reply of many megabytes through a pipe of 64 KiB wakes both sides at each bite."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, MIB)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="embedmill parsing process")
    parser.add_argument("--memory-bytes", type=int, default=2048 * MIB)
    parser.add_argument("--cpu-seconds", type=int, default=300)
    return parser.parse_args()


if __name__ == "__main__":
    main()
