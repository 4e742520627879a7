"""Server-sent events, however their bytes are cut, against a reading of the whole by the letter of the standard."""

from __future__ import annotations

import re

import hypothesis.strategies as st
from hypothesis import given

from embedmill.client.sse import Event, EventParser

_FIELDS = st.sampled_from(["data", "event", "id", "retry", "", "other", "data: x", "\ufeffdata"])
_VALUES = st.text(
    st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=8
) | st.sampled_from(["", " ", "2000", "1-2", "a\0b", "é€😀"])
_LINES = st.one_of(
    st.tuples(_FIELDS, st.sampled_from([":", ": ", ""]), _VALUES).map("".join), st.just(""), st.just("")
)
_ENDS = st.sampled_from(["\n", "\r", "\r\n"])
_STREAMS = st.lists(st.tuples(_LINES, _ENDS).map("".join), max_size=12).map("".join)


def read_whole(stream: str) -> tuple[list[Event], str | None]:
    """The standard's section 9.2.6, read once from the top. What follows the last line end is no line yet."""
    lines = re.split("\r\n|\r|\n", stream.removeprefix("\ufeff"))[:-1]
    events: list[Event] = []
    last: str | None = None
    data: list[str] = []
    kind, own = "", None
    for line in lines:
        if line == "":
            last = last if own is None else (own or None)
            if data:
                events.append(Event(kind or "message", "\n".join(data), own))
            data, kind, own = [], "", None
            continue
        name, value = line.split(":", 1) if ":" in line else (line, "")
        value = value[1:] if value.startswith(" ") else value
        if name == "data":
            data.append(value)
        elif name == "event":
            kind = value
        elif name == "id" and "\0" not in value:
            own = value
    return events, last


@given(_STREAMS, st.data())
def test_any_cut_of_the_bytes_gives_the_events_of_the_whole(stream: str, data: st.DataObject) -> None:
    raw = stream.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    parser = EventParser()
    events = [event for piece in pieces for event in parser.feed(piece)]
    assert (events, parser.last_event_id) == read_whole(stream)


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_no_bytes_upset_it(pieces: list[bytes]) -> None:
    parser, whole = EventParser(), EventParser()
    events = [event for piece in pieces for event in parser.feed(piece)]
    assert events == whole.feed(b"".join(pieces))


def test_our_own_events_are_read() -> None:
    parser = EventParser("7-7")
    said = b'retry: 2000\n\nid: 9-1\nevent: job.staged\ndata: {"jobId":"x"}\n\n: still here\n\n'
    said += b"event: progress\ndata: {}\n\n"
    events = parser.feed(said)
    assert [(event.type, event.id, event.payload) for event in events] == [
        ("job.staged", "9-1", {"jobId": "x"}),
        ("progress", None, {}),
    ]
    assert (parser.last_event_id, parser.retry_seconds) == ("9-1", 2.0)


def test_an_id_alone_is_where_to_go_on() -> None:
    parser = EventParser()
    assert parser.feed(b"id: 5-0\n\n") == []
    assert parser.last_event_id == "5-0"
