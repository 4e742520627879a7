"""The pool of parsing processes: no document harms another, and nothing is left behind."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from embedmill.core.documents import ChunkPlan
from embedmill.errors import ConfigurationError, DocumentError
from embedmill.ingest.parsing import ParserPool
from embedmill.ingest.parsing_protocol import MIB, ParseRequest, TokenizerSpec
from tests.support import good_documents as good
from tests.support.hostile import flate_bomb_pdf
from tests.support.sentences import PAGES

REAL = (sys.executable, "-m", "embedmill.adapters.parsers.child")

# A real process that speaks the protocol and misbehaves as the text of the request tells it to.
MISCHIEF = """
import os, resource, signal, sys, time, msgspec
from embedmill.core.documents import ParsedDocument
from embedmill.ingest.parsing_protocol import *
def send(reply):
    os.write(1, framed(msgspec.msgpack.encode(reply)))
send(ChildReady())
served = 0
while header := sys.stdin.buffer.read(8):
    request = msgspec.msgpack.decode(sys.stdin.buffer.read(LENGTH.unpack(header)[0]), type=ParseRequest)
    what = request.text
    served += 1
    if what == "hang":
        sys.stderr.write("hanging\\n"); sys.stderr.flush()
        time.sleep(3600)
    elif what == "segfault": os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "oom": os.kill(os.getpid(), signal.SIGKILL)
    elif what == "rust": sys.stderr.write("memory allocation of 99 bytes failed\\n"); os.abort()
    elif what == "abort": resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.abort()
    elif what == "processor": os.kill(os.getpid(), signal.SIGXCPU)
    elif what == "exit": sys.exit(3)
    elif what == "garbage": os.write(1, framed(b"nonsense"))
    elif what == "half": os.write(1, LENGTH.pack(100) + b"x"); sys.exit(0)
    elif what == "used" and served > 1: os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "grow": kept = b"x" * 80_000_000; send(ParseReply(ParsedDocument(str(os.getpid()), "t")))
    elif what == "environment": send(ParseReply(ParsedDocument(repr(dict(os.environ)), "t")))
    else: send(ParseReply(ParsedDocument(str(os.getpid()), "t")))
"""
MISCHIEVOUS = (sys.executable, "-c", MISCHIEF)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def asked(what: str) -> ParseRequest:
    return ParseRequest(name="a.txt", text=what)


async def pid_of(pool: ParserPool, what: str = "") -> int:
    return int((await pool.parse(asked(what))).document.text)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Every test leaves as many open files and children as it found."""
    before = open_files()
    children = set(psutil.Process().children())
    yield
    assert set(psutil.Process().children()) <= children
    assert open_files() <= before


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("hang", "timeout"),
        ("processor", "timeout"),
        ("oom", "memory"),
        ("rust", "memory"),
        ("abort", "memory"),
        ("segfault", "corrupt"),
        ("exit", "corrupt"),
        ("garbage", "corrupt"),
        ("half", "corrupt"),
    ],
)
async def test_a_document_that_costs_the_process_gets_a_reason_and_the_next_is_read(
    what: str, reason: str
) -> None:
    async with ParserPool(MISCHIEVOUS, size=1, deadline_seconds=1 if what == "hang" else 60) as pool:
        first = await pid_of(pool)
        with pytest.raises(DocumentError) as caught:
            await pool.parse(asked(what))
        assert caught.value.reason == reason
        assert await pid_of(pool) != first


async def test_a_process_that_others_weakened_is_not_held_against_a_document() -> None:
    async with ParserPool(MISCHIEVOUS, size=1) as pool:
        await pid_of(pool)
        assert (await pool.parse(asked("used"))).document.text


async def test_processes_are_kept_between_documents_until_they_served_long_or_grew() -> None:
    async with ParserPool(MISCHIEVOUS, size=1, recycle_documents=3) as pool:
        pids = [await pid_of(pool) for _ in range(4)]
    assert pids[0] == pids[1] == pids[2] != pids[3]
    async with ParserPool(MISCHIEVOUS, size=1, recycle_resident_bytes=60 * MIB) as pool:
        grown = await pid_of(pool, "grow")
        assert await pid_of(pool) != grown


async def test_as_many_documents_as_processes_are_read_at_once_and_no_more() -> None:
    async with ParserPool(MISCHIEVOUS, size=2) as pool:
        pids = await asyncio.gather(*(pid_of(pool) for _ in range(20)))
    assert 1 <= len(set(pids)) <= 2


async def test_cancelling_kills_what_is_being_read_and_frees_its_seat(tmp_path: Path) -> None:
    async with ParserPool(MISCHIEVOUS, size=1) as pool:
        first = await pid_of(pool)
        reading = asyncio.create_task(pool.parse(asked("hang")))
        await asyncio.sleep(0)  # let it hand over the request
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await pid_of(pool) != first
    assert not psutil.pid_exists(first)


