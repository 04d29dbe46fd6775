"""What a reader sees: a run's live table and its picture, and plans."""
