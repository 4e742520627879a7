"""The name of an upload as people will see it. Owns what makes it harmless; it is for show and for guessing the
kind of a file, never a path, and must not be used as one."""

from __future__ import annotations

import re
import unicodedata

MAX_NAME_CHARACTERS = 255
MAX_ENDING_CHARACTERS = 20
UNNAMED = "unnamed"

# Controls, lone surrogates, and what makes text run backwards or hides in it, so that "txt.exe" reads "exe.txt".
# The joiners stay: Persian and emoji need them.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\u200b\u200e\u200f\u061c\ufeff\ud800-\udfff]"
)
_ENDING = re.compile(rf"\.[^.\s]{{1,{MAX_ENDING_CHARACTERS - 1}}}\Z")


def clean_name(raw: str) -> str:
    """A name of 1 to 255 characters without folders, controls and surrounding space; its ending is kept.

    "../../etc/passwd" gives "passwd", "C:\\\\docs\\\\report.pdf" gives "report.pdf", nothing gives "unnamed".
    """
    seen = _UNSEEN.sub("", unicodedata.normalize("NFC", raw))
    segments = [segment.strip() for segment in seen.replace("\\", "/").split("/")]
    name = next((segment for segment in reversed(segments) if segment.strip(".")), UNNAMED)
    if len(name) <= MAX_NAME_CHARACTERS:
        return name
    ending = _ENDING.search(name)
    kept = ending[0] if ending else ""
    return name[: MAX_NAME_CHARACTERS - len(kept)].rstrip() + kept
