"""Keys, masks, boxes and shares: published vectors, and what must not work."""

import hashlib
import hmac
import json
import random
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leff.errors import SecureSumError
from leff.privacy import masks
from leff.privacy.masks import (
    KEY_BYTES,
    SHARE_BYTES,
    add_mask,
    agreed,
    check_public_key,
    combined,
    commitment,
    is_share,
    public_key,
    seal,
    split,
    unseal,
)

# RFC 7748, section 6.1
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
BOBS = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
ALICES = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
SHARED = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
# RFC 8439, appendix A.1, vector 1: the key, the nonce and the counter are 0
STREAM = bytes.fromhex(
    "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
)
KEY = random.Random(0).randbytes(KEY_BYTES)


def hkdf(secret: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256, no salt, one block."""
    key = hmac.digest(bytes(32), secret, hashlib.sha256)
    return hmac.digest(key, info + b"\x01", hashlib.sha256)


def test_keys_agree_as_the_rfcs_say():
    info = json.dumps(["leff", "pair", 3, "layer 7"]).encode()
    assert public_key(BOB) == BOBS
    assert agreed(BOB, ALICES, "pair", 3, "layer 7") == hkdf(SHARED, info)


def test_both_sides_agree_on_a_secret_for_each_purpose():
    purposes = [("pair", 1, "a"), ("pair", 1, "b"), ("pair", 2, "a"), ("pair", 11, "a"), ("a",)]
    ours = [agreed(BOB, public_key(KEY), *purpose) for purpose in purposes]
    assert ours == [agreed(KEY, BOBS, *purpose) for purpose in purposes]
    assert len(set(ours)) == len(purposes)


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33), bytes(32), b"\x01" + bytes(31)])
def test_a_malformed_key_is_refused(key):
    """Of a wrong length, or a point of low order, with which anybody knows the secret."""
    with pytest.raises(SecureSumError, match="client 3 has a malformed public key") as found:
        check_public_key(key, 3)
    assert found.value.client == 3
    check_public_key(BOBS, 3)


def test_a_mask_is_the_key_stream_of_the_rfc():
    values = np.zeros(16, np.uint32)
    add_mask(values, bytes(32), 1)
    assert values.astype("<u4").tobytes() == STREAM


@given(st.integers(0, 40), st.binary(min_size=32, max_size=32))
@settings(max_examples=50)
def test_pieces_make_no_difference_and_a_mask_comes_off(size, seed):
    values = np.arange(size, dtype=np.uint32)
    whole = values.copy()
    add_mask(whole, seed, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "PIECE", 16)
        in_pieces = values.copy()
        add_mask(in_pieces, seed, 1)
        np.testing.assert_array_equal(in_pieces, whole)
        add_mask(whole, seed, -1)
    np.testing.assert_array_equal(whole, values)


def test_a_box_opens_with_its_key_unchanged():
    sealed = seal(KEY, b"shares")
    assert unseal(KEY, sealed, 3) == b"shares"
    for key, box in [(BOB, sealed), (KEY, sealed[:-1]), (KEY, b""), (KEY, b"x" + sealed[1:])]:
        with pytest.raises(SecureSumError, match="shares from client 3 cannot be opened") as found:
            unseal(key, box, 3)
        assert found.value.client == 3


@pytest.mark.parametrize(("threshold", "count"), [(2, 2), (2, 3), (3, 5), (4, 6)])
def test_shares_give_the_key_from_the_threshold_on(threshold, count):
    shares = split(KEY, threshold, count)
    assert all(len(share) == SHARE_BYTES for share in shares)
    for some in combinations(shares, threshold):
        assert combined(some) == KEY
    assert combined(shares) == KEY
    for few in combinations(shares, threshold - 1):
        assert combined(few) != KEY


def test_a_share_has_its_number():
    shares = split(KEY, 2, 3)
    assert [[is_share(share, i) for i in range(3)] for share in shares] == np.eye(3).tolist()
    assert not is_share(shares[0][:-1], 0) and not is_share(b"", 0)


def test_a_wrong_share_gives_another_key():
    first, second, _ = split(KEY, 2, 3)
    for place in (4, 20, 40, 51):
        wrong = bytearray(second)
        wrong[place] ^= 1
        assert combined([first, bytes(wrong)]) != KEY


def test_a_commitment_is_bound_to_all_that_it_is_for():
    made = {commitment(KEY, 2, 3, "a"), commitment(KEY, 2, 3, "b"), commitment(KEY, 2, 4, "a")}
    made |= {commitment(KEY, 3, 2, "a"), commitment(BOB, 2, 3, "a"), commitment(KEY, 23, "a")}
    assert len(made) == 6 and all(len(each) == 32 for each in made)
