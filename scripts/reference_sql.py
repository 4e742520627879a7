"""The page of the SQL interface: what users and their programs call and read, with who may and what it raises.

Owns which functions are public: those of 60_public.sql and of PUBLIC_ELSEWHERE. A function of 60_public.sql that is
neither shown nor named in words [internal] is a fault, and so is one without a comment. Used by generate_reference.py.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from reference_tables import FUNCTION, sentence

PUBLIC_FILE = "60_public.sql"
PUBLIC_ELSEWHERE = {
    "80_source_views.sql": ("search", "make_source_view"),
    "50_quotas.sql": ("grant_quota",),
    "37_explaining.sql": ("explain_item",),
}
_WORDS = Path(__file__).with_name("reference_words.toml")
_STATE = re.compile(r"ERRCODE = '(EM\w{3})'")
_SNAPSHOT = re.compile(r"^function (?P<name>\w+)\([^\n]*\n(?P<body>(?:    [^\n]*\n)+)", re.MULTILINE)


@dataclass(frozen=True)
class Function:
    """`said` is the comment above it; `takes` one argument an entry; `roles` who may call it."""

    name: str
    takes: tuple[str, ...]
    gives: str
    said: str
    roles: tuple[str, ...]


def sql_page(database: Path, note: str) -> str:
    """The page in Markdown. `database` is the folder of functions and of schema.txt."""
    words = tomllib.loads(_WORDS.read_text(encoding="utf-8"))
    texts = {path.name: path.read_text(encoding="utf-8") for path in (database / "functions").glob("*.sql")}
    rights = _rights((database / "schema.txt").read_text(encoding="utf-8"))
    lines = [
        "# SQL",
        "",
        note,
        "",
        "What your own SQL, an ORM, or a worker in another language may rely on: names, arguments and columns stay",
        "from release to release. Everything stands in the schema `embedmill`. Functions that are not on this page are",
        "embedmill's own ([all of them](tables.md#functions)) and may change.",
        "",
        "## Views",
        "",
        "| View | Rows |",
        "|---|---|",
        "| [`embeddings_PIPELINE`](tables.md#embeddings_pipeline) | a chunk with its document and its vector in the"
        " current generation |",
        "| [`TABLE_embedded`](tables.md#table_embedded) | a chunk of a row of your table: the table's own columns"
        " beside the vector |",
        *_views(texts),
        "",
        "## Search, and looking",
        "",
    ]
    for file, names in PUBLIC_ELSEWHERE.items():
        made = {found["name"] for found in FUNCTION.finditer(texts[file])}
        for name in names:
            if name not in made:
                raise SystemExit(
                    f"reference_sql.py: {file} no longer holds {name}: it is public, and may not go"
                )
        for function in functions_of(texts[file], rights, names):
            lines += _section(function)
    lines += [
        "## Workers in any language",
        "",
        "[How they go together](../how-to/write-a-worker-in-any-language.md); "
        "[a whole worker in plain SQL](../../examples/sql_worker.sql).",
        "",
    ]
    internal = words["internal"]
    for function in functions_of(texts[PUBLIC_FILE], rights):
        if function.name not in internal:
            lines += _section(function)
    _no_stale_word(internal, texts[PUBLIC_FILE])
    lines += _states(texts, words["sqlstates"])
    lines += [
        "## Who sees what",
        "",
        "Every table that holds a tenant's rows has row-level security, forced. The owner of the schema is held to it",
        "as well, unless no tenant is named. `embedmill_reader` and `embedmill_service` see the rows of one tenant:",
        "",
        "```sql",
        "SELECT set_config('embedmill.tenant_id', '1', false);   -- false: for the session; true: for the transaction",
        "```",
        "",
        "Behind PostgREST and Supabase the tenant is the claim of the token ([more](../how-to/supabase.md)).",
        "",
    ]
    return "\n".join(lines)


def functions_of(text: str, rights: dict[str, tuple[str, ...]], only: tuple[str, ...] = ()) -> list[Function]:
    """The functions that a file makes, in their order, or `only` those. Raises SystemExit for one that nothing
    explains."""
    # What stands at the head of a file is said of its first function, where that has no words of its own.
    head = re.match(r"(?:--[^\n]*\n)*", text)
    found: list[Function] = []
    for place, match in enumerate(FUNCTION.finditer(text)):
        if only and match["name"] not in only:
            continue
        name, said = match["name"], sentence(match["said"] or (head[0] if head and place == 0 else ""))
        if not said:
            raise SystemExit(f"{name} has no comment: say above it what it does")
        if name not in rights:
            raise SystemExit(f"schema.txt does not know {name}: python scripts/snapshot_schema.py first")
        found.append(
            Function(name, _arguments(match["takes"]), _returned(match["gives"]), said, rights[name])
        )
    return found


def _section(function: Function) -> list[str]:
    takes = ",\n".join(f"    {argument}" for argument in function.takes)
    call = (
        f"{function.name}(\n{takes}\n)"
        if len(function.takes) > 2
        else f"{function.name}({', '.join(function.takes)})"
    )
    who = (
        "everybody who may use the schema"
        if "public" in function.roles
        else ", ".join(f"`{role}`" for role in function.roles)
    )
    return [
        f"### {function.name}",
        "",
        "```sql",
        f"embedmill.{call} RETURNS {function.gives}",
        "```",
        "",
        function.said,
        "",
        f"May be called by: {who or 'the owner of the schema'}.",
        "",
    ]


def _views(texts: dict[str, str]) -> list[str]:
    """Views that stand in the functions' files, with their comments."""
    rows = []
    view = re.compile(
        r"^(?P<said>(?:--[^\n]*\n)+)CREATE OR REPLACE VIEW embedmill\.(?P<name>\w+)", re.MULTILINE
    )
    for _, text in sorted(texts.items()):
        rows += [
            f"| `{found['name']}` | {sentence(found['said']).replace('|', chr(92) + '|')} |"
            for found in view.finditer(text)
        ]
    return rows


