"""Reads what a person typed into a form, and keeps what is wrong with it beside each field. Owns the reading; must not
know what a field is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation

from fastapi import Request

_LONGEST = 100_000
_LONGEST_MESSAGE = 1_000


class FormReading:
    """The fields of one form. `errors` by field; '' is that of the form as a whole. What is missing is ''."""

    def __init__(self, values: Mapping[str, Sequence[str]] | None = None) -> None:
        self._values = {name: list(several) for name, several in (values or {}).items()}
        self.errors: dict[str, str] = {}

    @classmethod
    async def of(cls, request: Request) -> FormReading:
        """What was sent; files are left out."""
        sent = await request.form()
        values: dict[str, list[str]] = {}
        for name, value in sent.multi_items():
            if isinstance(value, str):
                values.setdefault(name, []).append(value)
        return cls(values)

    def value(self, name: str, default: str = "") -> str:
        """As it was typed."""
        several = self._values.get(name)
        return several[-1] if several else default

    def has(self, name: str, value: str) -> bool:
        """Whether a box, or one of several, was ticked."""
        return value in self._values.get(name, [])

    def several(self, name: str) -> list[str]:
        """All values of a field, without empty ones."""
        return [value for value in self._values.get(name, []) if value.strip() and self._is_text(name, value)]

    def error(self, name: str) -> str:
        return self.errors.get(name, "")

    def refuse(self, name: str, message: str) -> None:
        """The first fault of a field is told."""
        self.errors.setdefault(name, message[:_LONGEST_MESSAGE])

    def text(self, name: str) -> str | None:
        """Without blanks around it; None where nothing is left, or it cannot be."""
        typed = self.value(name).strip()
        return typed if typed and self._is_text(name, typed) else None

    def paragraphs(self, name: str) -> str | None:
        """Of a text area: its lines end as they do everywhere else."""
        typed = self.value(name).replace("\r\n", "\n")
        return typed if typed.strip() and self._is_text(name, typed) else None

    def choice(self, name: str, allowed: Sequence[str]) -> str:
        """One of these; the first where nothing was chosen."""
        chosen = self.value(name) or allowed[0]
        if chosen not in allowed:
            self.refuse(name, f"choose one of {', '.join(filter(None, allowed))}")
            return allowed[0]
        return chosen

    def whole(self, name: str, *, least: int, most: int) -> int | None:
        """A whole number, 1,000 written as people do; None where nothing was typed."""
        typed = self.value(name).strip().replace(",", "")
        if not typed:
            return None
        number = int(typed) if typed.isascii() and typed.lstrip("-").isdigit() and len(typed) < 20 else None
        if number is None or not least <= number <= most:
            self.refuse(name, f"a whole number from {least:,} to {most:,}")
            return None
        return number

    def decimal(
        self, name: str, *, most: Decimal, least: Decimal = Decimal(0), above: bool = False
    ) -> Decimal | None:
        """A number; with `above` greater than the least. None where nothing was typed."""
        typed = self.value(name).strip().replace(",", "").removeprefix("$")
        if not typed:
            return None
        try:
            number = Decimal(typed)
        except InvalidOperation:
            number = Decimal("NaN")
        if not number.is_finite() or not least <= number <= most or (above and number == least):
            self.refuse(
                name,
                f"a number {'above' if above else 'from'} {least:f} {'up ' if above else ''}to {most:,f}",
            )
            return None
        return number

    def _is_text(self, name: str, typed: str) -> bool:
        if len(typed) > _LONGEST:
            self.refuse(name, f"at most {_LONGEST:,} characters")
        elif "\x00" in typed:
            self.refuse(name, "it has a character that no database keeps (NUL)")
        else:
            return True
        return False
