"""Sums under masks: equal to the plain ones to the bit, and all that the server learns."""

import itertools
import random
import secrets
import sys
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from leff.errors import SecureSumError
from leff.privacy import secure_client, secure_server
from leff.privacy.fixed_point import FixedPoint
from leff.privacy.masks import add_mask, combined, public_key, split
from leff.privacy.secure_messages import pair_seed, pair_sign
from leff.privacy.secure_server import _verified
from leff.privacy.secure_sums import (
    Boxes,
    Group,
    Masked,
    SecureClient,
    SecureServer,
    Survivors,
)

ROUND = 7
NEVER = 4  # a client that drops at phase 0 sends no keys; at 3, no shares of masks
ALL = {"a": Group((0, 1, 2, 3, 4), 5)}
FALSE_ALARM = 1e-6  # of one chi-square test, if its bytes are uniform


def drawn(groups, seed=0):
    """Return random words for each client's groups."""
    rng = np.random.default_rng(seed)
    clients = sorted({client for group in groups.values() for client in group.cohort})
    return {
        client: {
            name: rng.integers(0, 2**32, group.size, dtype=np.uint32)
            for name, group in groups.items()
            if client in group.cohort
        }
        for client in clients
    }


def play(groups, threshold, least=2, gone=(), values=None, seed=0, until="sums"):
    """Play a round, in which client i drops at phase gone[i]; return all that was said."""
    values = values or drawn(groups, seed)
    source, gone = random.Random(seed).randbytes, dict(gone)
    phase = {client: gone.get(client, NEVER) for client in values}
    said = SimpleNamespace(values=values, clients={})
    said.clients = {i: SecureClient(i, ROUND, random_bytes=source) for i in values}
    said.server = SecureServer(ROUND, groups, threshold, least)
    said.keys = [said.clients[i].advertise() for i in values if phase[i] > 0]
    said.roster = said.server.roster(said.keys)
    said.shares = [said.clients[i].share(said.roster) for i in values if phase[i] > 1]
    said.boxes = said.server.boxes(said.shares)
    if until == "boxes":
        return said
    said.masked = [said.clients[i].mask(said.boxes[i], values[i]) for i in values if phase[i] > 2]
    said.survivors = said.server.survivors(said.masked)
    if until == "survivors":
        return said
    said.answers = [said.clients[i].unmask(said.survivors) for i in values if phase[i] > 3]
    said.sums = said.server.sums(said.answers)
    return said


def check(said, groups, least, gone):
    """The sums are those of the survivors, to the bit, and nobody gave both of one client."""
    sent = [client for client in said.values if gone.get(client, NEVER) >= 3]
    left = {n: tuple(i for i in group.cohort if i in sent) for n, group in groups.items()}
    assert {n: each.clients for n, each in said.sums.items()} == {
        name: clients for name, clients in left.items() if len(clients) >= least
    }
    for name, found in said.sums.items():
        plain = sum(said.values[i][name].astype(object) for i in found.clients) % 2**32
        assert found.total.dtype == np.uint32
        np.testing.assert_array_equal(found.total, plain.astype(np.uint32))
    for answer in said.answers:
        of_self = {owner for shares in answer.self_masks.values() for owner in shares}
        assert not of_self & set(answer.mask_keys)
        assert set(answer.self_masks) == set(said.sums)


# Flower's Shamir takes seconds for a hundred shares; over this field it is the same to the protocol
PRIME = 2**384 - 2**128 - 2**96 + 2**32 - 1


def prime_split(secret, threshold, count):
    rest = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    shares = []
    for x in range(1, count + 1):
        y = 0
        for coefficient in [*reversed(rest), int.from_bytes(secret, "big")]:
            y = (y * x + coefficient) % PRIME
        shares.append(x.to_bytes(4, "little") + y.to_bytes(48, "big"))
    return shares


def prime_combined(shares):
    points = [(int.from_bytes(s[:4], "little"), int.from_bytes(s[4:], "big")) for s in shares]
    total = 0
    for x, y in points:
        over = under = 1
        for other, _ in points:
            if other != x:
                over, under = over * other % PRIME, under * (other - x) % PRIME
        total += y * over * pow(under, -1, PRIME)
    secret = total % PRIME
    return secret.to_bytes(32, "big") if secret < 2**256 else b""


