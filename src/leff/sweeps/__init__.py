"""Several runs: one after another or side by side, each resumed where it stopped.

failures = sweep(runs, Workshop(Path("runs/grid"), jobs=2), finish, say=print)
"""
