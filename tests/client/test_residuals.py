"""Residuals on disk: which round reads what, what is pruned, and damage."""

import pytest
import torch
from power import on_disk

from leff.client.residuals import Residuals


def of(value):
    return {"w": torch.tensor([float(value)])}


def value(residuals, round):
    found = residuals.before(round)
    return found["w"].item() if found else None


def test_a_round_reads_what_was_there_before_it(tmp_path):
    residuals = Residuals(tmp_path / "a" / "b", 9)
    assert value(residuals, 0) is None and value(residuals, 7) is None
    for round in (0, 2, 3):
        residuals.keep(round, of(round))
    assert [value(residuals, round) for round in range(6)] == [None, 0, 0, 2, 3, 3]


def test_a_round_that_is_done_again_replaces_it_and_what_came_after(tmp_path):
    residuals = Residuals(tmp_path, 9)
    for round in (0, 2, 3):
        residuals.keep(round, of(round))
    residuals.keep(2, of(20))
    assert [value(residuals, round) for round in range(5)] == [None, 0, 0, 20, 20]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_only_what_a_resumed_run_can_need_is_kept(kept, tmp_path):
    """In round r the oldest of `kept` checkpoints does round r - kept + 1 again."""
    residuals, took_part = Residuals(tmp_path, kept), (0, 1, 4, 5, 6, 9)
    for round in took_part:
        residuals.keep(round, of(round))
        for again in range(max(0, round - kept + 1), round + 1):
            earlier = [other for other in took_part if other < again]
            assert value(residuals, again) == (earlier[-1] if earlier else None)
        assert len(list(tmp_path.iterdir())) <= kept + 1


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:-1] + b"x", lambda b: b""])
def test_a_damaged_file_is_left_out_and_told(damage, tmp_path, caplog):
    residuals = Residuals(tmp_path, 2)
    residuals.keep(3, of(3))
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert residuals.before(4) == {} and "is damaged" in caplog.text
    residuals.keep(4, of(4))
    assert value(residuals, 5) == 4


def test_clients_have_their_own(tmp_path):
    residuals = Residuals(tmp_path, 2)
    residuals.of(3).keep(0, of(3))
    assert value(residuals.of(3), 1) == 3 and value(residuals.of(4), 1) is None


def test_they_are_on_the_disk(tmp_path):
    (tmp_path / "top").mkdir()
    work = Residuals(tmp_path / "top" / "client-1", 2).keep
    assert on_disk(tmp_path / "top", tmp_path / "left", lambda: work(0, of(1)))
