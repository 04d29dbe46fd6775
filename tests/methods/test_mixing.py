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
    exact = np.full(len(counts), np.inf)
    return mixed_groups(np.array(counts, dtype=float), exact, np.random.default_rng(seed)).tolist()


def unlike(counts, groups):
    """The imbalance of groups whose shares are exact."""
    return imbalance(np.array(counts, dtype=float), np.full(len(counts), np.inf), np.array(groups))


def test_clients_of_one_label_each_go_together():
    assert groups_of([[9, 0], [0, 9]]) == [0, 0]
    counts = [[9, 0], [0, 9], [9, 0], [0, 9]]
    assert len(set(groups_of(counts))) < 4
    assert unlike(counts, groups_of(counts)) <= IMBALANCE


def test_clients_with_the_same_labels_each_draw_alone():
    assert sorted(groups_of([[6, 4]] * 5)) == [0, 1, 2, 3, 4]


def test_many_clients_are_grouped_in_little_time():
    """Half of a thousand clients have each label; pairs would do."""
    counts = [[9, 0] if client % 2 else [0, 9] for client in range(1000)]
    found = groups_of(counts)
    assert 400 <= len(set(found)) < 1000
    assert unlike(counts, found) <= IMBALANCE


def test_imbalance_is_the_mean_distance_of_label_shares():
    """Two groups of ten: 1.0 and 0.0 of the first label, where all have 0.5."""
    counts = np.array([[10.0, 0.0], [0.0, 10.0]])
    assert unlike(counts, [0, 1]) == pytest.approx(0.5)
    assert unlike(counts, [0, 0]) == 0.0


@pytest.mark.parametrize(("labels", "seen"), [(2, 8), (20, 10), (77, 32), (150, 32)])
def test_what_chance_gives_few_examples_brings_no_clients_together(labels, seen):
    """Eight clients with all labels alike; the server knows the shares of some examples."""
    rng = np.random.default_rng(0)
    alone = 0
    for _ in range(20):
        counts = 100 * rng.multinomial(seen, np.full(labels, 1 / labels), 8) / seen
        alone += len(set(mixed_groups(counts, np.full(8, seen), rng).tolist()))
    assert alone / 20 > 7


@given(COUNTS, st.integers(0, 9))
def test_every_client_has_a_group_and_labels_are_mixed(counts, seed):
    found = groups_of(counts, seed)
    assert len(found) == len(counts) and set(found) <= set(range(len(counts)))
    assert found == groups_of(counts, seed)
    assert unlike(counts, found) <= IMBALANCE + 1e-9
