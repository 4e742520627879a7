"""Faults on purpose, for the crash suite: real `embedmill worker` processes on a real PostgreSQL that is
killed, stopped, cut off and restarted, and an observer in the database that notes who wrote what under which
lease. Owns making things go wrong and reading what happened; must not assert (tests/crash does).

    site/sitecustomize.py   runs first in each worker's process; ends it loudly where a wrapped name is gone
    wrappers.py             wraps the product's functions in that process: faults at a step, the journal
    clocks.py               a wall clock that is hours off, in that process
    journal.py              what the wrappers wrote down, read again: calls begun, answered, written
    proxy.py                the way to the database: cut, frozen, or without the answer to COMMIT
    postgres.py             the database server: restarted, its backends ended
    processes.py            one worker's process: started with faults, killed, stopped
    observer.py, .sql       triggers that log each transition and each vector with the lease that was shown
    mill.py                 all of it together: documents in, faults, and then the accounts
    storm.py                faults drawn at random
"""
