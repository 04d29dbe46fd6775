"""Parts by content: equal tensors are stored once, changed bytes are refused."""

import hashlib
from pathlib import Path

import pytest
import torch

from leff.errors import RunError
from leff.wire.messages import Part
from leff.wire.parts import PartStore
from leff.wire.tensors import pack, part_of


def test_what_goes_in_comes_out(store):
    tensors = {"w": torch.randn(3, 4), "b": torch.tensor([-0.0])}
    part = store.put(tensors)
    assert part == part_of(pack(tensors))
    back = store.get(part)
    assert all(
        torch.equal(back[n].view(torch.int32), t.view(torch.int32)) for n, t in tensors.items()
    )


@pytest.mark.parametrize("read_bytes", [1, 40, 2**24])
def test_a_part_is_read_in_pieces(store, monkeypatch, read_bytes):
    monkeypatch.setattr("leff.wire.tensors.READ_BYTES", read_bytes)
    tensors = {
        "rows": torch.randn(7, 5),
        "row": torch.randn(11).bfloat16(),
        "number": torch.tensor(2.5),
        "nothing": torch.empty(0, 4),
        "codes": torch.randint(-127, 127, (9, 3), dtype=torch.int8),
    }
    back = store.get(store.put(tensors))
    assert list(back) == sorted(tensors)
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's peak")
def test_reading_a_part_holds_little_beside_it(store):
    part = store.put({"w": torch.zeros(2**25)})
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now
    before = resident("VmRSS")
    assert store.get(part)["w"].nbytes == 2**27
    assert resident("VmHWM") - before < 1.3 * 2**27


def resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


def test_equal_tensors_are_one_part_and_different_ones_are_not(store):
    tensor = torch.randn(3)
    part = store.put({"w": tensor})
    assert store.put({"w": tensor.clone()}) == part
    assert store.put({"w": tensor + 1}) != part
    assert store.put({"v": tensor}) != part
    assert len(list(store.folder.iterdir())) == 3


def test_changed_bytes_are_refused(store):
    part = store.put({"w": torch.ones(4)})
    path = store.folder / part.digest
    payload = bytearray(path.read_bytes())
    payload[-1] ^= 1
    path.write_bytes(payload)
    with pytest.raises(RunError, match=f"{part.digest} was changed"):
        store.get(part)


def test_a_part_that_is_not_here(store):
    with pytest.raises(RunError, match="missing"):
        store.get(Part("0" * 64, 1))


class Untouched:
    """A folder in which nobody may look for a file."""

    def __truediv__(self, name):
        raise AssertionError("a path was made")


@pytest.mark.parametrize(
    "digest",
    [
        *("../../../../dev/zero", "/dev/zero", "/etc/hostname", "~", ".", "", "0" * 63, "0" * 65),
        *("A" * 64, "g" * 64, "0" * 64 + "\n", "x" * 10**6, "\x1b[2J", None, 5, b"0" * 64, ["0"]),
    ],
    ids=lambda digest: repr(digest)[:20],
)
def test_a_digest_that_is_none_is_refused_before_any_file_is_opened(digest):
    with pytest.raises(RunError, match="64 lowercase hexadecimal digits, got") as error:
        PartStore(Untouched()).get(Part(digest, 1))
    assert len(str(error.value)) < 200 and str(error.value).isprintable()


@pytest.mark.parametrize("size", [0, -1, True, 8.0, "8", None, float("nan")])
def test_a_size_that_is_none_is_refused_before_any_file_is_opened(size):
    with pytest.raises(RunError, match="must be a whole number, got"):
        PartStore(Untouched()).get(Part("0" * 64, size))


def test_a_file_of_another_size_is_not_read(store, monkeypatch):
    part = store.put({"w": torch.ones(4)})
    with monkeypatch.context() as patch, pytest.raises(RunError, match="was changed"):
        patch.setattr(hashlib, "file_digest", None)
        store.get(Part(part.digest, part.size_bytes + 1))


def test_a_half_written_part_is_written_again(store):
    tensors = {"w": torch.ones(100)}
    path = store.folder / store.put(tensors).digest
    path.write_bytes(path.read_bytes()[:50])
    assert torch.equal(store.get(store.put(tensors))["w"], tensors["w"])


def test_parts_are_the_callers_own(store):
    part = store.put({"w": torch.ones(2)})
    store.get(part)["w"].zero_()
    assert store.get(part)["w"].tolist() == [1, 1]


def test_keep_deletes_the_others(store):
    parts = [store.put({"w": torch.full((2,), float(i))}) for i in range(3)]
    store.keep({parts[1].digest})
    assert [path.name for path in store.folder.iterdir()] == [parts[1].digest]


def test_keep_before_anything_was_put(store):
    store.keep(set())