@pytest.fixture
def quick_shares(monkeypatch):
    monkeypatch.setattr(secure_client, "split", prime_split)
    monkeypatch.setattr(secure_server, "combined", prime_combined)


@st.composite
def rounds(draw, most_clients):
    """A round's groups, threshold, least cohort, who drops when, and a seed."""
    count = draw(st.integers(3, most_clients))
    threshold = draw(st.integers(count // 2 + 1, count))
    cohorts = st.sets(st.integers(0, count - 1), min_size=1)
    groups = {
        f"group {i}": Group(tuple(sorted(draw(cohorts))), draw(st.integers(1, 9)))
        for i in range(draw(st.integers(0, 3)))
    }
    groups["all"] = Group(tuple(range(count)), draw(st.integers(1, 9)))
    leaving = draw(st.sets(st.integers(0, count - 1), max_size=count - threshold))
    gone = {client: draw(st.integers(0, 3)) for client in sorted(leaving)}
    return groups, threshold, draw(st.integers(2, 4)), gone, draw(st.integers(0, 2**32))


def law(most_clients, examples):
    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(rounds(most_clients))
    def sums_are_those_of_the_survivors(case):
        groups, threshold, least, gone, seed = case
        fixed = FixedPoint(0.5, len(groups["all"].cohort))
        rng = np.random.default_rng(seed)
        words = drawn(groups)
        floats = {
            i: {n: np.float32(rng.choice([-0.5, 0.5, 0, *rng.uniform(-0.5, 0.5, 5)], len(w)))
                for n, w in own.items()}
            for i, own in words.items()
        }  # fmt: skip
        values = {
            i: {name: fixed.encode(each) for name, each in own.items()} for i, own in floats.items()
        }
        said = play(groups, threshold, least, gone, values, seed)
        check(said, groups, least, gone)
        for name, found in said.sums.items():
            steps = [np.rint(floats[i][name].astype(float) * fixed.scale) for i in found.clients]
            np.testing.assert_array_equal(fixed.decode(found.total), sum(steps) / fixed.scale)

    sums_are_those_of_the_survivors()


@pytest.mark.soak(20, 1000)
def test_sums_are_those_of_the_survivors(count):
    law(8, count)


@pytest.mark.slow
@pytest.mark.soak(8, 300)
def test_sums_of_up_to_a_hundred_clients(count, quick_shares):
    law(100, count)


@pytest.mark.slow
@pytest.mark.soak(30, 100)
def test_many_clients_with_flowers_shares(count):
    """`count` clients, of whom a fifth drop, spread over the phases."""
    groups = {"tail": Group(tuple(range(count)), 3), "layer": Group(tuple(range(0, count, 4)), 6)}
    gone = {client: client // 5 % 4 for client in range(0, count, 5)}
    check(play(groups, count // 2 + 1, 3, gone), groups, 3, gone)


@pytest.mark.parametrize("phase", range(4))
@pytest.mark.parametrize("client", range(5))
def test_any_client_may_drop_at_any_phase(client, phase):
    groups = {**ALL, "b": Group((1, 3, 4), 2), "c": Group((2,), 4)}
    gone = {client: phase}
    check(play(groups, 4, 2, gone), groups, 2, gone)


@pytest.mark.parametrize("phases", list(itertools.product(range(NEVER + 1), repeat=3)))
def test_three_clients_in_every_pattern(phases, quick_shares):
    """Two have to be left at every phase; else the round ends, and says so."""
    groups, gone = {"a": Group((0, 1, 2), 4)}, dict(enumerate(phases))
    if sum(phase == NEVER for phase in phases) >= 2:
        check(play(groups, 2, 2, gone), groups, 2, gone)
    else:
        with pytest.raises(SecureSumError, match="the threshold is 2"):
            play(groups, 2, 2, gone)


def test_whoever_answers_the_sum_is_the_same():
    said = play(ALL, 3)
    for some in itertools.combinations(said.answers, 3):
        for answers in (some, some[::-1]):
            (found,) = said.server.sums(answers).values()
            np.testing.assert_array_equal(found.total, said.sums["a"].total)


def test_messages_are_numbers_texts_and_bytes():
    def plain(value):
        if isinstance(value, (tuple, list)):
            return all(map(plain, value))
        if isinstance(value, Mapping):
            return all(map(plain, value)) and all(map(plain, value.values()))
        if isinstance(value, (int, str, bytes)):
            return True
        return all(plain(getattr(value, field.name)) for field in fields(value))

    said = play(ALL, 3, gone={1: 2})
    sent = [said.keys, said.roster, said.shares, *said.boxes.values(), said.masked]
    assert all(map(plain, [*sent, said.survivors, said.answers]))


# What the server learns


def mask_of(size, seed, sign=1):
    mask = np.zeros(size, np.uint32)
    add_mask(mask, seed, sign)
    return mask


def words(sent, name):
    return np.frombuffer(sent.values[name], "<u4")


def masks_of(said, client, name):
    """Return a client's self mask, and its pair masks by peer, each with its sign."""
    group, keys = said.roster.groups[name], {each.client: each for each in said.roster.keys}
    own = mask_of(group.size, said.clients[client].state.seeds[name])
    pairs = {
        peer: mask_of(
            group.size,
            pair_seed(said.clients[client].state.mask_key, keys[peer], ROUND, name),
            pair_sign(client, peer),
        )
        for peer in group.cohort
        if peer != client and peer in said.boxes
    }
    return own, pairs


def test_all_updates_of_one_sum_are_equally_likely_to_the_server():
    """For updates x and any x' of the same sums there are masks with which x' looks as x does.

    Nothing else that clients say depends on their updates.  The self masks, and the pair masks with
    clients that dropped, are known to the server, so they are left as they are.  Those of two
    survivors are moved, along a chain of the survivors: it works for each choice of masks, in both
    ways.  So as many choices lead from x' to what the server saw as from x.
    """
    groups = {**ALL, "b": Group((0, 2, 3), 4)}
    gone = {4: 2}
    said = play(groups, 3, gone=gone, until="boxes")
    others, moved = deepcopy(said.clients), drawn(groups, seed=1)
    left = {name: [i for i in group.cohort if i not in gone] for name, group in groups.items()}
    for name, clients in left.items():  # the last makes the sums equal
        due = sum(said.values[i][name] for i in clients)
        moved[clients[-1]][name] = due - sum(moved[i][name] for i in clients[:-1])
    masked = {i: said.clients[i].mask(said.boxes[i], said.values[i]) for i in range(4)}
    masked_moved = {i: others[i].mask(said.boxes[i], moved[i]) for i in range(4)}
    survivors = Survivors((0, 1, 2, 3))
    for i in range(4):
        assert said.clients[i].unmask(survivors) == others[i].unmask(survivors)
    for name, clients in left.items():
        carried = np.zeros(groups[name].size, np.uint32)
        chain = zip([None, *clients[:-1]], clients, [*clients[1:], None], strict=True)
        for before, client, after in chain:
            own, pairs = masks_of(said, client, name)
            np.testing.assert_array_equal(
                said.values[client][name] + own + sum(pairs.values()), words(masked[client], name)
            )
            if before is not None:
                pairs[before] = pairs[before] - carried  # what its peer has more
            carried = carried + (said.values[client][name] - moved[client][name])
            if after is not None:
                pairs[after] = pairs[after] + carried
            else:
                assert not carried.any()
            as_seen = moved[client][name] + own + sum(pairs.values())
            np.testing.assert_array_equal(as_seen, words(masked[client], name))
            assert (words(masked_moved[client], name) != as_seen).any()  # with the masks unmoved


def uniform(values):
    """Whether the bytes of words look uniform, in each of the four places."""
    places = np.asarray(values, "<u4").reshape(-1, 1).view(np.uint8)
    for place in places.T:
        counts, expected = np.bincount(place, minlength=256), len(place) / 256
        if ((counts - expected) ** 2 / expected).sum() > chi2.isf(FALSE_ALARM, 255):
            return False
    return True


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_masked_values_are_uniform(value, quick_shares):
    """Of one vector, over many fresh keys; so are differences of what two masks should hide."""
    groups = {"a": Group((0, 1, 2), 64), "b": Group((0, 1, 2), 64)}
    fixed = FixedPoint(1.0, 3).encode(np.full(64, value))
    values = {client: {"a": fixed, "b": fixed} for client in range(3)}
    seen = {(i, name): [] for i in range(3) for name in groups}
    for seed in range(200):
        for sent in play(groups, 2, values=values, seed=seed, until="survivors").masked:
            for name in groups:
                seen[sent.client, name].append(words(sent, name))
    seen = {key: np.concatenate(found) for key, found in seen.items()}
    assert not uniform(np.tile(fixed, 200))  # the test can fail
    assert all(map(uniform, seen.values()))
    for one, other in itertools.combinations(seen.values(), 2):
        assert uniform(one - other)
    total = seen[0, "a"] + seen[1, "a"] + seen[2, "a"]
    assert uniform(total)  # the self masks are still there


def test_a_group_that_few_are_left_of_stays_closed(quick_shares):
    """Client 2 drops, and its key is given away, since it is in the group that is opened.

    In "b" and "c" the server can take off what client 2 masked with.  The self masks remain: it has
    no share of them, and what is left is uniform over fresh keys.
    """
    groups = {"a": Group((0, 1, 2, 3, 4), 2), "b": Group((0, 1, 2), 64), "c": Group((0, 2), 64)}
    gone, values = {2: 2}, drawn({"a": Group((0, 1, 2, 3, 4), 2)})
    for name in "bc":
        for client in groups[name].cohort:
            values[client][name] = np.zeros(64, np.uint32)
    remains = {(0, "b"): [], (1, "b"): [], (0, "c"): [], "sum of b": []}
    for seed in range(200):
        said = play(groups, 3, 3, gone, values, seed)
        assert list(said.sums) == ["a"]
        held = prime_combined([answer.mask_keys[2] for answer in said.answers])
        assert public_key(held) == said.roster.keys[2].masking
        for answer in said.answers:
            assert set(answer.self_masks) == {"a"} and 2 not in answer.self_masks["a"]
        bare = {}
        for client, name in [(0, "b"), (1, "b"), (0, "c")]:
            pair = mask_of(64, pair_seed(held, said.roster.keys[client], ROUND, name))
            bare[client, name] = words(said.masked[client], name) - pair  # 0 and 1 add it
            remains[client, name].append(bare[client, name])
        remains["sum of b"].append(bare[0, "b"] + bare[1, "b"])
        own, _ = masks_of(said, 0, "c")
        np.testing.assert_array_equal(bare[0, "c"], own)  # the values are 0
    assert all(uniform(np.concatenate(found)) for found in remains.values())


def test_a_key_of_a_client_that_is_in_no_opened_group_is_kept():
    said = play({**ALL, "b": Group((4, 5), 2)}, 4, 2, gone={5: 2})
    assert list(said.sums) == ["a"]
    assert all(answer.mask_keys == {} for answer in said.answers)


def test_a_late_value_of_a_client_that_dropped_stays_masked():
    """Its key is known then, and so are its pair masks; of its self mask nobody gave a share."""
    said = play(ALL, 3, gone={4: 2})
    late = said.clients[4].mask(said.boxes[4], said.values[4])
    own, pairs = masks_of(said, 4, "a")
    np.testing.assert_array_equal(words(late, "a") - sum(pairs.values()), said.values[4]["a"] + own)
    assert all(4 not in answer.self_masks["a"] for answer in said.answers)
    with pytest.raises(SecureSumError, match="client 4 is not among the survivors 0, 1, 2, 3"):
        said.clients[4].unmask(said.survivors)


def test_no_key_is_used_twice(monkeypatch, quick_shares):
    """A box's nonce and a mask's start at 0, so each box and each mask needs a key of its own."""
    sealed, masked = [], []
    seal, add_mask = secure_client.seal, secure_client.add_mask
    monkeypatch.setattr(
        secure_client, "seal", lambda key, plain: sealed.append(key) or seal(key, plain)
    )
    monkeypatch.setattr(
        secure_client, "add_mask", lambda *given: masked.append(given[1]) or add_mask(*given)
    )
    groups = {"a": Group((0, 1, 2), 1), "b": Group((0, 1, 2), 1), "c": Group((0, 2), 1)}
    for round_index in (1, 2):  # with the same private keys, which is worse than it gets
        monkeypatch.setattr(sys.modules[__name__], "ROUND", round_index)
        play(groups, 2)
    assert len(set(sealed)) == len(sealed) == 2 * 6
    pairs, seeds = 2 * (3 + 3 + 1), 3 + 3 + 2  # both sides of a pair have its key; seeds recur
    assert len(masked) == 2 * (2 * 7 + 8) and len(set(masked)) == pairs + seeds


def test_keys_are_fresh_by_default():
    first, second = (SecureClient(0, ROUND) for _ in range(2))
    sent = [first.advertise(), second.advertise()]
    assert len({key for each in sent for key in (each.sealing, each.masking)}) == 4


def test_a_group_of_two_is_opened_by_default():
    clients = [SecureClient(i, ROUND) for i in range(5)]
    roster = SecureServer(ROUND, ALL, 3).roster(each.advertise() for each in clients)
    assert roster.least_cohort == 2
    assert clients[0].share(roster).client == 0


# What is refused


@pytest.mark.parametrize("threshold", [0, 1, 2, 6])
def test_a_threshold_is_a_majority(threshold):
    words = f"threshold must be more than half of the 5 clients .* 3 to 5, got {threshold}"
    with pytest.raises(SecureSumError, match=words):
        SecureServer(ROUND, ALL, threshold)
    said = play(ALL, 3, until="boxes")
    fresh = SecureClient(0, ROUND)
    keys = (fresh.advertise(), *said.roster.keys[1:])
    with pytest.raises(SecureSumError, match=words):
        fresh.share(replace(said.roster, keys=keys, threshold=threshold))


@pytest.mark.parametrize(
    ("group", "least", "words"),
    [
        (Group((0, 1, 2), 1), 1, "least_cohort must be at least 2, .* got 1"),
        (Group((0, 2, 1), 1), 2, r"cohort of a must be .* in order, got \(0, 2, 1\)"),
        (Group((0, 1, 1), 1), 2, r"each once and in order, got \(0, 1, 1\)"),
        (Group((0, 1, 2), 0), 2, "a must have at least 1 value, got 0"),
    ],
)
def test_terms_of_the_groups(group, least, words):
    with pytest.raises(SecureSumError, match=words):
        SecureServer(ROUND, {"a": group}, 2, least)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"round_index": 8}, "keys for round 7, and the roster is of round 8"),
        ({"least_cohort": 2}, "fewer than 3 clients .* least_cohort 2"),
        ({"least_cohort": 1}, "least_cohort must be at least 2"),
        ({"groups": {"a": Group((0, 9), 5)}}, r"cohort of a .* got \(0, 9\)"),
        ({"keys": "twice"}, "each client once, in order, and client 0 with the keys"),
        ({"keys": "backwards"}, "each client once, in order"),
        ({"keys": "another's"}, "client 0 with the keys that it sent"),
        ({"keys": "short"}, "client 3 has a malformed public key, 616263"),
    ],
)
def test_a_roster_that_a_client_takes_no_part_in(change, words):
    clients = [SecureClient(i, ROUND, least_cohort=3) for i in range(5)]
    roster = SecureServer(ROUND, ALL, 3, 3).roster(c.advertise() for c in clients)
    keys = roster.keys
    given = {
        "twice": (*keys, keys[-1]),
        "backwards": keys[::-1],
        "another's": (replace(keys[0], masking=keys[1].masking), *keys[1:]),
        "short": (*keys[:3], replace(keys[3], sealing=b"abc"), keys[4]),
    }
    wrong = {name: given[each] if isinstance(each, str) else each for name, each in change.items()}
    with pytest.raises(SecureSumError, match=words):
        clients[0].share(replace(roster, **wrong))
    assert clients[0].share(roster).client == 0  # nothing has happened


@pytest.mark.parametrize(
    ("phase", "words"),
    [(0, "1, 4 sent keys"), (1, "1, 4 sent shares"), (2, "1, 4 sent values"), (3, "1, 4 sent")],
)
def test_too_few_are_left(phase, words):
    with pytest.raises(SecureSumError, match=f"only the clients {words}.* threshold is 3") as found:
        play(ALL, 3, gone=dict.fromkeys((0, 2, 3), phase))
    assert found.value.client is None


def test_a_client_stops_if_too_few_are_left():
    said = play(ALL, 4, until="boxes")
    few = Boxes({i: said.boxes[0].boxes[i] for i in (1, 2)})
    with pytest.raises(SecureSumError, match=r"only the clients 0, 1, 2 shared .* threshold is 4"):
        said.clients[0].mask(few, said.values[0])
    said.clients[0].mask(said.boxes[0], said.values[0])
    with pytest.raises(SecureSumError, match=r"only the clients 0, 1, 3 sent .* threshold is 4"):
        said.clients[0].unmask(Survivors((0, 1, 3)))


@pytest.fixture
def at_the_end():
    return play({**ALL, "b": Group((1, 3), 2)}, 3, gone={4: 2}, until="survivors")


@pytest.mark.parametrize(
    ("survivors", "words"),
    [
        ((0, 1, 2, 9), "clients 0, 1, 2, 9 cannot be .* one of 0, 1, 2, 3, 4"),
        ((0, 1, 2, 2), "named once"),
        ((1, 2, 3), "client 0 is not among the survivors 1, 2, 3"),
    ],
)
def test_survivors_that_cannot_be(survivors, words, at_the_end):
    with pytest.raises(SecureSumError, match=words):
        at_the_end.clients[0].unmask(Survivors(survivors))


def test_a_client_answers_for_one_set_of_survivors(at_the_end):
    client = at_the_end.clients[0]
    answer = client.unmask(at_the_end.survivors)
    assert client.unmask(at_the_end.survivors) == answer
    words = "has answered for the survivors 0, 1, 2, 3, and is asked for 0, 1, 2, 4"
    with pytest.raises(SecureSumError, match=words):
        client.unmask(Survivors((0, 1, 2, 4)))
    assert client.unmask(at_the_end.survivors) == answer


def test_phases_come_once_and_in_order():
    said = play(ALL, 3, until="boxes")
    fresh, client = SecureClient(0, ROUND), said.clients[0]
    for asked, words in [
        (lambda: fresh.mask(said.boxes[0], said.values[0]), "asked to mask .* has to share next"),
        (lambda: fresh.unmask(Survivors((0,))), "asked to unmask .* has to share next"),
        (lambda: client.share(said.roster), "client 0 was asked to share in round 7, and has to"),
    ]:
        with pytest.raises(SecureSumError, match=words):
            asked()
    client.mask(said.boxes[0], said.values[0])
    with pytest.raises(SecureSumError, match=r"asked to mask .* has to unmask next"):
        client.mask(said.boxes[0], said.values[0])
    for method in ("boxes", "survivors", "sums"):
        with pytest.raises(SecureSumError, match="only the clients none sent"):
            getattr(SecureServer(ROUND, ALL, 3), method)([])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "client 0 trains a, and got values of none"),
        ({"a": np.zeros(5, np.uint32), "b": np.zeros(2, np.uint32)}, "got values of a, b"),
        ({"a": np.zeros(4, np.uint32)}, r"a must be 5 encoded values .* of shape \(4,\)"),
        ({"a": np.zeros(5, np.float32)}, "a must be 5 encoded values .* got float32"),
    ],
)
def test_values_that_are_no_groups(values, words):
    said = play(ALL, 3, until="boxes")
    with pytest.raises(SecureSumError, match=words):
        said.clients[0].mask(said.boxes[0], values)


