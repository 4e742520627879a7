"""Jobs like a given one, by SQLAlchemy: `python with_sqlalchemy.py postgresql+psycopg://... 2`.

Needs sqlalchemy, pgvector and psycopg, and a table that is kept embedded:
embedmill table add public.jobs --content '$title\n\n$description' --metadata location"""

from __future__ import annotations

import sys

from pgvector.sqlalchemy import VECTOR
from sqlalchemy import BigInteger, Text, cast, column, create_engine, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class Job(Base):
    """The product's own table."""

    __tablename__ = "jobs"
    __table_args__ = {"schema": "public"}  # noqa: RUF012

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    title: Mapped[str] = mapped_column(Text)
    location: Mapped[str | None] = mapped_column(Text)


class JobPassage(Base):
    """The view that embedmill keeps of it: a row for each chunk, the job's own columns included. Read-only."""

    __tablename__ = "public_jobs_embedded"
    __table_args__ = {"schema": "embedmill"}  # noqa: RUF012

    id: Mapped[int] = mapped_column(BigInteger)
    location: Mapped[str | None] = mapped_column(Text)
    chunk_id: Mapped[int] = mapped_column("embedmill_chunk_id", BigInteger, primary_key=True)
    chunk: Mapped[str] = mapped_column("embedmill_chunk", Text)
    embedding: Mapped[list[float] | None] = mapped_column("embedmill_embedding", VECTOR())


# embedmill.search(source, query_vector, limit, filter) as a table.
FOUND = (
    column("key", Text), column("chunk_id", BigInteger), column("ordinal", BigInteger), column("chunk", Text),
    column("score"), column("metadata", JSONB),
)  # fmt: skip


def main(url: str, job_id: int) -> None:
    with Session(create_engine(url)) as session:
        passage = session.scalars(select(JobPassage).where(JobPassage.id == job_id)).first()
        if passage is None or passage.embedding is None:
            raise SystemExit(f"job {job_id} is not embedded yet")

        # With the ORM alone: the distance operator of pgvector on the view.
        nearest = (
            select(Job.title, JobPassage.chunk)
            .join(JobPassage, JobPassage.id == Job.id)
            .where(JobPassage.id != job_id)
            .order_by(JobPassage.embedding.cosine_distance(passage.embedding))
            .limit(2)
        )
        for title, chunk in session.execute(nearest):
            print("like it:", title, "|", chunk.replace("\n", " "))

        # With embedmill.search: filtered by metadata, joined to the product's own rows.
        query, wanted = cast(passage.embedding, VECTOR()), cast({"location": "Berlin"}, JSONB)
        found = func.embedmill.search("public.jobs", query, 5, wanted).table_valued(*FOUND, name="found")
        in_berlin = select(Job.title, found.c.score).join(Job, Job.id == found.c.key.cast(BigInteger))
        for title, score in session.execute(in_berlin.order_by(found.c.score.desc())):
            print(f"in Berlin: {title} {score:.2f}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
