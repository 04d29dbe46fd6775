"""Keys, masks, sealed shares: the cryptography of `secure_sums`, on plain bytes.

    private = secrets.token_bytes(KEY_BYTES)
    seed = agreed(private, theirs, "pair", 3, "layer 7")  # both sides get the same
    add_mask(values, seed, 1)                             # in place, modulo 2^32

X25519 (RFC 7748) for keys, HKDF-SHA256 (RFC 5869) for agreed secrets, ChaCha20 and
ChaCha20-Poly1305 (RFC 8439) for masks and shares; Shamir's sharing over GF(2^128) is Flower's.
"""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from leff.errors import SecureSumError

KEY_BYTES = 32  # of keys and seeds
SHARE_BYTES = 4 + 48  # the share's number, and a share of a padded key
TAG_BYTES = 16  # of ChaCha20-Poly1305
PIECE = 2**18  # values of a mask that are in memory at a time


def public_key(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def check_public_key(public: bytes, client: int) -> None:
    """Raise SecureSumError for a public key that no secret can be agreed with."""
    try:
        agreed(bytes(KEY_BYTES), public)  # a bad point gives no secret, whatever the private key
    except ValueError:
        raise SecureSumError(
            f"client {client} has a malformed public key, {public.hex()}; it has to be a point of "
            f"X25519, of {KEY_BYTES} bytes",
            client,
        ) from None


def agreed(private: bytes, public: bytes, *purpose: int | str) -> bytes:
    """Return the secret of two key pairs for a purpose; each side gives its own private key."""
    theirs = X25519PublicKey.from_public_bytes(public)
    secret = X25519PrivateKey.from_private_bytes(private).exchange(theirs)
    info = json.dumps(["leff", *purpose]).encode()
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=info).derive(secret)


def commitment(secret: bytes, *purpose: int | str) -> bytes:
    """Return what a random secret can be known by later; it does not tell the secret."""
    return hashlib.sha256(json.dumps(["leff", *purpose]).encode() + secret).digest()


def add_mask(values: NDArray[np.uint32], seed: bytes, sign: int) -> None:
    """Add a seed's mask to values in place, or take it away if `sign` is -1.  A piece at a time."""
    stream = Cipher(ChaCha20(seed, nonce=bytes(16)), mode=None).encryptor()  # a seed: one mask
    zeros, mask = memoryview(bytes(4 * PIECE)), np.empty(PIECE, dtype="<u4")
    change = np.add if sign > 0 else np.subtract
    for first in range(0, len(values), PIECE):
        piece = values[first : first + PIECE]
        stream.update_into(zeros[: 4 * len(piece)], mask.data.cast("B"))
        change(piece, mask[: len(piece)], out=piece)


def seal(key: bytes, plain: bytes) -> bytes:
    """Return bytes that only `key` opens, unchanged.  A key seals one message: its nonce is 0."""
    return ChaCha20Poly1305(key).encrypt(bytes(12), plain, None)


def sealed_bytes(shares: int) -> int:
    """Return the bytes of a box with so many shares."""
    return shares * SHARE_BYTES + TAG_BYTES


def unseal(key: bytes, sealed: bytes, sender: int) -> bytes:
    """Return what was sealed.  SecureSumError, with the sender, if it is not what that one sent."""
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), sealed, None)
    except InvalidTag:
        raise SecureSumError(
            f"the shares from client {sender} cannot be opened: they were changed on the way, or "
            "are for somebody else",
            sender,
        ) from None


def split(secret: bytes, threshold: int, count: int) -> list[bytes]:
    """Return `count` shares of a key; any `threshold` give it back, and fewer tell nothing."""
    from flwr.common.secure_aggregation.crypto.shamir import create_shares

    return create_shares(secret, threshold, count)


def is_share(share: bytes, index: int) -> bool:
    """Whether bytes have the form of share `index` of a key, counted from 0 as by `split`."""
    return len(share) == SHARE_BYTES and share[:4] == (index + 1).to_bytes(4, "little")


def combined(shares: Sequence[bytes]) -> bytes:
    """Return the key of `threshold` shares.  Wrong shares give another key, or no bytes at all."""
    from flwr.common.secure_aggregation.crypto.shamir import combine_shares

    try:
        return combine_shares(list(shares))
    except ValueError:  # the padding is wrong
        return b""