def test_boxes_that_do_not_open():
    said = play(ALL, 3, until="boxes")
    boxes, client = said.boxes[0].boxes, said.clients[0]
    for wrong in (boxes[2][:-1], said.boxes[1].boxes[2], boxes[3]):
        with pytest.raises(SecureSumError, match="shares from client 2 cannot be opened") as found:
            client.mask(Boxes({**boxes, 2: wrong}), said.values[0])
        assert found.value.client == 2
    with pytest.raises(SecureSumError, match="cannot be those that shared their secrets"):
        client.mask(Boxes({**boxes, 9: boxes[2]}), said.values[0])
    assert client.mask(said.boxes[0], said.values[0]).client == 0


@pytest.mark.parametrize("cut", [slice(0), slice(1)])
def test_a_box_of_another_length(cut, monkeypatch):
    honest = secure_client.seal
    monkeypatch.setattr(secure_client, "seal", lambda key, plain: honest(key, plain[cut]))
    with pytest.raises(
        SecureSumError, match=r"sent a box of 1\d bytes .* has to send 120"
    ) as found:
        play(ALL, 3, until="boxes")
    assert found.value.client in range(5)


def test_a_box_with_malformed_shares(monkeypatch):
    honest = secure_client.seal
    monkeypatch.setattr(secure_client, "seal", lambda key, plain: honest(key, plain[::-1]))
    said = play(ALL, 3, until="boxes")
    with pytest.raises(SecureSumError, match="sent client 0 malformed shares") as found:
        said.clients[0].mask(said.boxes[0], said.values[0])
    assert found.value.client in (1, 2, 3, 4)


