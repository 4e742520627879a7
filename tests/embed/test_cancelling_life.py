"""Random lives: jobs are launched, claimed, sent, written, cancelled and resumed, and workers die, in any order. At
each moment a job's progress is what stands; in the end everything stands, and nothing was paid for twice but what a
dead worker had in flight."""

from __future__ import annotations

import random
from collections import Counter
from uuid import UUID

import pytest
from psycopg import sql

from embedmill.app import App
from embedmill.core.batching import Unit
from embedmill.database.pipelines import Pipeline
from embedmill.database.queries import vectors_table
from embedmill.embed.returns import Returns
from embedmill.embed.traffic import Flight
from embedmill.ingest.storing import Launched
from tests.embed.desk import Desk, Impatient
from tests.support import audit
from tests.support.queue_rows import register_worker
from tests.support.work import add_document, missing_chunks

STEPS = 70
DOCUMENTS = 4
CHUNKS = 8


class LivingDesk(Desk):
    """A desk whose calls take time, and that gives back what it must, as an embedder does."""

    def __init__(self, app: App, pipeline: Pipeline) -> None:
        super().__init__(app, pipeline, inputs_per_call=3)
        self.flights: list[Flight] = []
        self.returns = Returns(
            app.database,
            pipeline.generation.id,
            packer=self.packer,
            holdings=self.holdings,
            traffic=self.traffic,
            on_event=lambda event: None,
            chance=Impatient(),
        )

    def take_off(self) -> None:
        if units := self.packer.take():
            self.flights.append(self.traffic.take_off(units, self.holdings))

    def send(self, flight: Flight) -> list[str]:
        """The texts that are paid for from now on."""
        if self.holdings.has_let_go:
            self.returns.drop_lost(flight.units, ())
        flight.is_sent = bool(flight.units)
        return [unit.text for unit in flight.units]

    async def land(self, flight: Flight) -> None:
        units: list[Unit] = flight.units
        self.flights.remove(flight)
        if flight.is_sent:
            landing = self.traffic.touch_down(units)
            outcome = await self.write(units)
            self.traffic.arrive_home(units, landing)
            self.holdings.forget(outcome.completed)
            self.holdings.forget(outcome.lost)
            await self.returns.give_back_incomplete(outcome.incomplete)
            await self.returns.stop([item.id for item in outcome.cancelled])
        await self.returns.settle(flight)

    async def look(self) -> None:
        rows = await self.app.database.fetch(
            "SELECT id FROM embedmill.embedding_queue WHERE worker_id = %s AND cancel_requested_at IS NOT NULL",
            (self.worker_id,),
        )
        await self.returns.stop([row[0] for row in rows])

    async def stop(self) -> None:
        while self.flights:
            await self.land(self.flights[0])
        await self.returns.give_back_rest(in_flight=True)


class Life:
    def __init__(self, app: App, pipeline: Pipeline, chance: random.Random) -> None:
        self.app = app
        self.pipeline = pipeline
        self.chance = chance
        self.jobs: list[Launched] = []
        self.desks: list[LivingDesk] = []
        self.paid: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()

    async def begin(self) -> None:
        for number in range(DOCUMENTS):
            texts = [f"text {number} {n}" for n in range(CHUNKS)]
            self.jobs.append(await add_document(self.app, self.pipeline, f"doc {number}", texts))
        for _ in range(2):
            await self.hire()

    async def hire(self) -> None:
        desk = LivingDesk(self.app, self.pipeline)
        await register_worker(self.app.database, worker_id=desk.worker_id)
        self.desks.append(desk)

    async def step(self) -> None:
        desk, job = self.chance.choice(self.desks), self.chance.choice(self.jobs)
        match self.chance.choice(
            ["load", "take", "take", "send", "send", "land", "land", "look", "cancel", "resume", "die"]
        ):
            case "load" if not desk.packer.is_full:
                await desk.loader.load_more(desk.packer, desk.holdings)
            case "take":
                desk.take_off()
            case "send":
                self.send(desk)
            case "land" if desk.flights:
                await desk.land(self.chance.choice(desk.flights))
            case "look":
                await desk.look()
            case "cancel":
                await self.ask("cancel_job", job.job_id)
            case "resume":
                await self.ask("resume_job", job.job_id)
            case "die" if self.chance.random() < 0.4:
                self.desks.remove(desk)
                for flight in desk.flights:
                    self.lost.update(unit.text for unit in flight.units if flight.is_sent)
                await self.app.database.fetch("SELECT embedmill.rescue_items(%s)", ([desk.worker_id],))
                await self.hire()
            case _:
                pass

    def send(self, desk: LivingDesk) -> None:
        if waiting := [flight for flight in desk.flights if not flight.is_sent]:
            self.paid.update(desk.send(self.chance.choice(waiting)))

    async def ask(self, function: str, job_id: UUID) -> None:
        await self.app.database.fetch(f"SELECT embedmill.{function}(%s)", (job_id,))

    async def end(self) -> None:
        """Everybody stops in order, everything is resumed, and one worker does what is left."""
        for desk in self.desks:
            while any(not flight.is_sent for flight in desk.flights):
                before = len(desk.flights)
                self.send(desk)
                for flight in [f for f in desk.flights if not f.units]:
                    await desk.land(flight)
                assert len(desk.flights) <= before
            await desk.stop()
        for job in self.jobs:
            await self.ask("resume_job", job.job_id)
        last = LivingDesk(self.app, self.pipeline)
        while await last.loader.load_more(last.packer, last.holdings) is not None:
            while len(last.packer):
                last.take_off()
                self.paid.update(last.send(last.flights[0]))
                await last.land(last.flights[0])

    async def check_progress(self) -> None:
        wrong = await self.app.database.fetch(
            sql.SQL(
                "SELECT * FROM (SELECT j.status, j.embedded_chunks, "
                "  (SELECT count(*) FROM {} v JOIN embedmill.knowledge_chunks c ON c.id = v.chunk_id "
                "    WHERE c.document_id = j.document_id) AS standing "
                "FROM embedmill.ingestion_jobs j) p WHERE embedded_chunks <> standing "
                "   OR status = 'completed' AND standing <> %s"
            ).format(vectors_table(self.pipeline.generation.id)),
            (CHUNKS,),
        )
        assert wrong == []
        unowned = await self.app.database.fetch(
            "SELECT q.id, q.status FROM embedmill.embedding_queue q JOIN embedmill.ingestion_jobs j ON j.id = q.job_id "
            " WHERE j.status = 'cancelled' AND (q.status <> 'processing' OR q.cancel_requested_at IS NULL)"
        )
        assert unowned == [], "of a cancelled job only what a worker holds is live, and flagged"


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_comes_in_between_progress_is_true_and_nothing_is_paid_twice(
    app: App, pipeline: Pipeline, seed: int
) -> None:
    life = Life(app, pipeline, random.Random(seed))
    await life.begin()
    for _ in range(STEPS):
        await life.step()
        await life.check_progress()
    await life.end()
    await life.check_progress()
    jobs = await app.database.fetch("SELECT status::text, embedded_chunks FROM embedmill.ingestion_jobs")
    assert jobs == [("completed", CHUNKS)] * DOCUMENTS
    assert await missing_chunks(app, pipeline) == 0
    assert await audit.live_items(app) == []
    assert life.paid.total() >= DOCUMENTS * CHUNKS
    twice = {text: count for text, count in (life.paid - life.lost).items() if count > 1}
    assert twice == {}
    await audit.assert_books_balance(app)
