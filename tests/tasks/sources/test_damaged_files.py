"""Damaged data files: a task, or one line that names the file; never another exception."""

import gzip
import json
import random
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leff.errors import ConfigError, DataError
from leff.tasks.load import load_task
from leff.tasks.partition import partition

ROWS = [
    {
        "text": f'walk {i}, "by" the {("fen", "brück", "江", "hill 😀")[i % 4]}',
        "label": ("flat", "steep", "wet; cold")[i % 3],
        "score": i / 4,
        "town": f"t{i % 5}",
    }
    for i in range(40)
]
ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".txt", ".parquet", ".CSV.gz", ".gz")
ODD = [  # what files hold that break readers
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n\n", b'"', b'""', b"'", b",", b";", b"\t", b"|",
    b"\\", b"\\ud83d", b"\\u0000", b"NaN", b"null", b"-Infinity", b"[", b"]", b"{", b"}",
    b"[" * 2000,
    b"9" * 5000, b"1e999", b"\xc3", b"\x81", "\u2028".encode(), "\u0301".encode(), b"True", b" ",
    b"PK\x03\x04", b"\x1f\x8b", b"PAR1", b"sep=;\n", b'["a", "b"]', b"label", b"text", b"0.0",
]  # fmt: skip

SWAPS = [
    (b"\n", b"\r"), (b"\n", b"\r\n"), (b'"', b""), (b",", b";"),
    (b"text", b" text "), (b"label", b""),
]  # fmt: skip


def content(form: str) -> bytes:
    if form == "csv" or form == "tsv":
        mark = "," if form == "csv" else "\t"
        lines = [mark.join('"' + str(v).replace('"', '""') + '"' for v in r.values()) for r in ROWS]
        return "\n".join([mark.join(ROWS[0]), *lines]).encode()
    if form == "lines":
        return "\n".join(json.dumps(row) for row in ROWS).encode()
    if form == "array":
        return json.dumps(ROWS, ensure_ascii=False, indent=1).encode()
    if form == "columns":
        return json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}).encode()
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({name: [row[name] for row in ROWS] for name in ROWS[0]}), sink)
    return sink.getvalue().to_pybytes()


def encoded(data: bytes, rng: random.Random) -> bytes:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return data
    encoding = rng.choice(["utf-16", "utf-16-le", "utf-32", "cp1252", "utf-8-sig", "cp037"])
    return text.encode(encoding, errors="replace")


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return the data after one change: of its bytes, its encoding, its line ends or its pack."""
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice([1, 1, 2, 9, 400]))
    change = rng.randrange(9)
    if change == 0:
        return data[:at]
    if change == 1:
        return data[:at] + data[end:]
    if change == 2:
        return data[:at] + rng.randbytes(end - at) + data[end:]
    if change in (3, 4):
        return data[:at] + rng.choice(ODD) * rng.choice([1, 1, 2, 50]) + data[end:]
    if change == 5:
        return data[:at] + data[at:end] * 30 + data[end:]
    if change == 6:
        return encoded(data, rng)
    if change == 7:
        return data.replace(*rng.choice(SWAPS))
    return gzip.compress(data, mtime=0)


@pytest.fixture(scope="module")
def forms():
    return {f: content(f) for f in ("csv", "tsv", "lines", "array", "columns", "parquet")}


def outcome(path: Path, rng: random.Random) -> str:
    task = rng.choice(["table", "text"]) if ".txt" in path.name else "table"
    label = rng.choice(["label", "score", "town"])
    options = {"columns": {"text": "text", "label": label}} if task == "table" else {}
    try:
        loaded = load_task(task, train=path, **options)
    except (DataError, ConfigError) as error:
        said = str(error)
        assert path.name in said, said
        assert "\n" not in said and len(said) < 1500, said
        return "refused"
    assert len(loaded.train) and len(loaded.validation)
    assert all(text.strip() for text in loaded.train["text"][:])
    return "read"


@pytest.mark.soak(60, 1000)
def test_damaged_files(forms, tmp_path, count, caplog):
    caplog.set_level("ERROR")
    seen = []
    import datasets  # noqa: F401  # its own memory does not count

    tracemalloc.start()
    for case in range(count):
        rng = random.Random(case)
        form = rng.choice(list(forms))
        data = forms[form]
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            data = damaged(data, rng)
        usual = {"csv": ".csv", "tsv": ".tsv", "lines": ".jsonl", "parquet": ".parquet"}
        ending = usual.get(form, ".json") if rng.random() < 0.85 else rng.choice(ENDINGS)
        path = tmp_path / f"case{case}{ending}"
        path.write_bytes(data)
        seen.append(outcome(path, rng))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000_000
    assert (
        min(seen.count("read"), seen.count("refused")) > count / 10
    )  # the damage is of both kinds


VALUES = [
    "a", "a ", "A", "b", "", " ", "a;b", "['a', 'b']", "nan", "0", "1.0", "-1", "1e400", "\ud83d",
    "e\u0301", "x\ny", "x" * 3000, None, True, False, 0, 1, 2.0, 0.5, -0.0, 1e300, 2**70, 10**400,
    float("nan"), float("inf"), [], ["a"], ["a", None], [1], {}, {"a": 1}, [["a"]],
]  # fmt: skip
NAMES = ["text", "label", "text_pair", "input", "target", "references", "town", "label_bin", "file",
         "client", "", " text", "x\ny", "a" * 300, "\ud83d", "index"]  # fmt: skip


def odd_rows(rng: random.Random) -> list[dict]:
    """Rows whose columns have usual values, but a few cells, or whole columns, hold odd ones."""
    names = rng.sample(NAMES[:7], rng.choice([2, 3, 7])) + rng.sample(NAMES, rng.choice([0, 1, 3]))
    odd = {name: rng.sample(VALUES, 2) for name in names if rng.random() < 0.2}
    usual = {"label": ["a", "b"], "references": [["r"]]}
    rows = [
        {
            name: rng.choice(odd.get(name) or usual.get(name) or [f"{name} {i % 11}"])
            for name in names
        }
        for i in range(rng.choice([1, 2, 30]))
    ]
    for _ in range(rng.choice([0, 0, 1, 2])):
        row = rng.choice(rows)
        name = rng.choice(names)
        row[name] = rng.choice(VALUES)
        if rng.random() < 0.3:
            del row[name]
    return rows


@pytest.mark.soak(40, 2000)
def test_odd_values(tmp_path, count, caplog):
    caplog.set_level("ERROR")
    read = 0
    for case in range(count):
        rng = random.Random(case)
        paths = [tmp_path / f"{name}{case}.jsonl" for name in ("x", "y")[: rng.choice([1, 1, 2])]]
        for path in paths:
            path.write_text("\n".join(map(json.dumps, odd_rows(rng))))
        other = paths[0] if rng.random() < 0.5 else None
        kind = rng.choice([None, None, "classification", "regression", "text", "generation"])
        labelled = rng.random() < 0.9
        try:
            task = load_task("table", train=paths, validation=other, kind=kind, labelled=labelled)
        except (DataError, ConfigError) as error:
            said = str(error)
            assert any(path.name in said for path in paths), said
            assert "\n" not in said and len(said) < 1500, said
            continue
        read += 1
        for name in task.attributes:
            assert len(partition(task.train, 1, "column", by=name).indices[0]) == len(task.train)
    assert count / 20 < read < count
