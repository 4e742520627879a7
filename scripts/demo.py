"""The README's first command: ingest the example documents, ask three questions, show what it cost.

Runs the installed command line as its user would; run it a second time and nothing is paid.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
EMBEDMILL = str(Path(sys.executable).with_name("embedmill"))


def main() -> int:
    started = time.monotonic()
    say(f"1. Ingest {EXAMPLES.relative_to(ROOT)}/documents")
    ingested = subprocess.run([EMBEDMILL, "ingest", str(EXAMPLES / "documents")], check=False)
    if ingested.returncode != 0:
        return ingested.returncode
    say("2. Ask")
    print()
    for question in json.loads((EXAMPLES / "questions.json").read_text("utf-8")):
        print(
            f"$ embedmill search {question['question']!r}", flush=True
        )  # what it prints ends with an empty line
        subprocess.run([EMBEDMILL, "search", "--limit", "1", question["question"]], check=True)
    print("== 3. How it stands", flush=True)
    subprocess.run([EMBEDMILL, "status"], check=True)
    say(f"Done in {time.monotonic() - started:.1f} s. Run it again: nothing is paid twice.")
    print("Your own: embedmill ingest PATH, then embedmill search 'a question' (see README.md)")
    return 0


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
