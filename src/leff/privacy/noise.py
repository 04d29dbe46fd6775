"""Gaussian noise, and the draw of who takes part, from a secret key.

    noise = Noise(fresh_key())
    noise.normal(1000, "sum", 3, "transformer.h.0.ln_1.weight")     # (1000,), float64
    noise.takes_part(client=7, round_index=3, rate=0.1)

Numbers come from the stream cipher ChaCha20.  A stream depends on the key and on its label, so the
same label gives the same numbers, and a resumed run has the same noise.  Without the key they look
random to everyone.

A float has few bits, and a single draw of a Gaussian in floats shows by its last bits which values
it was added to (Mironov 2012).  So each number is the sum of four draws over two, which keeps the
distribution and leaves too many possibilities to try (Holohan and Braghin 2021).
"""

import hashlib
import hmac
import secrets

import numpy as np

KEY_BYTES = 32
DRAWS = 4  # of a Gaussian, for each number
PIECE = 2**20  # numbers at a time
UNIT = 2.0**-53  # floats in [0, 1) that are a multiple of it are exact


class Noise:
    """Random numbers that only who has the key can foretell."""

    def __init__(self, key: bytes) -> None:
        """Raise ValueError for a key that has not `KEY_BYTES` bytes."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, got {len(key)}")
        self._key = key

    def normal(self, count: int, *label: int | str) -> np.ndarray:
        """Return `count` numbers of mean 0 and deviation 1, (count,), float64."""
        stream, found = self._stream(*label), np.empty(count)
        for start in range(0, count, PIECE):
            piece = found[start : start + PIECE]
            piece[:] = 0.0
            pairs = DRAWS // 2 * len(piece)
            radius = np.sqrt(-2 * np.log(_uniforms(stream, pairs)))
            angle = 2 * np.pi * _uniforms(stream, pairs)
            for draw in (radius * np.cos(angle), radius * np.sin(angle)):  # Box and Muller 1958
                piece += draw.reshape(-1, len(piece)).sum(axis=0)
            piece /= np.sqrt(DRAWS)
        return found

    def takes_part(self, client: int, round_index: int, rate: float) -> bool:
        """Return whether a client takes part in a round: with this rate, whoever else does."""
        stream = self._stream("takes part", round_index, client)
        return bool(_uniforms(stream, 1)[0] < rate)

    def _stream(self, *label: int | str) -> "_Stream":
        text = "\x1f".join(map(str, label)).encode()
        return _Stream(hmac.digest(self._key, text, hashlib.sha256))


class _Stream:
    """The bytes of ChaCha20 with a key that is used for this alone."""

    def __init__(self, key: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

        self._encryptor = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()

    def read(self, count: int) -> bytes:
        return self._encryptor.update(bytes(count))


def _uniforms(stream: _Stream, count: int) -> np.ndarray:
    """Return `count` numbers, uniform in (0, 1), (count,)."""
    whole = np.frombuffer(stream.read(8 * count), dtype="<u8") >> 11
    return (whole + 0.5) * UNIT


def fresh_key() -> bytes:
    """Return a key from the operating system."""
    return secrets.token_bytes(KEY_BYTES)


def seeded_key(seed: int) -> bytes:
    """Return a key that anybody can make who knows the seed: for research only."""
    return hashlib.sha256(f"leff privacy {seed}".encode()).digest()
