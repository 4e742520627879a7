"""procrastinate by its own job manager, as its worker calls it. It fetches and finishes one job at a time; only
deferring has a batch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import psycopg_pool
from procrastinate import App, PsycopgConnector
from procrastinate.jobs import Job, Status

from benchmarks.queue.systems import PAYLOAD_SQL, Statements, payload


class ProcrastinateJobs:
    """Its psycopg connector on pools of ours, one connection for each client, as every queue here has it: its own pool
    would test each connection before each use."""

    version = version("procrastinate")
    driver = "psycopg"
    tables = ("procrastinate_jobs", "procrastinate_events", "procrastinate_periodic_defers")
    # The triggers would notify for each row; the event that they would write is written here.
    fill = (
        "ALTER TABLE procrastinate_jobs DISABLE TRIGGER USER",
        "INSERT INTO procrastinate_jobs (queue_name, task_name, priority, args) SELECT 'bench', 'nothing', n %% 3, "
        f"{PAYLOAD_SQL} FROM generate_series(1, %(count)s) AS n",
        "INSERT INTO procrastinate_events (job_id, type) SELECT id, 'deferred' FROM procrastinate_jobs",
        "ALTER TABLE procrastinate_jobs ENABLE TRIGGER USER",
    )
    fill_history = (
        "ALTER TABLE procrastinate_jobs DISABLE TRIGGER USER",
        "INSERT INTO procrastinate_jobs (queue_name, task_name, status, attempts, args) SELECT 'bench', 'nothing', "
        f"'succeeded', 1, {PAYLOAD_SQL} FROM generate_series(1, %(count)s) AS n",
        "INSERT INTO procrastinate_events (job_id, type) SELECT id, t::procrastinate_job_event_type "
        "FROM procrastinate_jobs, unnest(ARRAY['deferred', 'started', 'succeeded']) AS t WHERE status = 'succeeded'",
        "ALTER TABLE procrastinate_jobs ENABLE TRIGGER USER",
    )

    def __init__(self) -> None:
        self._number = 0

    async def open(self, url: str, clients: int) -> None:
        self._apps, self._managers, self._worker_ids = [], [], []
        for client in range(clients):
            pool = psycopg_pool.AsyncConnectionPool(url, min_size=1, max_size=1, open=False)
            await pool.open(wait=True)
            app = App(connector=PsycopgConnector())
            await app.open_async(pool)
            if client == 0:
                await app.schema_manager.apply_schema_async()
            self._apps.append((app, pool))
            self._managers.append(app.job_manager)
            self._worker_ids.append(await app.job_manager.register_worker())

    async def close(self) -> None:
        for app, pool in self._apps:
            await app.close_async()
            await pool.close()

    async def enqueue(self, client: int, count: int) -> None:
        jobs = []
        for _ in range(count):
            self._number += 1
            jobs.append(
                Job(
                    queue="bench",
                    lock=None,
                    queueing_lock=None,
                    task_name="nothing",
                    task_kwargs=payload(f"bench/{self._number}"),
                )
            )
        await self._managers[client].batch_defer_jobs_async(jobs)

    async def claim(self, client: int, count: int) -> Sequence[Job]:
        claimed: list[Job] = []
        while len(claimed) < count:
            job = await self._managers[client].fetch_job(["bench"], self._worker_ids[client])
            if job is None:
                break
            claimed.append(job)
        return claimed

    async def complete(self, client: int, claimed: Sequence[Any]) -> None:
        for job in claimed:
            await self._managers[client].finish_job(job, Status.SUCCEEDED, delete_job=False)

    async def hand_over(self, client: int, claimed: Sequence[Any], count: int) -> Sequence[Any]:
        await self.complete(client, claimed)
        return await self.claim(client, count)

    def statements(self) -> Statements:
        return Statements(
            enqueue="SELECT unnest(procrastinate_defer_jobs_v1($1::procrastinate_job_to_defer_v1[])) AS id",
            enqueue_values=lambda n: [_composite(json.dumps(payload(f"raw/{n}")))],
            claim="SELECT id, status, task_name, priority, lock, queueing_lock, args, scheduled_at, queue_name, "
            "attempts, worker_id FROM procrastinate_fetch_job_v2($1::varchar[], $2)",
            claim_values=[b"{bench}", b"%d" % self._worker_ids[0]],
            complete="SELECT procrastinate_finish_job_v1($1, 'succeeded', false)",
            complete_values=lambda row: [row[0]],
        )


def _composite(args: str) -> bytes:
    """One job to defer, as an array of a row, in text."""
    row = "(bench,nothing,0,,,{},)".format('"' + args.replace("\\", "\\\\").replace('"', '""') + '"')
    return ("{" + '"' + row.replace("\\", "\\\\").replace('"', '\\"') + '"' + "}").encode()
