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
    b"\\", b"\\ud83d", b"\\u0000", b"NaN", b"null", b"-Infinity", b"[", b"]", b"{", b"}", b"[" * 2000,
    b"9" * 5000, b"1e999", b"\xc3", b"\x81", "\u2028".encode(), "\u0301".encode(), b"True", b" ",
    b"PK\x03\x04", b"\x1f\x8b", b"PAR1", b"sep=;\n", b'["a", "b"]', b"label", b"text", b"0.0",
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
        return data.replace(*rng.choice([(b"\n", b"\r"), (b"\n", b"\r\n"), (b'"', b""),
                                         (b",", b";"), (b"text", b" text "), (b"label", b"")]))  # fmt: skip
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
    assert min(seen.count("read"), seen.count("refused")) > count / 10  # the damage is of both kinds
