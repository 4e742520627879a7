"""The page of the REST API, read from the application's own description and from its code.

Owns the page's layout and the making of examples; used by generate_reference.py. Least roles come from the endpoints'
dependencies, error codes from where they are raised. A code without a meaning in reference_words.toml, or a meaning
without a code, stops it.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_WORDS = Path(__file__).with_name("reference_words.toml")
_PROBLEM = re.compile(r"\bProblem\(\s*(\d{3}),\s*\"(\w+)\"")
_FORM = re.compile(r"FormError\(\s*\"(\w+)\"((?:(?!FormError\().)*?)\)\s*(?:from|\n)", re.DOTALL)
_COUNT = re.compile(r"_check_count\(\"(\w+)\"")  # raises too_many_files and the like
_PREFIX = "/api/v1"
_REF = "#/components/schemas/"
Schema = dict[str, Any]


def rest_page(source: Path, note: str) -> str:
    """The page in Markdown. `source` is the package's folder."""
    from embedmill.api.application import build_application  # noqa: PLC0415 - after the path is set
    from embedmill.settings import Settings  # noqa: PLC0415

    # Describing needs no database, only the limits of the settings.
    application = build_application(SimpleNamespace(settings=Settings()), needs_keys=True)  # type: ignore[arg-type]
    roles = _least_roles(source)
    description = application.openapi()
    words = tomllib.loads(_WORDS.read_text(encoding="utf-8"))
    schemas: dict[str, Schema] = description["components"]["schemas"]
    lines = ["# REST API", "", note, "", *_INTRODUCTION]
    tag = None
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            if operation["tags"][0] != tag:
                tag = operation["tags"][0]
                lines += [f"## {tag.capitalize()}", ""]
            lines += _endpoint(method.upper(), path, operation, roles.get((method.upper(), path)), words)
    lines += [
        "## Shapes",
        "",
        "`null` stands where a field has no value; fields are always there in answers.",
        "",
    ]
    for name in sorted(schemas):
        lines += _shape(name, schemas, words)
    lines += _errors(source, words["codes"])
    return "\n".join(lines)


_INTRODUCTION = [
    "What `embedmill up` answers, by default on `http://127.0.0.1:8080`. The same as OpenAPI: `/openapi.json`.",
    "",
    "- **Who asks:** `Authorization: Bearer em_...` (or `X-API-Key: em_...`). The key says the tenant and the role:",
    "  a `writer` may all that a `reader` may, an `admin` all. Without any key in the database, requests from this",
    "  machine are the admin's of `EMBEDMILL_TENANT`. What is another tenant's is not found.",
    "- **Lists** have `nextCursor`; sent as `cursor` it gives the next page, `null` is the end.",
    "- **Errors** are problems of RFC 9457 (`application/problem+json`) with a stable `code`: [below](#errors). Those",
    "  that pass by themselves have `Retry-After`.",
    "- **Streams** are server-sent events. Each event has an id; a stream that is opened with `Last-Event-ID` goes on",
    "  behind it, for seven days back. `progress` is a picture of the moment and has none.",
    "- Times are UTC, costs US dollars; a cost of `null` is unknown, not nothing. Unknown fields are refused.",
    "",
]


def _least_roles(source: Path) -> dict[tuple[str, str], str]:
    """The role that each endpoint asks for: what its dependency was made with (api/service.py: admit)."""
    roles: dict[tuple[str, str], str] = {}
    for path in sorted((source / "api").glob("*.py")):
        module = importlib.import_module(f"embedmill.api.{path.stem}")
        for route in getattr(getattr(module, "router", None), "routes", ()):
            for dependency in route.dependant.dependencies:
                least = inspect.getclosurevars(dependency.call).nonlocals.get("least")
                if least is not None:
                    roles |= {
                        (method, f"{_PREFIX}{route.path_format}"): least.value for method in route.methods
                    }
    return roles


def _endpoint(method: str, path: str, operation: Schema, role: str | None, words: Schema) -> list[str]:
    if role is None and path.startswith(_PREFIX):
        raise SystemExit(f"reference_rest.py finds no role that {method} {path} asks for")
    lines = [f"### {method} {path}", "", *_paragraphs(operation["description"])]
    lines += [f"Least role: `{role}`." if role else "Open to everybody.", ""]
    parameters = operation.get("parameters", [])
    if parameters:
        lines += ["| Parameter | In | Value | Meaning |", "|---|---|---|---|"]
        lines += [
            _row(
                f"`{one['name']}`" + (", required" if one.get("required") and one["in"] != "path" else ""),
                one["in"],
                _value(one["schema"]),
                _said(one, one["name"], words, default=one["schema"].get("default")),
            )
            for one in parameters
        ] + [""]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content["schema"]
        if "properties" not in schema:
            may = "" if operation["requestBody"].get("required") else "; it may be left out"
            lines += [f"Body, `{kind}`: {_value(schema)}{may}.", ""]
        else:
            lines += [f"Body, `{kind}`:", "", *_fields(schema, words, with_defaults=True)]
    for status, answer in operation["responses"].items():
        content = answer.get("content", {})
        if int(status) < 300 or "application/problem+json" not in content:
            shape = next((_value(one["schema"]) for one in content.values()), "")
            stream = " (`text/event-stream`)" if "text/event-stream" in content else ""
            lines += [
                f"Answers {status}" + (f": {'events' if stream else shape}{stream}." if content else "."),
                "",
            ]
    refusals = [
        s for s, a in operation["responses"].items() if "application/problem+json" in a.get("content", {})
    ]
    if refusals:
        lines += [f"Problems: {', '.join(refusals)}.", ""]
    return lines


