"""The power goes at any moment of a run: what was synced is enough to come to the same result."""

import numpy as np
import pytest
from power import Disk
from tiny_runs import least, outcome

import leff
from leff.files import write_json

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_runs")]


def test_the_disk_forgets_what_was_not_synced(tmp_path):
    """The test's own disk: an unsynced file is gone, or empty under its name."""
    (top := tmp_path / "top").mkdir()
    with Disk(top) as disk:
        (top / "a.json").write_text("lost")
        write_json(top / "b.json", {})
    left = [state.put(tmp_path / str(i)) for i, state in enumerate(disk.states)]
    sizes = [{path.name: path.stat().st_size for path in folder.iterdir()} for folder in left]
    size = (top / "b.json").stat().st_size
    assert sizes == [
        {},
        {"a.json": 0, ".b.json.new": 0},  # before the file was synced
        {},
        {"a.json": 0, "b.json": size},  # before its folder was synced, and after
    ]


@pytest.mark.soak(8, 1000)
def test_a_power_cut_loses_no_more_than_the_last_round(count, tmp_path):
    settings = least(tmp_path)
    (top := tmp_path / "disk").mkdir()
    with Disk(top) as disk:
        leff.run(**settings, out=top / "runs" / "run")
    wanted = outcome(top / "runs" / "run")
    assert len(disk.states) > 40
    places = np.linspace(0, len(disk.states) - 1, min(count, len(disk.states)), dtype=int)
    for place in places:
        folder = disk.states[place].put(tmp_path / str(place)) / "runs" / "run"
        if (folder / "config.toml").exists():
            leff.resume(folder)
        else:  # not even begun
            leff.run(**settings, out=folder)
        assert outcome(folder) == wanted
