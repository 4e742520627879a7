"""Jobs like a given one, by Django: `python with_django.py postgresql://... 2`.

Needs django, pgvector and psycopg, and a table that is kept embedded:
embedmill table add public.jobs --content '$title\n\n$description' --metadata location

In a project the settings and the two models stand where they always do; here all is in one file."""

from __future__ import annotations

import json
import sys
from urllib.parse import parse_qs, unquote, urlsplit

import django
from django.conf import settings


def configure(url: str) -> None:
    parts = urlsplit(url)
    options = {name: values[0] for name, values in parse_qs(parts.query).items()}
    settings.configure(
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": unquote(parts.path.lstrip("/")),
                "USER": unquote(parts.username or options.pop("user", "")),
                "PASSWORD": unquote(parts.password or ""),
                "HOST": options.pop("host", parts.hostname or ""),
                "PORT": parts.port or options.pop("port", ""),
                "OPTIONS": options,
            }
        },
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )
    django.setup()


def main(job_id: int) -> None:
    from django.db import connection, models  # noqa: PLC0415 - after the settings
    from pgvector.django import CosineDistance, VectorField  # noqa: PLC0415

    class Job(models.Model):
        """The product's own table."""

        title = models.TextField()
        location = models.TextField(null=True)

        class Meta:
            app_label = "example"
            db_table = "jobs"
            managed = False

    class JobPassage(models.Model):
        """The view that embedmill keeps of it: a row for each chunk. Read-only."""

        chunk_id = models.BigIntegerField(primary_key=True, db_column="embedmill_chunk_id")
        job = models.ForeignKey(Job, models.DO_NOTHING, db_column="id", related_name="passages")
        chunk = models.TextField(db_column="embedmill_chunk")
        embedding = VectorField(null=True, db_column="embedmill_embedding")

        class Meta:
            app_label = "example"
            db_table = 'embedmill"."public_jobs_embedded'
            managed = False

    passage = JobPassage.objects.filter(job_id=job_id, embedding__isnull=False).first()
    if passage is None:
        raise SystemExit(f"job {job_id} is not embedded yet")

    nearest = (
        JobPassage.objects.exclude(job_id=job_id)
        .select_related("job")
        .order_by(CosineDistance("embedding", passage.embedding))[:2]
    )
    for found in nearest:
        print("like it:", found.job.title, "|", found.chunk.replace("\n", " "))

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT j.title, s.score FROM embedmill.search(%s, %s::vector, 5, %s) s "
            "  JOIN jobs j ON j.id = s.key::bigint ORDER BY s.score DESC",
            ["public.jobs", str(list(passage.embedding)), json.dumps({"location": "Berlin"})],
        )
        for title, score in cursor.fetchall():
            print(f"in Berlin: {title} {score:.2f}")


if __name__ == "__main__":
    configure(sys.argv[1])
    main(int(sys.argv[2]))
