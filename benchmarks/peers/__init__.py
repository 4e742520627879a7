"""Bulk embedding beside other systems: the same texts, the same server, the same provider stand-in."""
