import os
from pathlib import Path

import pytest

from leff.tasks.metrics import java


@pytest.fixture
def no_data_variable():
    """Metrics are compared on the real data, where LEFF_DATA has it."""


@pytest.fixture(scope="session")
def programs() -> java.Programs:
    found = java.find()
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture
def no_java(monkeypatch):
    monkeypatch.setattr(java, "find", lambda: "no Java here")


@pytest.fixture
def e2e_references():
    """A function from the name of a split to the references of each meaning representation."""

    def load(split: str) -> dict[str, list[str]]:
        path = Path(os.environ.get("LEFF_DATA", ""), "e2e", f"{split}.parquet")
        if "LEFF_DATA" not in os.environ or not path.is_file():
            pytest.skip(f"needs e2e/{split}.parquet in the folder that LEFF_DATA names")
        from pyarrow.parquet import read_table

        groups: dict[str, list[str]] = {}
        for row in read_table(path).to_pylist():
            groups.setdefault(row["mr"], []).append(row["ref"])
        return groups

    return load