def refused(method, messages, wrong, words):
    """A method refuses a message, says whose it is, and can be called again without it."""
    for place in (0, len(messages)):
        with pytest.raises(SecureSumError, match=words) as found:
            method([*messages[:place], wrong, *messages[place:]])
        assert found.value.client == wrong.client
    return method(messages)


def test_messages_of_strangers_and_second_ones(at_the_end):
    said, stranger = at_the_end, SecureClient(9, ROUND).advertise()
    answers = [said.clients[i].unmask(said.survivors) for i in range(4)]
    server = said.server
    for method, messages, left in [
        (server.roster, said.keys, "are invited are 0, 1, 2, 3, 4"),
        (server.boxes, said.shares, "sent keys are 0, 1, 2, 3, 4"),
        (server.survivors, said.masked, "sent shares are 0, 1, 2, 3, 4"),
        (server.sums, answers, "sent values are 0, 1, 2, 3"),
    ]:
        kind = type(messages[0]).__name__
        refused(method, messages, replace(messages[0], client=9), f"9 sent {kind}, .*{left}")
        with pytest.raises(SecureSumError, match=f"client 0 sent {kind} twice") as found:
            method([*messages, messages[0]])
        assert found.value.client == 0
    refused(server.roster, said.keys, stranger, "client 9 sent Keys, and those that are invited")
    with pytest.raises(SecureSumError, match="client 4 sent Unmasked, and those that sent values"):
        server.sums([*answers, replace(answers[0], client=4)])


