"""The stores of originals: a folder, or a bucket. store.py chooses; nothing here knows what a job is."""
