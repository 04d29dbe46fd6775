"""Engines, which run the clients' jobs.  Each engine is a `leff.round.Fleet`."""
