"""embedmill: documents and Postgres rows into vectors that people can trust."""

__version__ = "0.1.0"
