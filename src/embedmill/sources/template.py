"""How a row becomes text: `$title\n\n$description`. Owns the template's grammar; pure, must not know where rows come
from."""

from __future__ import annotations

import re
from collections.abc import Mapping

from embedmill.errors import ConfigurationError

# `$$`, `$name`, `${any name}`; a lone `$` is a mistake that is better told than embedded.
_PLACEHOLDER = re.compile(
    r"\$(?:(?P<escaped>\$)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|\{(?P<braced>[^{}]+)\}|(?P<stray>))"
)


class Template:
    """Text with placeholders for fields. `fields` are their names, each once, in order."""

    def __init__(self, text: str) -> None:
        """Raises ConfigurationError for a stray `$`, or where no field is named at all."""
        self.text = text
        names: list[str] = []
        for found in _PLACEHOLDER.finditer(text):
            if found["stray"] is not None:
                raise ConfigurationError(
                    f"the template has a lone $ at character {found.start() + 1}: "
                    "a field is $name or ${name}, and $$ is a dollar sign"
                )
            if found["escaped"] is None:
                names.append(found["name"] or found["braced"])
        if not names:
            raise ConfigurationError("the template names no field: write e.g. '$title\\n\\n$description'")
        self.fields = tuple(dict.fromkeys(names))

    def render(self, values: Mapping[str, str | None]) -> str:
        """The text of one row; '' where every field is empty, however much text stands around them. A field that is
        missing or None is empty."""
        if not any((values.get(name) or "").strip() for name in self.fields):
            return ""
        return _PLACEHOLDER.sub(lambda found: self._value(found, values), self.text)

    @staticmethod
    def _value(found: re.Match[str], values: Mapping[str, str | None]) -> str:
        if found["escaped"] is not None:
            return "$"
        return values.get(found["name"] or found["braced"]) or ""
