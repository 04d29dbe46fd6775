"""Files: on the disk when they are said to be, whole or not there, and damage is noticed."""

import json
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from power import on_disk

from leff.errors import CheckpointError
from leff.files import (
    append_synced,
    expanded,
    is_locked,
    locked,
    make_folder,
    read_json,
    sealed,
    unsealed,
    whole_file,
    whole_folder,
    write_atomically,
    write_json,
)
from leff.record import RoundRecord
from leff.runs.checkpoints import Checkpoint
from leff.runs.folder import RunFolder

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def fill(folder):
    with whole_folder(folder) as unfinished:
        (unfinished / "a").write_text("a")
        (unfinished / "inner").mkdir()
        (unfinished / "inner" / "b").write_text("b")


def checkpoint(folder):
    RunFolder(folder).save_checkpoint(Checkpoint(1, {"w": torch.ones(1)}, {}, {}), "d", keep=1)


WORK = {
    "a file": lambda f: write_atomically(f / "a", b"1"),
    "a file in place of another": lambda f: [write_atomically(f / "a", b"1") for _ in range(2)],
    "JSON": lambda f: write_json(f / "a", {"a": 1}),
    "a new file of lines": lambda f: append_synced(f / "a", b"1\n"),
    "lines": lambda f: [append_synced(f / "a", b"1\n") for _ in range(2)],
    "folders": lambda f: make_folder(f / "a" / "b" / "c"),
    "a full folder": lambda f: fill(f / "a"),
    "a full folder in place of another": lambda f: [fill(f / "a") for _ in range(2)],
    "a record": lambda f: RunFolder(f).append(RoundRecord(0)),
    "two records": lambda f: [RunFolder(f).append(RoundRecord(i)) for i in range(2)],
    "a checkpoint": checkpoint,
    "a decision": lambda f: RunFolder(f).decisions(0).update(steps=1),
    "a result": lambda f: RunFolder(f).write_result({"a": 1}),
}


@pytest.mark.parametrize("name", WORK)
def test_it_is_on_the_disk(name, tmp_path):
    (folder := tmp_path / "f").mkdir()
    assert on_disk(folder, tmp_path / "left", lambda: WORK[name](folder))


@pytest.mark.parametrize(
    "work", [lambda f: (f / "a").write_text("1"), lambda f: (f / "a").mkdir(), lambda f: None]
)
def test_what_was_not_synced_is_not(work, tmp_path):
    (folder := tmp_path / "f").mkdir()
    assert on_disk(folder, tmp_path / "left", lambda: work(folder)) == (not any(folder.iterdir()))


def test_a_full_folder_or_none(tmp_path):
    fill(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "a") as unfinished:
        (unfinished / "c").write_text("half")
        raise KeyboardInterrupt
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["a", "inner"]
    fill(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@given(st.dictionaries(st.text().filter(lambda key: key != "sha256"), JSON))
def test_a_seal_holds_and_breaks(values):
    plain = sealed(values)
    found = unsealed(json.dumps(plain))
    assert sealed(found) == plain and "sha256" not in found
    for other in ({**plain, "more": 1}, {**plain, "sha256": "0" * 64}, found, list(plain)):
        with pytest.raises(ValueError, match=r"sha256|written"):
            unsealed(json.dumps(other))


@given(st.integers(0, 10**6))
def test_any_flipped_bit_is_noticed_or_changes_no_value(place):
    values = {"round": 2, "loss": 0.1, "name": "a\nb", "none": None, "list": [1, 2.5, True]}
    payload = bytearray(json.dumps(sealed(values)).encode())
    payload[place // 8 % len(payload)] ^= 1 << place % 8
    try:
        found = unsealed(bytes(payload))
    except ValueError:
        return
    assert found == values


def test_numbers_as_keys_are_sealed_as_json_has_them():
    assert unsealed(json.dumps(sealed({2: "a", 10: "b"}))) == {"2": "a", "10": "b"}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "[" * 100_000, "\xff", '{"a": 1}'])
def test_damaged_json_says_what_to_do(text, tmp_path):
    path = tmp_path / "a.json"
    assert read_json(path, "do this") is None
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"a\.json is damaged \(.*\); do this$"):
        read_json(path, "do this")


def test_what_is_appended_follows_what_was_there(tmp_path):
    path = tmp_path / "lines"
    for payload in (b"one\n", b"two\n"):
        append_synced(path, payload)
    assert path.read_bytes() == b"one\ntwo\n"


def test_a_home_folder_is_looked_up_if_there_is_one(monkeypatch):
    monkeypatch.setenv("HOME", "/made/up")
    assert expanded("~/runs") == Path("/made/up/runs")
    assert expanded("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")


def test_a_lock_keeps_others_out_and_a_look_at_it_does_not(tmp_path):
    """Whoever wants it waits for longer than a look takes."""
    path = tmp_path / ".lock"
    assert not is_locked(path)
    with locked(path):
        assert is_locked(path)
        with pytest.raises(BlockingIOError), locked(path, 0.1):
            pass
    short = locked(path)
    short.__enter__()
    threading.Timer(0.2, short.__exit__, (None, None, None)).start()
    with locked(path):
        assert is_locked(path)
    assert not is_locked(path)


def test_what_fails_half_way_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(OSError, match="full"), whole_file(tmp_path / "file") as unfinished:
        unfinished.write_text("half")
        raise OSError("full")
    with pytest.raises(OSError, match="full"), whole_folder(tmp_path / "folder") as unfinished:
        (unfinished / "a").write_text("half")
        raise OSError("full")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"
    with whole_file(tmp_path / "file") as unfinished:
        unfinished.write_text("new")
    assert (tmp_path / "file").read_text() == "new"
