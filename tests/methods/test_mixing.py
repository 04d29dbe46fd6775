"""Groups of clients with all labels: by hand, and the laws of a grouping."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leff.methods.mixing import IMBALANCE, imbalance, mixed_groups

COUNTS = st.integers(1, 4).flatmap(
    lambda labels: st.lists(
        st.lists(st.integers(0, 50), min_size=labels, max_size=labels).filter(any), min_size=1
    )
)


def groups_of(counts, seed=0):
    return mixed_groups(np.array(counts, dtype=float), np.random.default_rng(seed)).tolist()


def test_clients_of_one_label_each_go_together():
    assert groups_of([[9, 0], [0, 9]]) == [0, 0]
    counts = [[9, 0], [0, 9], [9, 0], [0, 9]]
    assert len(set(groups_of(counts))) < 4
    assert imbalance(np.array(counts, dtype=float), np.array(groups_of(counts))) <= IMBALANCE


def test_clients_with_the_same_labels_each_draw_alone():
    assert sorted(groups_of([[6, 4]] * 5)) == [0, 1, 2, 3, 4]


def test_many_clients_are_grouped_in_little_time():
    """Half of a thousand clients have each label; pairs would do."""
    counts = [[9, 0] if client % 2 else [0, 9] for client in range(1000)]
    found = groups_of(counts)
    assert 400 <= len(set(found)) < 1000
    assert imbalance(np.array(counts, dtype=float), np.array(found)) <= IMBALANCE


def test_imbalance_is_the_mean_distance_of_label_shares():
    """Two groups of ten: 1.0 and 0.0 of the first label, where all have 0.5."""
    counts = np.array([[10.0, 0.0], [0.0, 10.0]])
    assert imbalance(counts, np.array([0, 1])) == pytest.approx(0.5)
    assert imbalance(counts, np.array([0, 0])) == 0.0


@given(COUNTS, st.integers(0, 9))
def test_every_client_has_a_group_and_labels_are_mixed(counts, seed):
    found = groups_of(counts, seed)
    assert len(found) == len(counts) and set(found) <= set(range(len(counts)))
    assert found == groups_of(counts, seed)
    assert imbalance(np.array(counts, dtype=float), np.array(found)) <= IMBALANCE + 1e-9
