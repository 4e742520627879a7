"""What the project takes and how it grows: processes (rows a second), memory, disk and log, install and start."""
