"""procrastinate by its own job manager, as its worker calls it. It fetches and finishes one job at a time; only
deferring has a batch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import psycopg_pool
from procrastinate import App, PsycopgConnector
from procrastinate.jobs import Job, Status

from benchmarks.queue.systems import Statements


class ProcrastinateJobs:
    """Its psycopg connector on a pool of ours: its own pool would test each connection before each use."""

    version = version("procrastinate")
    driver = "psycopg"
    tables = ("procrastinate_jobs", "procrastinate_events", "procrastinate_periodic_defers")
    # The triggers would notify for each row; the event that they would write is written here.
    fill = (
        "ALTER TABLE procrastinate_jobs DISABLE TRIGGER USER",
        "INSERT INTO procrastinate_jobs (queue_name, task_name, priority, args) SELECT 'bench', 'nothing', n %% 3, "
        "jsonb_build_object('source', 'fill/' || n) FROM generate_series(1, %(count)s) AS n",
        "INSERT INTO procrastinate_events (job_id, type) SELECT id, 'deferred' FROM procrastinate_jobs",
        "ALTER TABLE procrastinate_jobs ENABLE TRIGGER USER",
    )
    fill_history = (
        "ALTER TABLE procrastinate_jobs DISABLE TRIGGER USER",
        "INSERT INTO procrastinate_jobs (queue_name, task_name, status, attempts, args) SELECT 'bench', 'nothing', "
        "'succeeded', 1, jsonb_build_object('source', 'fill/' || n) FROM generate_series(1, %(count)s) AS n",
        "INSERT INTO procrastinate_events (job_id, type) SELECT id, t::procrastinate_job_event_type "
        "FROM procrastinate_jobs, unnest(ARRAY['deferred', 'started', 'succeeded']) AS t WHERE status = 'succeeded'",
        "ALTER TABLE procrastinate_jobs ENABLE TRIGGER USER",
    )

    def __init__(self) -> None:
        self._number = 0

    async def open(self, url: str, clients: int) -> None:
        self._pool = psycopg_pool.AsyncConnectionPool(url, min_size=clients, max_size=clients, open=False)
        await self._pool.open(wait=True)
        self._app = App(connector=PsycopgConnector())
        await self._app.open_async(self._pool)
        await self._app.schema_manager.apply_schema_async()
        self._jobs = self._app.job_manager
        self._worker_id = await self._jobs.register_worker()

    async def close(self) -> None:
        await self._app.close_async()
        await self._pool.close()

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
                    task_kwargs={"source": f"bench/{self._number}"},
                )
            )
        await self._jobs.batch_defer_jobs_async(jobs)

    async def claim(self, client: int, count: int) -> Sequence[Job]:
        claimed: list[Job] = []
        while len(claimed) < count:
            job = await self._jobs.fetch_job(["bench"], self._worker_id)
            if job is None:
                break
            claimed.append(job)
        return claimed

    async def complete(self, client: int, claimed: Sequence[Any]) -> None:
        for job in claimed:
            await self._jobs.finish_job(job, Status.SUCCEEDED, delete_job=False)

    async def hand_over(self, client: int, claimed: Sequence[Any], count: int) -> Sequence[Any]:
        await self.complete(client, claimed)
        return await self.claim(client, count)

    def statements(self) -> Statements:
        return Statements(
            enqueue="SELECT unnest(procrastinate_defer_jobs_v1($1::procrastinate_job_to_defer_v1[])) AS id",
            enqueue_values=lambda n: [
                b'{"(bench,nothing,0,,,\\"{\\"\\"source\\"\\": \\"\\"raw/%d\\"\\"}\\",)"}' % n
            ],
            claim="SELECT id, status, task_name, priority, lock, queueing_lock, args, scheduled_at, queue_name, "
            "attempts, worker_id FROM procrastinate_fetch_job_v2($1::varchar[], $2)",
            claim_values=[b"{bench}", b"%d" % self._worker_id],
            complete="SELECT procrastinate_finish_job_v1($1, 'succeeded', false)",
            complete_values=lambda row: [row[0]],
        )
