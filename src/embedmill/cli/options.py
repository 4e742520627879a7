"""Options that several commands share, and the reading of their values. Owns their names and words."""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from embedmill.queue.sharing import Limit

_LARGEST_LIMIT = 2_000_000_000
_MOST_DIGITS = 6
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Text(click.ParamType[str]):
    """Text that a database can hold: what is no UTF-8 comes from the shell as lone surrogates."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail(f"{text!r} is no UTF-8", param, ctx)
        return text


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


class LimitPerMinute(click.ParamType["Limit"]):
    """A limit of a quota."""

    name = "number|unlimited|default"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Limit:
        text = str(value).strip().lower()
        if text == "unlimited":
            return "unlimited"
        if text == "default":
            return "default"
        if not (text.isascii() and text.isdecimal() and 1 <= int(text[:11]) <= _LARGEST_LIMIT):
            self.fail(f"a number from 1 to {_LARGEST_LIMIT}, unlimited or default, not {value!r}", param, ctx)
        return int(text)


class Duration(click.ParamType[float]):
    """Seconds, said as 90s, 10m, 2h or 1d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip().lower()
        number, unit = (text[:-1], text[-1]) if text and text[-1] in _UNITS else (text, "")
        if not unit or not number.isascii() or not number.isdecimal() or len(number) > _MOST_DIGITS:
            self.fail(f"a time such as 90s, 10m, 2h or 1d, not {value!r}", param, ctx)
        return float(int(number) * _UNITS[unit])