@pytest.mark.parametrize("key", [b"", b"abc", bytes(32)])
@pytest.mark.parametrize("which", ["sealing", "masking"])
def test_a_malformed_public_key(key, which):
    said = play(ALL, 3, until="boxes")
    server = SecureServer(ROUND, ALL, 3)
    wrong = replace(said.keys[2], **{which: key})
    honest = [each for each in said.keys if each.client != 2]
    roster = refused(server.roster, honest, wrong, "client 2 has a malformed public key")
    assert roster.clients == (0, 1, 3, 4) and roster.groups["a"].cohort == (0, 1, 3, 4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"boxes": {1: b""}}, "client 0 sent shares for the clients 1, and must for all others of"),
        ({"commitments": {}}, "client 0 committed to self masks of nothing, and trains a"),
        ({"commitments": {"a": b"", "b": b""}}, "committed to self masks of a, b, and trains a"),
    ],
)
def test_shares_that_are_not_complete(change, words):
    said = play(ALL, 3, until="boxes")
    refused(said.server.boxes, said.shares[1:], replace(said.shares[0], **change), words)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "client 0 sent nothing, and the round has 20 bytes of a for it"),
        ({"a": bytes(16)}, "client 0 sent 16 bytes of a, and the round has 20 bytes of a"),
        ({"a": bytes(20), "b": bytes(8)}, "sent 20 bytes of a, 8 bytes of b, and the round has 20"),
    ],
)
def test_sizes_that_differ_between_clients(values, words, at_the_end):
    said = at_the_end
    left = refused(said.server.survivors, said.masked[1:], Masked(0, values), words)
    assert left.clients == (1, 2, 3)


