"""Updates wait on disk and come out in the order of client ids."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leff.wire.messages import Update
from leff.wire.spool import Spool
from leff.wire.tensors import pack


def update(client, failure=None):
    payload = b"" if failure else pack({"w": torch.tensor([float(client)])})
    return Update(0, client, (0,), 5, payload, failure=failure)


@given(order=st.permutations([2, 10, 1, 7]))
def test_order_of_arrival_does_not_matter(tmp_path_factory, order):
    spool = Spool(tmp_path_factory.mktemp("spool") / "updates")
    for client in order:
        spool.add(update(client))
    assert list(spool.accepted()) == [update(client) for client in (1, 2, 7, 10)]


def test_failures_are_kept_and_not_accepted(tmp_path):
    spool = Spool(tmp_path / "updates")
    spool.add(update(1, failure="the loss was nan"))
    spool.add(update(0))
    assert [u.client for u in spool.accepted()] == [0]
    assert spool.updates[1].failure == "the loss was nan"


def test_payloads_are_on_disk_only(tmp_path):
    spool = Spool(tmp_path / "updates")
    spool.add(update(4))
    assert spool.updates[4].payload == b""
    assert next(spool.accepted()).payload == update(4).payload


def test_a_second_update_of_a_client_replaces_the_first(tmp_path):
    spool = Spool(tmp_path / "updates")
    spool.add(update(1, failure="x"))
    spool.add(update(1))
    assert list(spool.accepted()) == [update(1)]


@pytest.mark.parametrize("client", ["../../x", None, 1.0, [1]])
def test_an_id_that_is_no_number_makes_no_file(tmp_path, client):
    spool = Spool(tmp_path / "a" / "updates")
    with pytest.raises((ValueError, TypeError)):
        spool.add(Update(0, client, (0,), 5, b"x"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_clear_and_a_new_spool_forget_everything(tmp_path):
    spool = Spool(tmp_path / "updates")
    spool.add(update(1))
    spool.clear()
    assert list(spool.accepted()) == [] and list((tmp_path / "updates").iterdir()) == []
    spool.add(update(2))
    other = Spool(tmp_path / "updates")
    assert list(other.accepted()) == [] and list(spool.accepted()) == [update(2)]
    other.clear()
    assert list((tmp_path / "updates").iterdir()) == []
