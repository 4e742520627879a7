"""The page of events: their types, who is told, and what each carries, as streams and webhooks send it.

Owns the reading of webhooks/registry.py (EVENT_TYPES) and of the payloads in database/functions. Used by
generate_reference.py.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

_WORDS = Path(__file__).with_name("reference_words.toml")
# Where the payload of a type is built: the function, in whose text the jsonb_build_object after `marker` is it.
PAYLOADS = {
    "job.": ("job_event_payload", ""),
    "batch.completed": ("complete_batches", "'batch.completed'"),
    "dead_letter.created": ("dead_letters_created", "'dead_letter.created'"),
    "budget.reached": ("park_budget", "'budget.reached'"),
    "alert.": ("alert_payload", ""),
}


def events_page(source: Path, note: str) -> str:
    """The page in Markdown. `source` is the package's folder."""
    from embedmill.core.jobs import JobStatus  # noqa: PLC0415 - after the path is set
    from embedmill.webhooks.registry import EVENT_TYPES  # noqa: PLC0415

    words = tomllib.loads(_WORDS.read_text(encoding="utf-8"))["event_types"]
    functions = "\n".join(
        path.read_text(encoding="utf-8") for path in sorted((source / "database" / "functions").glob("*.sql"))
    )
    told = [name for name in EVENT_TYPES if name != "test"]
    types = [*told, *(name for status in JobStatus if (name := f"job.{status.value}") not in told)]
    recorded = set(re.findall(r"record_event\([^;]*?'([a-z_]+\.[a-z_]+)'", functions, re.DOTALL))
    unknown = (set(types) | recorded) - set(words)
    stale = set(words) - set(types) - {"progress"}
    if unknown or stale:
        raise SystemExit(
            f"reference_words.toml: [event_types] lacks {', '.join(sorted(unknown)) or 'none'}, and has"
            f" {', '.join(sorted(stale)) or 'none'} that nothing tells"
        )
    lines = [
        "# Events",
        "",
        note,
        "",
        "What happened, in the order of its transactions: over [streams](../how-to/ingest-over-rest.md#follow-it) as",
        "server-sent events (`event:` is the type, `data:` the fields), over [webhooks](../how-to/webhooks.md) as",
        '`{"type": ..., "timestamp": ..., "data": {...}}`, signed.',
        "",
        "| Type | Webhooks | When | Fields |",
        "|---|---|---|---|",
    ]
    for name in types:
        fields = ", ".join(f"`{field}`" for field in payload_fields(name, functions))
        lines.append(f"| `{name}` | {'yes' if name in told else ''} | {words[name]} | {fields} |")
    lines += [
        f"| `progress` |  | {words['progress']} | the job, as `GET /api/v1/ingestion-jobs/{{jobId}}` has it |",
        "",
        'A webhook without event types is told of all that have "yes". `embedmill webhook test` sends one of the type',
        "`test`.",
        "",
    ]
    return "\n".join(lines)


def payload_fields(name: str, functions: str) -> list[str]:
    """The names of the fields, from the jsonb_build_object that makes the payload of this type."""
    for prefix, (function, marker) in PAYLOADS.items():
        if name == prefix or (prefix.endswith(".") and name.startswith(prefix)):
            begins = functions.find(f"FUNCTION embedmill.{function}(") if function else 0
            at = functions.find(marker, begins) if marker else begins
            at = functions.find("jsonb_build_object(", at) if min(begins, at) >= 0 else -1
            if at < 0:
                break
            return _keys(functions[at + len("jsonb_build_object(") :])
    raise SystemExit(f"reference_events.py: say in PAYLOADS where the payload of {name} is built")


def _keys(text: str) -> list[str]:
    """Every other argument of a call, up to its closing bracket."""
    depth, parts, begins, quoted = 1, [], 0, False
    for at, letter in enumerate(text):
        if letter == "'":
            quoted = not quoted
        if quoted:
            continue
        depth += (letter == "(") - (letter == ")")
        if (letter == "," and depth == 1) or depth == 0:
            parts.append(text[begins:at].strip())
            begins = at + 1
        if depth == 0:
            break
    return [part.strip("'") for part in parts[::2]]