async def test_leaving_the_pool_ends_what_still_reads() -> None:
    async with ParserPool(MISCHIEVOUS, size=1) as pool:
        await pid_of(pool)
        reading = asyncio.create_task(pool.parse(asked("hang")))
        await asyncio.sleep(0)
    with pytest.raises(ConfigurationError, match="closed"):
        await reading


async def test_a_process_sees_no_secret_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    async with ParserPool(MISCHIEVOUS, size=1) as pool:
        assert "sk-secret" not in (await pool.parse(asked("environment"))).document.text


@pytest.mark.parametrize(
    "command", [("/no/such/program",), (sys.executable, "-c", "raise SystemExit('no such part')")]
)
async def test_a_command_that_does_not_start_is_a_fault_of_the_installation(command: tuple[str, ...]) -> None:
    async with ParserPool(command, size=1) as pool:
        with pytest.raises(ConfigurationError, match=r"no such|No such"):
            await pool.parse(asked(""))


async def test_a_document_is_cut_where_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_bytes(good.markdown() * 40)
    request = ParseRequest(
        name="a.md",
        path=str(path),
        plan=ChunkPlan(max_tokens=60, overlap_tokens=8),
        tokenizer=TokenizerSpec("cl100k_base", "any", "openai"),
    )
    async with ParserPool(REAL, size=1) as pool:
        reply = await pool.parse(request)
    assert len(reply.chunks) > 10
    for chunk in reply.chunks:
        assert chunk.text == reply.document.text[chunk.start : chunk.end]
        assert 0 < chunk.tokens <= 60
    assert any(chunk.heading_path[-1:] == ("Water",) for chunk in reply.chunks)


async def test_text_itself_is_taken_and_cleaned_and_a_large_reply_comes_whole() -> None:
    text = "The mill grinds wheat.\r\n\0" * 400_000  # more than the pipe and its buffers hold
    async with ParserPool(REAL, size=1) as pool:
        reply = await pool.parse(ParseRequest(name="row", text=text, is_markdown=True))
        assert reply.document.text == "The mill grinds wheat.\n" * 400_000
        with pytest.raises(DocumentError) as caught:
            await pool.parse(ParseRequest(name="row", text=" \n "))
        assert caught.value.reason == "empty"


async def test_the_real_process_survives_want_of_memory_and_reads_on(tmp_path: Path) -> None:
    (tmp_path / "big.csv").write_bytes(b"a,b\n" + b"one,two\n" * 2_000_000)
    (tmp_path / "good.txt").write_bytes(good.plain())
    async with ParserPool((*REAL, "--memory-bytes", str(64 * MIB)), size=1) as pool:
        with pytest.raises(DocumentError) as caught:
            await pool.parse(ParseRequest(name="big.csv", path=str(tmp_path / "big.csv")))
        assert caught.value.reason == "memory"
        reply = await pool.parse(ParseRequest(name="good.txt", path=str(tmp_path / "good.txt")))
        assert PAGES[0] in reply.document.text


async def test_a_document_that_unfolds_for_ever_is_stopped_at_the_deadline(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pdf"
    path.write_bytes(flate_bomb_pdf())
    async with ParserPool(REAL, size=1, deadline_seconds=1) as pool:
        with pytest.raises(DocumentError) as caught:
            await pool.parse(ParseRequest(name="bomb.pdf", path=str(path)))
    assert caught.value.reason == "timeout"


async def test_the_processor_time_of_a_document_is_limited(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pdf"
    path.write_bytes(flate_bomb_pdf())
    async with ParserPool((*REAL, "--cpu-seconds", "1"), size=1) as pool:
        with pytest.raises(DocumentError) as caught:
            await pool.parse(ParseRequest(name="bomb.pdf", path=str(path)))
    assert caught.value.reason == "timeout"


def test_processes_end_when_their_parent_is_killed() -> None:
    program = f"""
import asyncio, sys
from embedmill.ingest.parsing import ParserPool
from embedmill.ingest.parsing_protocol import ParseRequest
async def main():
    async with ParserPool({REAL!r}, size=2) as pool:
        async def read():
            await pool.parse(ParseRequest(name="a.txt", text="text"))
        await asyncio.gather(read(), read())
        print("ready", flush=True)
        await asyncio.sleep(3600)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        children = psutil.Process(parent.pid).children()
        assert children
        parent.send_signal(signal.SIGKILL)
        _, alive = psutil.wait_procs(children, timeout=10)
        assert alive == []


def test_the_real_process_can_write_no_file(tmp_path: Path) -> None:
    program = (
        "from embedmill.adapters.parsers.limits import close_in\n"
        f"close_in()\nwith open({str(tmp_path / 'out')!r}, 'w') as file: file.write('x')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "File too large" in done.stderr
