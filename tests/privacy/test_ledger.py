"""What was released is on disk, once."""

import pytest

from leff.errors import CheckpointError
from leff.privacy.accountant import Release
from leff.privacy.ledger import Entry, Ledger

FIRST = Entry(1, "a", 1.5, 0.5, 1.0, 0.9)


def test_entries_outlive_the_process(tmp_path):
    path = tmp_path / "privacy.json"
    Ledger(path, [Release(2.0)]).add(FIRST)
    again = Ledger(path)
    assert again.releases == [Release(2.0), Release(1.5, 0.5)]
    assert again.entries == [FIRST]


def test_a_repeated_round_counts_once_and_another_one_twice(tmp_path):
    ledger = Ledger(tmp_path / "privacy.json")
    for inputs in ("a", "a", "b"):
        ledger.add(Entry(1, inputs, 1.5, 0.5, 1.0, 1.0))
    assert len(ledger.releases) == 2


def test_the_clip_is_what_the_round_before_said(tmp_path):
    ledger = Ledger(tmp_path / "privacy.json")
    assert ledger.clip(1, first=2.0) == 2.0
    ledger.add(FIRST)
    assert ledger.clip(2, first=2.0) == 0.9
    ledger.add(Entry(1, "b", 1.5, 0.5, 1.0, 0.8))  # the round was done again
    assert Ledger(tmp_path / "privacy.json").clip(2, first=2.0) == 0.8


def test_a_damaged_ledger_ends_the_run(tmp_path):
    path = tmp_path / "privacy.json"
    Ledger(path).add(FIRST)
    path.write_text(path.read_text().replace("1.5", "9.5"))
    with pytest.raises(CheckpointError, match="nobody knows what it has spent"):
        Ledger(path)
