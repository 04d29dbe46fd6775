"""The noise: its distribution, and that it depends on key and label alone."""

import numpy as np
import pytest
from scipy import stats

from leff.privacy import noise as module
from leff.privacy.noise import Noise, fresh_key, seeded_key

KEY = seeded_key(0)


def test_it_is_gaussian():
    """Kolmogorov-Smirnov on a million fixed numbers, and the first four moments."""
    values = Noise(KEY).normal(1_000_000, "a")
    assert stats.kstest(values, "norm").pvalue > 0.01
    assert abs(values.mean()) < 3e-3
    assert values.std() == pytest.approx(1, abs=3e-3)
    assert abs(stats.skew(values)) < 0.01
    assert abs(stats.kurtosis(values)) < 0.02
    assert np.abs(values).max() > 4.2  # the tails are there


def test_neighbours_are_not_correlated():
    values = Noise(KEY).normal(100_000, "a")
    for lag in (1, 2, 3, 64):
        assert abs(np.corrcoef(values[:-lag], values[lag:])[0, 1]) < 0.015


def test_it_depends_on_key_and_label_alone():
    own = Noise(KEY)
    own.normal(7, "something else before")
    first = own.normal(100, "sum", 3, "w")
    assert (Noise(KEY).normal(100, "sum", 3, "w") == first).all()
    others = [
        own.normal(100, "sum", 4, "w"),
        own.normal(100, "sum", 3, "v"),
        own.normal(100, "sum3", "w"),
        Noise(seeded_key(1)).normal(100, "sum", 3, "w"),
        Noise(fresh_key()).normal(100, "sum", 3, "w"),
    ]
    for other in others:
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.4
        assert not (first == other).any()


def test_pieces_are_drawn_one_after_another(monkeypatch):
    monkeypatch.setattr(module, "PIECE", 64)
    values = Noise(KEY).normal(1000, "a")
    assert len(np.unique(values)) == 1000
    assert values.std() == pytest.approx(1, abs=0.1)


def test_clients_take_part_at_their_rate_each_by_itself():
    own = Noise(KEY)
    drawn = np.array([[own.takes_part(c, r, 0.3) for c in range(40)] for r in range(250)])
    assert drawn.mean() == pytest.approx(0.3, abs=0.02)
    sizes = drawn.sum(axis=1)
    assert sizes.var() == pytest.approx(40 * 0.3 * 0.7, rel=0.25)  # binomial, not a fixed number
    pairs = np.corrcoef(drawn.T)[np.triu_indices(40, 1)]  # of independent draws: 1 / √250
    assert pairs.std() * np.sqrt(250) == pytest.approx(1, abs=0.1)
    assert all(own.takes_part(c, 0, 1.0) for c in range(100))


def test_a_short_key_is_refused():
    with pytest.raises(ValueError, match="a key has 32 bytes, got 3"):
        Noise(b"abc")
