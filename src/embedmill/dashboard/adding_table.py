"""The pages on which a table is added, or read otherwise. Owns the form, its preview, and at which field a refusal is
told. For operators only: whoever chooses a table, its columns and a condition may read every row of the database, other
tenants' tables included, and puts triggers on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from embedmill.dashboard.form_reading import FormReading
from embedmill.dashboard.pages import redirect, show
from embedmill.dashboard.source_reading import find_facts, find_table_source
from embedmill.dashboard.source_words import without_options
from embedmill.dashboard.visitors import Operator, Visitor
from embedmill.database.pipelines import Pipeline, find_pipeline, list_pipelines
from embedmill.errors import EmbedmillError, NotFoundError
from embedmill.sources.table_changes import TableAlteration, alter_table
from embedmill.sources.table_choices import (
    RowPreview,
    TableLook,
    list_table_choices,
    look_at_table,
    preview_row,
)
from embedmill.sources.table_plans import Relation, TablePlan, find_relation
from embedmill.sources.tables import TableSource, add_table
from embedmill.sources.template import Template

router = APIRouter()
_MOST_TABLES = 200
_PATIENCE_SECONDS = 10.0
PRIORITIES = ("medium", "high", "low")
# Which field a refusal of check_plan is about, by words that only it has; in this order.
_FIELDS = (
    ("template", ("--content", "the template")),
    ("columns", ("--columns", "column is heeded")),
    ("metadata", ("--metadata",)),
    ("condition", ("--where",)),
    (
        "target_column",
        (
            "to write vectors into",
            "vectors of the pipeline",
            "hold the vectors",
            "write vectors",
            "into column",
        ),
    ),
    ("key", ("primary key", "unique index", "tells its rows apart")),
    ("pipeline", ("is in the pipeline",)),
)


@router.get("/sources/add")
async def adding_page(
    request: Request, visitor: Operator, table: str = "", pipeline: str = "", q: str = ""
) -> Response:
    """Choose a table; with one chosen, say how it is to be read."""
    if not table.strip():
        return await _show_choices(request, visitor, q.replace("\x00", "").strip()[:255])
    form = FormReading({"table": [table], "pipeline": [pipeline] if pipeline else []})
    return await _show_form(request, visitor, form, is_new=True)


@router.post("/sources/add")
async def add(request: Request, visitor: Operator) -> Response:
    """Add it, or show how its first row would read."""
    form = await FormReading.of(request)
    if form.value("act") == "preview":
        return await _show_form(request, visitor, form, is_new=False)
    try:
        pipeline = await _pipeline(visitor, form)
        plan = _plan(form)
        if form.errors:
            return await _show_form(request, visitor, form, is_new=False, status=422)
        added = await add_table(
            visitor.service.operator,
            pipeline,
            form.value("table"),
            plan,
            backfills=not form.has("no_backfill", "1"),
            actor=visitor.actor,
            patience_seconds=_PATIENCE_SECONDS,
        )
    except EmbedmillError as error:
        refuse(form, error)
        return await _show_form(request, visitor, form, is_new=False, status=422)
    said = f"{added.source.name} is added; {added.source.rows or 0:,} rows are to be embedded."
    return redirect(f"/sources/{added.source.id}", " ".join([said, *added.notes]))


@router.get("/sources/{source_id:int}/change")
async def change_page(request: Request, visitor: Operator, source_id: int) -> Response:
    table = await find_table_source(visitor, await find_facts(visitor, source_id))
    return await _show_form(request, visitor, _as_form(table), is_new=False, table=table)


@router.post("/sources/{source_id:int}/change")
async def change(request: Request, visitor: Operator, source_id: int) -> Response:
    """Read a table otherwise. What comes out the same is not paid for again."""
    table = await find_table_source(visitor, await find_facts(visitor, source_id))
    form = await FormReading.of(request)
    if form.value("act") == "preview":
        return await _show_form(request, visitor, form, is_new=False, table=table)
    plan = _plan(form)
    if form.errors:
        return await _show_form(request, visitor, form, is_new=False, status=422, table=table)
    alteration = TableAlteration(
        template=plan.template,
        columns=plan.columns or (),
        condition=plan.condition or "",
        metadata_columns=plan.metadata_columns,
        key=plan.key,
        target_column=plan.target_column,
        priority=plan.priority,
        rereads=form.has("rereads", "1"),
    )
    try:
        pipeline = await find_pipeline(visitor.service.operator, visitor.tenant_id, table.pipeline)
        altered = await alter_table(
            visitor.service.operator,
            pipeline,
            table,
            alteration,
            actor=visitor.actor,
            patience_seconds=_PATIENCE_SECONDS,
        )
    except EmbedmillError as error:
        refuse(form, error)
        return await _show_form(request, visitor, form, is_new=False, status=422, table=table)
    return redirect(f"/sources/{source_id}", " ".join(["Changed.", *altered.notes]))


def refuse(form: FormReading, error: EmbedmillError) -> None:
    """Tell a refusal at the field that it is about."""
    message = str(error)
    field = next((name for name, words in _FIELDS if any(word in message for word in words)), "")
    form.refuse(field, without_options(message))


def _plan(form: FormReading) -> TablePlan:
    template = form.paragraphs("template")
    if template is None:
        form.refuse("template", "say what is embedded of a row, such as $title")
    target = form.text("target_column") if form.choice("into", ("chunks", "column")) == "column" else None
    if target is None and form.value("into") == "column":
        form.refuse("target_column", "name the column that the vectors are written into")
    return TablePlan(
        template=template or "",
        columns=tuple(form.several("columns")) or None,
        condition=form.text("condition"),
        metadata_columns=tuple(form.several("metadata")),
        key=_key(form),
        target_column=target,
        adopts=target is not None and form.has("adopts", "1"),
        priority=form.choice("priority", PRIORITIES),
    )


def _as_form(table: TableSource) -> FormReading:
    """The form as it would have been filled in."""
    return FormReading(
        {
            "template": [table.template],
            # None ticked are those of the template, whatever it becomes.
            "columns": []
            if set(table.columns) == set(Template(table.template).fields)
            else list(table.columns),
            "condition": [table.condition or ""],
            "metadata": list(table.metadata_columns),
            "key": [_key_value(table.key_columns)],
            "into": ["column" if table.target_column else "chunks"],
            "target_column": [table.target_column or ""],
            "priority": [table.priority],
        }
    )


async def _pipeline(visitor: Visitor, form: FormReading) -> Pipeline:
    """The one that was chosen, else the first. Raises NotFoundError."""
    name = form.text("pipeline")
    known = await list_pipelines(visitor.service.operator, visitor.tenant_id)
    if name is None and known:
        return next((each for each in known if each.name == "default"), known[0])
    return await find_pipeline(visitor.service.operator, visitor.tenant_id, name or "default")


async def _show_choices(request: Request, visitor: Visitor, name: str) -> Response:
    async def load() -> Mapping[str, Any]:
        found = await list_table_choices(
            visitor.service.operator, visitor.tenant_id, name=name, limit=_MOST_TABLES + 1
        )
        return {
            "choices": found[:_MOST_TABLES],
            "are_more": len(found) > _MOST_TABLES,
            "q": name,
            "pipelines": await list_pipelines(visitor.database, visitor.tenant_id),
        }

    return await show(request, visitor, "table_choosing.html", load)


async def _show_form(
    request: Request,
    visitor: Visitor,
    form: FormReading,
    *,
    is_new: bool,
    status: int = 200,
    table: TableSource | None = None,
) -> Response:
    """The form, with a preview of the first row. `is_new`: nothing was typed yet; `table`: it is changed, not added."""
    database = visitor.service.operator
    relation = await find_relation(database, table.name if table else form.value("table"))
    look = await look_at_table(database, relation)
    if is_new:
        form = FormReading(
            {
                "table": [relation.name],
                "pipeline": [form.value("pipeline")],
                "template": [look.suggested_template],
            }
        )
    pipelines = await list_pipelines(database, visitor.tenant_id)
    if not pipelines:
        raise NotFoundError(
            "there is no pipeline yet: the first upload makes one, or `embedmill pipeline create` does"
        )
    pipeline = next(
        (each for each in pipelines if each.name == (table.pipeline if table else form.value("pipeline"))),
        next((each for each in pipelines if each.name == "default"), pipelines[0]),
    )
    shown, problem = await _preview(visitor, pipeline, relation, form)

    async def load() -> Mapping[str, Any]:
        return {
            "here": f"/sources/{table.id}/change" if table else f"/sources/add?table={relation.name}",
            "form": form,
            "table": table,
            "relation": relation,
            "look": look,
            "pipeline_options": [(each.name, each.name) for each in pipelines],
            "pipeline": pipeline,
            "targets": [column.name for column in look.columns if column.holds(pipeline)],
            "key_options": _key_options(look),
            "preview": shown,
            "preview_problem": problem,
        }

    return await show(request, visitor, "table_form.html", load, status=status)


def _key(form: FormReading) -> tuple[str, ...] | None:
    """The key that was chosen; None: the primary key."""
    chosen = form.text("key")
    if chosen is None:
        return None
    try:
        return msgspec.json.decode(chosen, type=tuple[str, ...])
    except msgspec.DecodeError:
        form.refuse("key", "choose a key of the list")
        return None


def _key_value(columns: Sequence[str]) -> str:
    return msgspec.json.encode(list(columns)).decode()


def _key_options(look: TableLook) -> Sequence[tuple[str, str]]:
    return [(_key_value(key), ", ".join(key)) for key in look.keys]


async def _preview(
    visitor: Visitor, pipeline: Pipeline, relation: Relation, form: FormReading
) -> tuple[RowPreview | None, str]:
    """How the first row reads, or why that cannot be told."""
    typed = FormReading({name: form.several(name) for name in ("columns", "metadata")})
    asked = TablePlan(
        template=form.paragraphs("template") or "",
        columns=tuple(typed.several("columns")) or None,
        condition=form.text("condition"),
        metadata_columns=tuple(typed.several("metadata")),
        key=_key(form),
    )
    try:
        return await preview_row(visitor.service.operator, pipeline, relation, asked), ""
    except EmbedmillError as error:
        return None, without_options(str(error))