def _states(texts: dict[str, str], words: dict[str, str]) -> list[str]:
    raised = set(_STATE.findall("".join(texts.values())))
    if raised != set(words):
        raise SystemExit(
            f"reference_words.toml: [sqlstates] lacks {', '.join(sorted(raised - set(words))) or 'none'}, and has"
            f" {', '.join(sorted(set(words) - raised)) or 'none'} that nothing raises"
        )
    lines = ["## SQLSTATEs of embedmill's own", "", "| SQLSTATE | Meaning |", "|---|---|"]
    return [*lines, *(f"| `{state}` | {words[state]} |" for state in sorted(raised)), ""]


def _rights(snapshot: str) -> dict[str, tuple[str, ...]]:
    """Who may call each function, as a fresh install has it."""
    rights: dict[str, tuple[str, ...]] = {}
    for found in _SNAPSHOT.finditer(snapshot):
        roles = re.findall(r"^    grant execute to (\w+)$", found["body"], re.MULTILINE)
        rights[found["name"]] = (*rights.get(found["name"], ()), *roles)
    return rights


def _arguments(text: str) -> tuple[str, ...]:
    """Split at the commas that stand in no brackets."""
    parts, depth, begins = [], 0, 0
    plain = " ".join(re.sub(r"--[^\n]*", "", text).split())
    for at, letter in enumerate(plain):
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append(plain[begins:at].strip())
            begins = at + 1
    last = plain[begins:].strip()
    return (*parts, last) if last else tuple(parts)


def _returned(text: str | None) -> str:
    """On one line, or, of a table, a column a line."""
    plain = " ".join(re.sub(r"--[^\n]*", "", text or "record").split())
    table = re.fullmatch(r"TABLE ?\((.*)\)", plain)
    if table is None:
        return plain
    columns = ",\n".join(f"    {column}" for column in _arguments(table[1]))
    return f"TABLE (\n{columns}\n)"


def _no_stale_word(internal: dict[str, str], text: str) -> None:
    for name in internal:
        if f"FUNCTION embedmill.{name}" not in text:
            raise SystemExit(f"reference_words.toml: [internal] has {name}, which {PUBLIC_FILE} does not")
