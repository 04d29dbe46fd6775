"""Parquet with the types that data frames have."""

import datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leff.errors import DataError
from leff.tasks.load import load_task
from leff.tasks.sources.files import read_rows


def test_types_become_those_of_json(tmp_path):
    day = datetime.datetime(2026, 5, 1, 12)
    columns = {
        "category": pa.array(["b", "a", "b"]).dictionary_encode(),
        "large": pa.array(["x", "y", None], pa.large_string()),
        "bytes": pa.array([b"x", "é".encode(), b"z"]),
        "time": pa.array([day, day, None]),
        "decimal": pa.array([Decimal("1.50"), Decimal("2.00"), None]),
        "flag": [True, False, True],
        "half": pa.array([0.5, float("nan"), 1.0], pa.float32()),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert read_rows(tmp_path / "a.parquet").columns == {
        "category": ["b", "a", "b"],
        "large": ["x", "y", None],
        "bytes": ["x", "é", "z"],
        "time": [str(day), str(day), None],
        "decimal": [1.5, 2.0, None],
        "flag": [True, False, True],
        "half": [0.5, None, 1.0],
    }


def test_what_cannot_be_read(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["x", "x"])
    pq.write_table(table, tmp_path / "twice.parquet")
    pq.write_table(pa.table({"x": [b"\xff"]}), tmp_path / "bytes.parquet")
    nanoseconds = pa.array([1, 2], pa.timestamp("ns"))
    pq.write_table(pa.table({"x": nanoseconds}), tmp_path / "time.parquet")
    (tmp_path / "empty.parquet").touch()
    for name, said in (
        ("twice", r"not a readable Parquet file .*\(x\)"),
        ("bytes", "not a readable Parquet file"),
        ("empty", "not a readable Parquet file"),
    ):
        with pytest.raises(DataError, match=rf"{name}.parquet: {said}") as caught:
            read_rows(tmp_path / f"{name}.parquet")
        assert "\n" not in str(caught.value)
    assert len(read_rows(tmp_path / "time.parquet")) == 2


def test_a_data_frame_of_categories_makes_a_task(tmp_path):
    label = pa.array([["x", "y"][i % 2] for i in range(20)]).dictionary_encode()
    text = pa.array([f"t{i}" for i in range(20)], pa.large_string())
    day = pa.array([datetime.date(2026, 1, 1)] * 20)
    pq.write_table(pa.table({"text": text, "label": label, "day": day}), tmp_path / "a.parquet")
    task = load_task("table", train=tmp_path / "a.parquet")
    assert task.labels == ("x", "y") and task.attributes == ("label", "day")