def _shape(name: str, schemas: dict[str, Schema], words: Schema) -> list[str]:
    schema = schemas[name]
    lines = [f"### {name}", "", *_paragraphs(schema.get("description", ""))]
    if "properties" not in schema:
        return [*lines, f"One of {_value(schema)}.", ""]
    example = json.dumps(_example(schema, schemas), indent=2, ensure_ascii=False)
    return [*lines, *_fields(schema, words), "```json", example, "```", ""]


def _fields(schema: Schema, words: Schema, *, with_defaults: bool = False) -> list[str]:
    required = set(schema.get("required", []))
    rows = []
    for name, field in schema["properties"].items():
        said = _said(field, name, words, default=field.get("default") if with_defaults else None)
        rows.append(
            _row(
                f"`{name}`" + (", required" if with_defaults and name in required else ""),
                _value(field),
                said,
            )
        )
    return ["| Field | Value | Meaning |", "|---|---|---|", *rows, ""]


def _said(field: Schema, name: str, words: Schema, *, default: Any) -> str:
    # A shape of its own says itself what it is.
    said = field.get("description") or ("" if "$ref" in field else words["rest"].get(name, ""))
    return said if default in (None, {}, []) else f"{said} Default: `{json.dumps(default)}`.".strip()


def _value(schema: Schema) -> str:  # noqa: PLR0911 - a table
    """What values there may be, in words."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_REF)
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join("null" if one.get("type") == "null" else _value(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    match schema.get("type"), schema.get("format"):
        case "string", "uuid":
            return "UUID"
        case "string", "date-time":
            return "time"
        case "string", "binary":
            return "bytes"
        case "string", _:
            most = schema.get("maxLength")
            return "text" if most is None else f"text to {most:,} characters"
        case ("integer" | "number") as kind, _:
            word = "whole number" if kind == "integer" else "number"
            least, most = schema.get("minimum"), schema.get("maximum")
            if least is not None and most is not None and most < 2**31 - 2:
                return f"{word}, {least:,g} to {most:,.0f}"
            return word
        case "boolean", _:
            return "true or false"
        case "array", _:
            return f"list of {_value(schema['items'])}"
        case "object", _:
            return "object"
    return "any"


def _example(schema: Schema, schemas: dict[str, Schema]) -> Any:  # noqa: PLR0911
    """A value that fits: that of the description where it has one, else one of its kind."""
    if schema.get("examples"):
        return schema["examples"][0]
    if "$ref" in schema:
        return _example(schemas[schema["$ref"].removeprefix(_REF)], schemas)
    if "anyOf" in schema:
        return None if any(one.get("type") == "null" for one in schema["anyOf"]) else _example(
            schema["anyOf"][0], schemas)  # fmt: skip
    if "enum" in schema:
        return schema["enum"][0]
    if "properties" in schema:
        return {key: _example(field, schemas) for key, field in schema["properties"].items()}
    match schema.get("type"):
        case "array":
            return [_example(schema["items"], schemas)]
        case "object":
            return {}
        case "boolean":
            return False
        case "integer" | "number":
            return 0
    by_format = {"uuid": "7d0b3f0e-5a3e-4c9e-9a52-0f2f0a1d2c3b", "date-time": "2026-11-22T11:42:11Z"}
    return by_format.get(schema.get("format", ""), "text")


def _errors(source: Path, meanings: dict[str, str]) -> list[str]:
    """Every code that the code raises, with the statuses that it comes with."""
    found: dict[str, set[int]] = {}
    for path in sorted((source / "api").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        for status, code in _PROBLEM.findall(text):
            found.setdefault(code, set()).add(int(status))
        for code, rest in _FORM.findall(text):
            said = re.search(r"status=(\d{3})", rest)
            found.setdefault(code, set()).add(int(said[1]) if said else 400)
        for what in _COUNT.findall(text):
            found.setdefault(f"too_many_{what}", set()).add(413)
        table = re.search(r"^_CODES = \{(.*?)^\}", text, re.MULTILINE | re.DOTALL)
        for status, code in re.findall(r"(\d{3}): \"(\w+)\"", table[1]) if table else ():
            found.setdefault(code, set()).add(int(status))
    unsaid, unused = sorted(set(found) - set(meanings)), sorted(set(meanings) - set(found))
    if unsaid or unused:
        raise SystemExit(
            f"scripts/{_WORDS.name}: [codes] lacks {', '.join(unsaid) or 'none'}, "
            f"and has {', '.join(unused) or 'none'} that nothing raises"
        )
    rows = [
        _row(f"`{code}`", ", ".join(map(str, sorted(statuses))), meanings[code])
        for code, statuses in sorted(found.items())
    ]
    return [
        "## Errors",
        "",
        "| Code | Status | Meaning |",
        "|---|---|---|",
        *rows,
        "",
        "A file that cannot be read is no error of the request: its job is `failed`, with `errorStage` and",
        "`errorMessage`. Where it is the only file of a request and larger than allowed, the request is refused: 413,",
        "`too_large`.",
        "",
    ]


def _paragraphs(text: str) -> list[str]:
    return [line for part in text.split("\n\n") if part.strip() for line in (" ".join(part.split()), "")]


def _row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
