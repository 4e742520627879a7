# ruff: noqa: A005 - named as the issue names it; imported as benchmarks.queue only
"""The queue against its peers on one server. Owns the comparison; each system's calls stand in a file of its own."""