def test_an_answer_lacks_a_share_or_has_one_more(at_the_end):
    said = at_the_end
    answers = [said.clients[i].unmask(said.survivors) for i in range(4)]
    first, shares = answers[0], answers[0].self_masks
    for change, words in [
        ({"mask_keys": {}}, "client 0 gave no share of client 4's mask key"),
        ({"mask_keys": {**first.mask_keys, 2: b""}}, "gave a share of client 2's mask key"),
        ({"self_masks": {"a": shares["a"]}}, "gave no share of client 1's self mask of b"),
        ({"self_masks": {**shares, "b": {**shares["b"], 2: b""}}}, "client 2's self mask of b"),
        ({"mask_keys": {4: b"abc"}}, "gave a malformed share of client 4's mask key"),
        ({"mask_keys": answers[1].mask_keys}, "gave a malformed share of client 4's mask key"),
        (
            {"self_masks": {**shares, "a": {**shares["a"], 3: b""}}},
            "client 0 gave a malformed share of client 3's self mask of a",
        ),
    ]:
        refused(said.server.sums, answers[1:], replace(first, **change), words)


def changed(share, bits=1):
    return share[:-20] + bytes([share[-20] ^ bits]) + share[-19:]


def with_wrong_shares(answer):
    """The answer, once with a wrong share of a mask key and once with one of a self mask."""
    masks, bits = answer.self_masks, answer.client + 1  # alike, two could cancel one another
    wrong = {**masks["b"], 3: changed(masks["b"][3], bits)}
    return [
        (replace(answer, mask_keys={4: changed(answer.mask_keys[4], bits)}), "client 4's mask key"),
        (replace(answer, self_masks={**masks, "b": wrong}), "client 3's self mask of b"),
    ]


