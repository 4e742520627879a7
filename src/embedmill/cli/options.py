"""Options that several commands share, and the reading of their values. Owns their names and words."""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import Any

import click

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
pipeline_name = click.option("--pipeline", "-p", default="default", show_default=True, help="Which pipeline.")


class JsonObject(click.ParamType[dict[str, Any]]):
    """A JSON object on the command line."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        try:
            found = json.loads(value)
        except ValueError as error:
            self.fail(f"this is no JSON: {error}", param, ctx)
        if not isinstance(found, dict):
            self.fail('a JSON object is wanted, such as {"lang": "en"}', param, ctx)
        return found


class Usd(click.ParamType[Decimal]):
    """An amount of US dollars, 0 or more."""

    name = "usd"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        try:
            amount = Decimal(str(value))
        except InvalidOperation:
            self.fail(f"{value!r} is no number of US dollars", param, ctx)
        if not amount.is_finite() or amount < 0:
            self.fail("a price is 0 or more", param, ctx)
        return amount
