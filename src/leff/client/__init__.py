"""All that a device runs: it builds a model from a job, trains it and measures its memory."""