@pytest.mark.parametrize("liars", [(0,), (1,), (2,), (3,)])
def test_wrong_shares_do_no_harm_if_enough_are_right(at_the_end, liars):
    """Three shares give a secret, and four are there.  Nobody is blamed: it may be the owner."""
    said = at_the_end
    answers = [said.clients[i].unmask(said.survivors) for i in range(4)]
    right = said.server.sums(answers)
    for place in (0, 1):
        sent = [
            with_wrong_shares(each)[place][0] if each.client in liars else each for each in answers
        ]
        np.testing.assert_array_equal(said.server.sums(sent)["b"].total, right["b"].total)


@pytest.mark.parametrize("liars", [(0, 3), (1, 2), (0, 1, 2), (2, 4, 6)])
def test_right_shares_are_found_wherever_they_lie(liars):
    """Seven clients have shares of a secret that four give; up to three of them lie."""
    shares = dict(enumerate(split(bytes(range(32)), 4, 7)))
    for liar in liars:
        shares[liar] = changed(shares[liar], liar + 1)
    givers = list(range(7))
    found = _verified("it", givers, shares, 4, lambda secret: secret == bytes(range(32)))
    assert found == bytes(range(32))
    first = combined([shares[giver] for giver in givers[:4]])  # of the next secret too
    assert first == found and sorted(givers) == list(range(7))


def test_too_many_wrong_shares_are_nobody_s(at_the_end):
    said = at_the_end
    answers = [said.clients[i].unmask(said.survivors) for i in range(4)]
    wrong = [[each[place][0] for each in map(with_wrong_shares, answers)] for place in (0, 1)]
    for place, (_, what) in enumerate(with_wrong_shares(answers[0])):
        for sent in (wrong[place][:2] + answers[2:], [wrong[place][0], *answers[1:3]]):
            clients = ", ".join(str(each.client) for each in sent)
            words = f"shares of {what} that the clients {clients} gave do not verify"
            with pytest.raises(SecureSumError, match=words) as found:
                said.server.sums(sent)
            assert found.value.client is None
