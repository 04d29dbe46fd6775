"""What a device runs: its key and settings, its connection, its cache, its jobs.  Lean."""
