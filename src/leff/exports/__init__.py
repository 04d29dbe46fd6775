"""What a finished run's model becomes elsewhere: a folder, an adapter, a file, a repository.

    opened = finished(Path("runs/e2e"))
    write_adapter(opened, Path("adapter"))             # leff.exports.adapter

Every form is read again before it gets its name, and compared with the run's model.
"""
