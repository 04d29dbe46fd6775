"""Updates wait on disk, come out in the order of client ids, and outlive the process."""

import errno
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from power import on_disk

from leff.files import sealed
from leff.wire.messages import Update
from leff.wire.spool import Spool
from leff.wire.tensors import pack, unpack

JOBS = {client: f"job of {client}" for client in range(12)}


def update(client, failure=None):
    payload = b"" if failure else pack({"w": torch.tensor([float(client)])})
    return Update(0, client, (0,), 5, payload, (0.1, 1e-300), layer_scores=(0.3,), failure=failure)


def opened(folder, jobs=JOBS):
    spool = Spool(folder)
    spool.open(jobs)
    return spool


def read(spool):
    """The accepted updates, with their payloads as bytes."""
    return [(u.client, u.payload.read_bytes()) for u in spool.accepted()]


def written(*clients):
    return [(client, update(client).payload) for client in clients]


@given(order=st.permutations([2, 10, 1, 7]))
def test_order_of_arrival_does_not_matter(tmp_path_factory, order):
    spool = opened(tmp_path_factory.mktemp("spool") / "updates")
    for client in order:
        spool.add(update(client))
    assert read(spool) == written(1, 2, 7, 10)


def test_failures_are_kept_and_not_accepted(tmp_path):
    spool = opened(tmp_path / "updates")
    spool.add(update(1, failure="the loss was nan"))
    spool.add(update(0))
    assert [u.client for u in spool.accepted()] == [0]
    assert spool.updates[1].failure == "the loss was nan"


def test_payloads_are_on_disk_only(tmp_path):
    spool = opened(tmp_path / "updates")
    spool.add(update(4))
    assert spool.updates[4].payload == b""
    (accepted,) = spool.accepted()
    assert accepted.payload.parent == tmp_path / "updates"
    assert torch.equal(unpack(accepted.payload)["w"], torch.tensor([4.0]))


def test_a_second_update_of_a_client_replaces_the_first(tmp_path):
    spool = opened(tmp_path / "updates")
    spool.add(update(1, failure="x"))
    spool.add(update(1))
    assert read(spool) == read(opened(tmp_path / "updates")) == written(1)


def test_a_file_is_moved_and_not_copied(tmp_path):
    spool, path = opened(tmp_path / "updates"), tmp_path / "arrived"
    path.write_bytes(update(3).payload)
    inode = path.stat().st_ino
    spool.add(Update(0, 3, (0,), 5, path))
    assert not path.exists() and spool.payload(3).stat().st_ino == inode
    assert read(spool) == written(3)


def test_a_file_of_another_file_system_is_copied(tmp_path, monkeypatch):
    spool, path = opened(tmp_path / "updates"), tmp_path / "arrived"
    path.write_bytes(update(3).payload)
    move = Path.replace

    def across(source, target):
        if source == path:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return move(source, target)

    monkeypatch.setattr(Path, "replace", across)
    spool.add(Update(0, 3, (0,), 5, path))
    assert not path.exists() and read(spool) == written(3)


@pytest.mark.parametrize("client", ["../../x", None, 1.0, [1]])
def test_an_id_that_is_no_number_makes_no_file(tmp_path, client):
    spool = Spool(tmp_path / "a" / "updates")
    with pytest.raises((ValueError, TypeError)):
        spool.add(Update(0, client, (0,), 5, b"x"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_new_spool_leaves_the_folder_alone_until_it_is_opened(tmp_path):
    opened(tmp_path / "updates").add(update(2))
    other = Spool(tmp_path / "updates")
    assert list(other.accepted()) == [] and len(list((tmp_path / "updates").iterdir())) == 2
    other.open({})
    assert list((tmp_path / "updates").iterdir()) == []


# After a kill


def test_what_answers_the_same_jobs_is_kept_to_the_bit(tmp_path):
    spool = opened(tmp_path / "updates")
    for each in (update(1), update(2), update(5, failure="gone")):
        spool.add(each)
    again = opened(tmp_path / "updates")
    assert again.updates == spool.updates and read(again) == written(1, 2)


def test_another_job_or_no_job_drops_the_update_and_its_files(tmp_path, caplog):
    spool = opened(tmp_path / "updates")
    for client in (1, 2, 3):
        spool.add(update(client))
    again = opened(tmp_path / "updates", {1: JOBS[1], 2: "another"})
    assert read(again) == written(1) and not caplog.records
    names = sorted(path.name for path in (tmp_path / "updates").iterdir())
    assert names == ["client-1.json", "client-1.safetensors"]


def seal_again(path, **changes):
    entry = json.loads(path.read_text())
    path.write_text(json.dumps(sealed({**entry, **changes})))


def flip(path):
    payload = path.read_bytes()
    path.write_bytes(payload[:-1] + bytes([payload[-1] ^ 1]))


DAMAGE = {
    "payload: a bit": lambda h, p: flip(p),
    "payload: cut": lambda h, p: p.write_bytes(p.read_bytes()[:-1]),
    "payload: gone": lambda h, p: p.unlink(),
    "payload: a folder": lambda h, p: (p.unlink(), p.mkdir()),
    "header: a bit": lambda h, p: flip(h),
    "header: empty": lambda h, p: h.write_bytes(b""),
    "header: huge": lambda h, p: h.write_bytes(b" " * 3_000_000),
    "header: deep": lambda h, p: h.write_bytes(b"[" * 100_000),
    "header: another digit": lambda h, p: h.write_text(h.read_text().replace("0.3", "0.4")),
    "header: of another client": lambda h, p: h.write_text(
        h.with_name("client-2.json").read_text()
    ),
    "header: sealed, of another client": lambda h, p: seal_again(
        h, update=json.loads(h.with_name("client-2.json").read_text())["update"]
    ),
    "header: sealed, no text": lambda h, p: seal_again(h, update=7),
    "header: sealed, not all": lambda h, p: h.write_text(json.dumps(sealed({"job": JOBS[1]}))),
    "header: sealed, no digest": lambda h, p: seal_again(h, payload=None),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_entry_is_dropped_with_a_warning(tmp_path, caplog, name):
    spool = opened(tmp_path / "updates")
    spool.add(update(1))
    spool.add(update(2))
    DAMAGE[name](tmp_path / "updates" / "client-1.json", spool.payload(1))
    again = opened(tmp_path / "updates")
    assert read(again) == written(2) and again.updates.keys() == {2}
    if name != "header: of another client":  # its job is another one's
        assert "the update of client 1 is damaged" in caplog.text
    again.add(update(1))
    assert read(opened(tmp_path / "updates")) == written(1, 2)


def test_strange_things_in_the_folder_go(tmp_path):
    spool = opened(tmp_path / "updates")
    spool.add(update(1))
    (spool.folder / "folder").mkdir()
    (spool.folder / "folder" / "x").touch()
    (spool.folder / ".client-2.safetensors.new").write_bytes(b"half")
    (spool.folder / "link").symlink_to(tmp_path)
    assert read(opened(spool.folder)) == written(1)
    assert len(list(spool.folder.iterdir())) == 2 and tmp_path.exists()


def test_an_update_is_on_the_disk_when_it_counts(tmp_path):
    (tmp_path / "top").mkdir()

    def work():
        spool, path = opened(tmp_path / "top" / "updates"), tmp_path / "arrived"
        spool.add(update(1))
        path.write_bytes(update(2).payload)
        spool.add(Update(0, 2, (0,), 5, path))

    assert on_disk(tmp_path / "top", tmp_path / "left", work)
