"""The device's cache of parts: what stays, what goes, what a restart leaves."""

import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leff.device.cache import PartCache
from leff.errors import RunError
from leff.wire.messages import Part
from leff.wire.tensors import pack, part_of


def payload(seed, numbers=25):
    return pack({"w": torch.arange(numbers, dtype=torch.float32) + seed})


SIZE = len(payload(0))  # of a part of 25 numbers


@pytest.fixture
def cache(tmp_path):
    return PartCache(tmp_path / "cache", 3 * SIZE)


def add(cache, content):
    part = part_of(content)
    cache.unfinished(part).write_bytes(content)
    assert cache.finish(part)
    return part


def later(cache):
    """Every file as of a moment ago, so that the order does not hang on the clock's ticks."""
    for path in cache.folder.iterdir():
        before = path.stat().st_mtime_ns - 10**9
        os.utime(path, ns=(before, before))


def test_what_is_added_is_read_to_the_bit(cache):
    part = add(cache, payload(1))
    assert torch.equal(cache.get(part)["w"], torch.arange(25) + 1.0)
    assert cache.get(part_of(payload(2))) is None


@pytest.mark.parametrize("damage", [b"", b"x", bytes(SIZE), bytes(SIZE + 1)])
def test_a_damaged_part_is_removed_by_the_next_process(cache, damage):
    part = add(cache, payload(1))
    cache.path(part).write_bytes(damage)
    again = PartCache(cache.folder, cache.most_bytes)
    assert again.get(part) is None and not cache.path(part).exists()


def test_a_part_is_checked_once_a_process(cache, monkeypatch):
    part = add(cache, payload(1))
    checked = []
    digest = part.digest
    monkeypatch.setattr("leff.device.cache.file_digest", lambda p: checked.append(p) or digest)
    again = PartCache(cache.folder, cache.most_bytes)
    assert again.holds(part) and again.holds(part) and again.get(part)
    assert checked == [cache.path(part)]


def test_what_arrived_wrong_gets_no_name(cache):
    part = part_of(payload(1))
    for content in (payload(2), b"", payload(1) + b"x"):
        cache.unfinished(part).write_bytes(content)
        assert not cache.finish(part)
        assert list(cache.folder.iterdir()) == []


def test_the_least_recently_used_goes_first(cache):
    parts = []
    for seed in range(3):
        later(cache)
        parts.append(add(cache, payload(seed)))
    later(cache)
    assert cache.holds(parts[0])  # a use
    later(cache)
    again = PartCache(cache.folder, cache.most_bytes)  # the order outlives the process
    add(again, payload(3))
    assert [again.holds(part) for part in parts] == [True, False, True]


def test_the_job_keeps_its_parts(cache):
    parts = []
    for seed in range(3):
        later(cache)
        parts.append(add(cache, payload(seed)))
    cache.keep([parts[0], parts[1], part_of(payload(3))])
    add(cache, payload(3))
    assert [cache.holds(part) for part in parts] == [True, True, False]
    cache.keep([part_of(payload(4))])
    add(cache, payload(4))
    assert not cache.path(part_of(payload(3))).exists()  # the others were looked at since


def test_a_job_that_is_too_large(cache):
    parts = [part_of(payload(seed)) for seed in range(4)]
    with pytest.raises(RunError, match=f"{4 * SIZE} bytes, and the cache may have {3 * SIZE}"):
        cache.keep(parts)
    cache.keep([parts[0], parts[0], parts[0], parts[0]])  # a part counts once


def test_a_part_that_does_not_fit(cache):
    cache.keep([add(cache, payload(seed)) for seed in range(3)])
    with pytest.raises(RunError, match="does not fit the cache"):
        cache.unfinished(part_of(payload(3)))


@pytest.mark.parametrize("digest", ["../x", "A" * 64, "", None, "0" * 63 + "/"])
def test_a_digest_that_cannot_be_one(cache, digest):
    for call in (cache.get, cache.holds, cache.unfinished, lambda part: cache.keep([part])):
        with pytest.raises(RunError, match="64 lowercase hexadecimal digits"):
            call(Part(digest, 5))


def test_cut_downloads_stay_and_count(cache):
    cut = part_of(payload(9))
    cache.unfinished(cut).write_bytes(payload(9)[:-1])
    assert cache.unfinished(cut).read_bytes() == payload(9)[:-1]
    for seed in range(3):
        later(cache)
        add(cache, payload(seed))
    assert len(list(cache.folder.iterdir())) == 3  # the oldest file was the cut one
    assert not cache.unfinished(cut).exists()


def test_a_cut_download_that_is_too_long_starts_again(cache):
    part = part_of(payload(1))
    cache.unfinished(part).write_bytes(payload(1) + b"x")
    assert not cache.unfinished(part).exists()


def test_free(cache):
    old, mine = add(cache, payload(1)), add(cache, payload(2))
    cache.keep([mine])
    assert cache.free() > 0
    assert not cache.holds(old) and cache.holds(mine)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    uses=st.lists(st.integers(0, 7), max_size=30),
    kept=st.sets(st.integers(0, 7), max_size=2),
    room=st.integers(3, 5),
)
def test_it_never_has_more_than_it_may(tmp_path_factory, uses, kept, room):
    cache = PartCache(tmp_path_factory.mktemp("cache"), room * SIZE + SIZE // 2)
    cache.keep([part_of(payload(seed)) for seed in kept])
    seen = set()
    for use in uses:
        if not cache.holds(part_of(payload(use))):
            add(cache, payload(use))
        seen.add(use)
        assert sum(path.stat().st_size for path in cache.folder.iterdir()) <= cache.most_bytes
        assert all(cache.holds(part_of(payload(seed))) for seed in kept & seen)
        assert cache.holds(part_of(payload(use)))
