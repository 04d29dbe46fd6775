"""A finished run of a second for each method and kind, made once for all tests here."""

from functools import cache

import pytest
from tiny_runs import options, quicken, save_tiny, write_table

import leff
from leff.exports.opened import open_finished


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Return a function that gives an opened run of a method, on a kind of task."""

    @cache
    def made(method, kind="text", start=None, **changes):
        folder = tmp_path_factory.mktemp(f"{method}-{kind}")
        table = write_table(folder / "train.jsonl", kind)
        given = {
            "method__name": method,
            "data__task": "table",
            "data__train": str(table),
            "clients__partition": "iid",
            "clients__count": 2,
            "training__rounds": 2,
            "training__learning_rate": 0.01,
            "evaluation__gap_clients": 0,
            "context__name": "quantise",
            **changes,
        }
        model = start or save_tiny(folder / "model", kind)
        with pytest.MonkeyPatch.context() as patch:
            quicken(patch)
            run = leff.run(out=folder / "run", **options(model, **given))
        return open_finished(run.folder)

    return made
