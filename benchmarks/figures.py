"""The marks by which a page says where a figure comes from. Owns what they mean and how they are filled in; which pages
there are, and what a figure without a mark looks like, stands in `claims.py`, the command in `report.py`.

Three marks, none of which is seen where the page is read:

- `0.70<!-- = writing / vector / ratio -->`, right behind a figure: of results/writing.json the one row that holds the
  value "vector", and of that its `ratio`. A value may be `column=value` where it would not be clear, and `*` is any
  ending; `writing / options / chunks` is an option of the run. In front may stand `lowest of` or `highest of` (several
  rows), or `percent of`; `A over B` divides. The page's own number of decimals stays.
- `<!-- table: ratelimit / steady | governor; used % as Used, % -->`: the rows as a table, down to
  `<!-- end of table -->`.
- `<!-- result: writing -->`: what the benchmark says that it measures, the command, the machine and the versions, down
  to `<!-- end of result -->`.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from decimal import ROUND_HALF_UP, Decimal
from fnmatch import fnmatchcase
from functools import cache, partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
Row = dict[str, Any]

NUMBER = r"(?<![\w.,])(?<![A-Za-z]-)-?\d+(?:,\d{3})*(?:\.\d+)?(?!\.\d)"
MARKED = re.compile(rf"(?P<shown>{NUMBER})?<!-- = (?P<address>.+?) -->")
TABLE = re.compile(
    r"(?P<begin><!-- table: (?P<address>[^|\n]+?)(?: \| (?P<columns>[^\n]+?))? -->\n)"
    r"(?P<body>.*?)(?P<end><!-- end of table -->)",
    re.DOTALL,
)
RESULT = re.compile(
    r"(?P<begin><!-- result: (?P<name>\S+) -->\n)(?P<body>.*?)(?P<end><!-- end of result -->)", re.DOTALL
)


class FigureError(Exception):
    """An address that leads to no figure, or to more than one."""


def filled(text: str) -> str:
    """The page with what the results say behind each mark. A mark that leads nowhere stays as it is."""
    for pattern, said_by in _KINDS:
        text = pattern.sub(partial(_or_as_it_is, said_by), text)
    return text


def wrong_marks(text: str) -> Iterator[tuple[int, str]]:
    """Marks that lead nowhere, and what does not say what its result says; each with its place in the text."""
    for pattern, said_by in _KINDS:
        for found in pattern.finditer(text):
            try:
                said = said_by(found)
            except FigureError as fault:
                yield found.start(), str(fault)
                continue
            if said != found[0]:
                right = f", {said.partition('<!--')[0]}" if pattern is MARKED else ""
                mark = found[0].splitlines()[0]
                yield found.start(), f"not as the result says{right} (python -m benchmarks.report): {mark}"


def value_at(expression: str) -> Decimal:
    """The number that an expression leads to; FigureError where it leads to none or to several."""
    above, over, below = expression.partition(" over ")
    if over:
        return value_at(above) / value_at(below)
    for words, pick in (("lowest of ", min), ("highest of ", max)):
        if expression.startswith(words):
            return pick(_values_at(expression.removeprefix(words)))
    if expression.startswith("percent of "):
        return 100 * value_at(expression.removeprefix("percent of "))
    values = _values_at(expression)
    if len(values) > 1:
        raise FigureError(
            f"{len(values)} rows answer to {expression!r}: name one, or say lowest or highest of"
        )
    return values[0]


def rows_at(address: str) -> list[Row]:
    """The rows of a result file that hold all the values that the address names."""
    name, *wanted = address.split(" / ")
    rows = [row for row in record_of(name)["rows"] if all(_holds(row, value) for value in wanted)]
    if not rows:
        raise FigureError(f"no row answers to {address!r}")
    return rows


@cache
def record_of(name: str) -> dict[str, Any]:
    """A result file, its numbers exact."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        raise FigureError(f"there is no result file {name}.json")
    record: dict[str, Any] = json.loads(path.read_text("utf-8"), parse_float=Decimal)
    return record


def shown(value: Decimal, places: int) -> str:
    """Rounded half up, as a person would, with commas between thousands."""
    return f"{value.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP):,}"


def at(holder: Row, key: str) -> Any:
    """What stands under a key, or under `key.inner` where that holds more."""
    if key in holder:
        return holder[key]
    outer, dot, inner = key.partition(".")
    return at(holder[outer], inner) if dot and isinstance(holder.get(outer), dict) else None


