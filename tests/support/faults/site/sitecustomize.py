"""Runs before anything else in a worker of the crash suite (PYTHONPATH leads here). An error at this place would
only be printed and forgotten by Python: it ends the process with a status of its own instead."""

import os
import sys
import traceback

if "CRASH_JOURNAL" in os.environ:
    try:
        from tests.support.faults.wrappers import install

        install(os.environ)
    except BaseException:  # noqa: BLE001 - whatever it is, the test must not go on without its faults
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(97)
