"""Small files and hub look-alikes for the loaders."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


@pytest.fixture(autouse=True)
def no_data_variable(monkeypatch):
    monkeypatch.delenv("LEFF_DATA", raising=False)


@pytest.fixture
def write(tmp_path):
    """Write a file under the test's folder; the ending says how."""

    def _write(name: str, content) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            pq.write_table(pa.table(content), path)
        elif name.endswith(".jsonl"):
            path.write_text("\n".join(json.dumps(row) for row in content) + "\n")
        else:
            path.write_text(content, encoding="utf-8")
        return path

    return _write


@pytest.fixture
def hub(monkeypatch):
    """Answer `load_dataset` from memory: hub({"train": {...columns}}) and the calls it received."""
    import datasets

    def _hub(splits: dict[str, dict], error: Exception | None = None) -> list:
        calls = []

        def load_dataset(*args, **kwargs):
            calls.append((args, kwargs))
            if error and not kwargs:
                raise error
            return datasets.DatasetDict(
                {name: datasets.Dataset.from_dict(columns) for name, columns in splits.items()}
            )

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return calls

    return _hub