def table_of(rows: list[Row], columns: list[tuple[str, str]]) -> str:
    """A Markdown table; columns are keys with their headings, and figures stand to the right."""
    is_figure = [all(isinstance(at(row, key) or 0, int | Decimal) for row in rows) for key, _ in columns]
    lines = [
        "| " + " | ".join(heading for _, heading in columns) + " |",
        "|" + "".join("--:|" if figure else "---|" for figure in is_figure),
    ]
    lines += ["| " + " | ".join(_cell(at(row, key)) for key, _ in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _or_as_it_is(said_by: Callable[[re.Match[str]], str], found: re.Match[str]) -> str:
    try:
        return said_by(found)
    except FigureError:
        return found[0]


def _figure(found: re.Match[str]) -> str:
    if found["shown"] is None:
        raise FigureError(f"no figure stands right before the mark {found['address']!r}")
    places = len(found["shown"].partition(".")[2])
    return f"{shown(value_at(found['address']), places)}<!-- = {found['address']} -->"


def _table(found: re.Match[str]) -> str:
    rows = rows_at(found["address"])
    if found["columns"]:
        pairs = [column.partition(" as ") for column in found["columns"].split("; ")]
        columns = [(key, heading or key) for key, _, heading in pairs]
        unknown = [key for key, _ in columns if all(at(row, key) is None for row in rows)]
        if unknown:
            raise FigureError(f"the rows of {found['address']!r} have no {unknown}")
    else:
        columns = [(key, key) for key in dict.fromkeys(key for row in rows for key in row)]
    return found["begin"] + table_of(rows, columns) + found["end"]


def _result(found: re.Match[str]) -> str:
    record = record_of(found["name"])
    machine = record["machine"]
    options = {key: value for key, value in record["options"].items() if value not in ({}, [], None)}
    facts = (
        f"`{record['command'].strip()}` ([its result](results/{found['name']}.json))",
        f"{_cell(options)}" if options else "no options",
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}; "
        f"load {machine['load_before']} before; commit {machine['commit']}",
        f"Python {machine['python']}, {_cell(machine['versions'])}",
    )
    return (
        found["begin"]
        + f"{_docstring(found['name'])}\n\n"
        + "".join(f"- {fact}\n" for fact in facts)
        + found["end"]
    )


def _docstring(name: str) -> str:
    """What the benchmark says that it measures: the first paragraph of its module or package."""
    folder = ROOT / "benchmarks"
    for path in (folder / f"{name}.py", folder / name / "__main__.py", folder / name / "__init__.py"):
        if path.is_file() and (words := ast.get_docstring(ast.parse(path.read_text("utf-8")))):
            return words.partition("\n\n")[0]
    raise FigureError(f"no benchmark {name} says what it measures")


def _values_at(address: str) -> list[Decimal]:
    """The numbers under the last word of an address."""
    where, _, key = address.rpartition(" / ")
    name, _, part = where.partition(" / ")
    holders = [record_of(name)[part]] if part in ("options", "machine") else rows_at(where)
    values = [value for holder in holders if isinstance(value := at(holder, key), int | Decimal)]
    if not values:
        raise FigureError(f"no figure {key!r} in {where!r}")
    return [Decimal(value) for value in values]


def _holds(row: Row, wanted: str) -> bool:
    """`column=value`, or a value alone, which any column may have."""
    column, equals, value = wanted.partition("=")
    if equals and column in row:
        return _is(row[column], value)
    return any(_is(value, wanted) for value in row.values())


def _is(value: object, wanted: str) -> bool:
    if isinstance(value, dict | list):
        return False
    written = {str(value)} | ({f"{value:,}"} if isinstance(value, int | Decimal) else set())
    return any(fnmatchcase(text, wanted) if "*" in wanted else text == wanted for text in written)


def _cell(value: object) -> str:
    if isinstance(value, Decimal):
        return f"{value if value == round(value, 4) else round(value, 4):,}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, dict):
        parts = {
            key: f"({_cell(part)})" if isinstance(part, dict) else _cell(part) for key, part in value.items()
        }
        return ", ".join(f"{key} {part}" for key, part in parts.items())
    if isinstance(value, list):
        return " and ".join(_cell(part) for part in value)
    return "" if value is None else str(value).replace("|", "\\|")


_KINDS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (MARKED, _figure),
    (TABLE, _table),
    (RESULT, _result),
)
