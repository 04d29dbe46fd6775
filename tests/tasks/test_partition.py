"""Laws of the split: each example once, nobody empty, the same for the same seed."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leff.errors import ConfigError, DataError
from leff.tasks.columns import Table
from leff.tasks.partition import partition


def rows(count: int, values: int = 2, seed: int = 0) -> Table:
    labels = np.random.default_rng(seed).integers(values, size=count)
    return Table({"label": labels.tolist(), "town": [f"t{v}" for v in labels], "score": labels / 3})


def check(split, count: int, clients: int, least: int = 1):
    assert len(split.indices) == clients
    assert min(map(len, split.indices)) >= least
    assert sorted(np.concatenate(split.indices).tolist()) == list(range(count))
    assert sum(record["examples"] for record in split.report()) == count


@settings(max_examples=15, deadline=None)
@given(
    scheme=st.sampled_from(["iid", "dirichlet", "column"]),
    clients=st.integers(1, 12),
    extra=st.integers(0, 40),
    values=st.integers(1, 9),
    alpha=st.sampled_from([0.05, 0.5, 50.0]),
    least=st.integers(1, 3),
    seed=st.integers(0, 2**40),
)
def test_laws(scheme, clients, extra, values, alpha, least, seed):
    count = clients * least + extra
    options = {"scheme": scheme, "by": "town", "alpha": alpha, "seed": seed, "min_examples": least}
    data = rows(count, values, seed % 7)
    split = partition(data, clients, **options)
    check(split, count, clients, least)
    for record in split.report():
        assert sum(record["values"].values()) == record["examples"]
    assert partition(data, clients, **options).digest == split.digest


@pytest.mark.parametrize("clients", [8, 40])
@pytest.mark.parametrize("seed", range(2))
def test_two_labels_with_a_small_alpha(clients, seed):
    split = partition(rows(400), clients, "dirichlet", by="label", alpha=0.05, seed=seed)
    check(split, 400, clients)
    if clients == 40:
        assert split.moved > 0
        assert split.redraws == 10


@pytest.mark.parametrize("scheme", ["iid", "dirichlet", "column"])
def test_the_digest_depends_on_the_seed(scheme):
    digests = {
        partition(rows(200), 6, scheme, by="label", alpha=1.0, seed=seed).digest
        for seed in range(4)
    }
    assert len(digests) == 4


def test_alpha_sets_how_uneven_the_shares_are():
    def spread(alpha):
        split = partition(rows(3000), 5, "dirichlet", by="label", alpha=alpha)
        return np.std([r["values"].get("1", 0) for r in split.report()])

    assert spread(1000.0) < spread(0.1) / 3


def test_iid_parts_are_equal_and_mixed():
    split = partition(Table({"x": list(range(100))}), 8, "iid")
    assert {len(part) for part in split.indices} == {12, 13}
    assert split.report()[0] == {"client": 0, "examples": 13, "values": {}}
    assert max(split.indices[0]) > 50


def test_a_value_a_client():
    data = Table({"town": ["b", "a", "c", "a"]})
    split = partition(data, 3, "column", by="town")
    assert [part.tolist() for part in split.indices] == [[1, 3], [0], [2]]
    assert split.counts == ({"a": 2}, {"b": 1}, {"c": 1})


def test_more_values_than_clients_go_to_the_emptiest():
    data = Table({"town": list("aaaabbbccd")})
    split = partition(data, 2, "column", by="town")
    assert split.counts == ({"a": 4, "d": 1}, {"b": 3, "c": 2})


def test_fewer_values_than_clients_are_shared():
    data = Table({"town": list("aaaaaaaabb")})
    split = partition(data, 4, "column", by="town")
    assert [sum(c.values()) for c in split.counts] == [3, 3, 2, 2]
    assert split.counts[3] == {"b": 2}


def test_a_file_a_client_moves_nothing():
    data = Table({"file": list("bbbbbbac")})
    split = partition(data, 3, "files", by="file", min_examples=1)
    assert [part.tolist() for part in split.indices] == [[6], [0, 1, 2, 3, 4, 5], [7]]
    assert (split.counts, split.moved) == (({"a": 1}, {"b": 6}, {"c": 1}), 0)
    with pytest.raises(DataError, match=r"the file 'a' has 1 examples .*min_examples = 2"):
        partition(data, 3, "files", by="file", min_examples=2)
    with pytest.raises(DataError, match="4 clients have a file each, but only 3 files"):
        partition(data, 4, "files", by="file")


def test_a_long_value_costs_no_more_than_itself():
    tracemalloc.start()
    data = Table({"note": ["x" * 500_000, *(f"n{i}" for i in range(99))]})
    assert len(partition(data, 2, "column", by="note").indices) == 2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000  # padded to the longest: 200 MB


def test_whole_numbers_sort_by_value_and_truth_values_work():
    data = Table({"n": [10, 9, 10], "flag": [True, False, True]})
    assert partition(data, 2, "column", by="n").counts == ({"9": 1}, {"10": 2})
    assert partition(data, 2, "column", by="flag").counts == ({"False": 1}, {"True": 2})


def test_it_works_on_a_selection_and_prints_nothing(capfd):
    data = rows(50).select(range(10, 30))
    check(partition(data, 2, "column", by="label"), 20, 2)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"clients": 11}, DataError, "10 examples are too few for 11 clients"),
        ({"min_examples": 6}, DataError, "10 examples are too few for 2 clients of at least 6"),
        ({"min_examples": 0}, ConfigError, "at least one example, got 0"),
        ({"clients": 0}, ConfigError, "at least one client, got 0"),
        ({"scheme": "dirichelet"}, ConfigError, "did you mean 'dirichlet'"),
        ({"by": "lable"}, ConfigError, "no column 'lable'; did you mean 'label'"),
        ({"by": None}, ConfigError, "needs the column to split by"),
        ({"by": "score"}, ConfigError, "put its values in bins first"),
        ({"alpha": 0.0}, ConfigError, "alpha must be above 0 for a Dirichlet split, got 0"),
        ({"alpha": float("nan")}, ConfigError, "alpha must be above 0"),
        ({"alpha": None}, ConfigError, "alpha must be above 0"),
    ],
)
def test_bad_input(options, error, said):
    usual = {"clients": 2, "scheme": "dirichlet", "by": "label", "alpha": 1.0}
    with pytest.raises(error, match=said):
        partition(rows(10), **(usual | options))
