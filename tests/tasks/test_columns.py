"""Tables of columns: rows, slices, selections, and what does not fit together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leff.tasks.columns import Table, joined_tables

TABLE = Table({"text": ["a", "b", "c"], "label": [2, 0, 1]})


def test_rows_columns_and_slices():
    assert len(TABLE) == 3 and list(TABLE.columns) == ["text", "label"]
    assert TABLE["label"] == [2, 0, 1]
    assert TABLE[1] == {"text": "b", "label": 0} and list(TABLE)[2] == TABLE[2]
    assert TABLE[1:] == {"text": ["b", "c"], "label": [0, 1]}


def test_an_empty_table_has_no_rows():
    for empty in (Table({}), Table({"text": []})):
        assert len(empty) == 0 and list(empty) == [] and not empty


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="text 2, label 1"):
        Table({"text": ["a", "b"], "label": [1]})


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_selections_keep_order_and_join(first, second):
    """Selecting twice and joining is selecting both at once."""
    joined = joined_tables([TABLE.select(first), TABLE.select(second)])
    assert joined[:] == TABLE.select([*first, *second])[:]
    assert [row["text"] for row in TABLE.select(first)] == ["abc"[i] for i in first]
