"""Plain text."""

import gzip

import pytest

from leff.errors import DataError
from leff.tasks.load import load_task

TEXT = " \n = Title = \n \n One .\n\n Two .\n"


def test_headings_stay_and_blank_lines_go(write, tmp_path):
    write("wikitext103/valid.txt", TEXT)
    (tmp_path / "wikitext103" / "train_slice.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    task = load_task("text", tmp_path)
    assert task.kind == "text"
    assert task.train["text"][:] == [" = Title = ", " One .", " Two ."]
    assert task.validation[:] == task.train[:]
    assert task.test is None


def test_a_tenth_is_held_out_at_random_but_the_same_every_time(write):
    path = write("mine.txt", "".join(f"line {i}\n" for i in range(50)))
    task = load_task("text", train=path)
    held = task.validation["text"][:]
    assert len(held) == 5
    assert held != [f"line {i}" for i in range(45, 50)]
    assert sorted(held + task.train["text"][:]) == sorted(f"line {i}" for i in range(50))
    assert load_task("text", train=path).validation["text"][:] == held
    assert load_task("text", train=path, seed=1).validation["text"][:] != held


def test_own_validation_and_relative_paths(write, tmp_path):
    write("a.txt", "a\n")
    write("b.txt", "b\n")
    task = load_task("text", tmp_path, train="a.txt", validation="b.txt")
    assert (task.train["text"][:], task.validation["text"][:]) == (["a"], ["b"])


def test_too_little_text(write, tmp_path):
    with pytest.raises(DataError, match="holds no text"):
        load_task("text", train=write("a.txt", "\n \n"))
    with pytest.raises(DataError, match="one example"):
        load_task("text", train=write("a.txt", "a\n"))
    with pytest.raises(DataError, match="there is no file"):
        load_task("text", train=tmp_path / "none.txt")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv.gz", "a.parquet", "a.TSV"])
def test_a_table_is_no_plain_text(tmp_path, name):
    (tmp_path / name).write_text("a\nb\n")
    with pytest.raises(DataError, match=r"for a file with columns use task table, with columns"):
        load_task("text", train=tmp_path / name)


def test_hub(hub):
    calls = hub({split: {"text": ["", " a\n", " \n"]} for split in ("train", "validation", "test")})
    task = load_task("text")
    assert task.train["text"][:] == [" a\n"]
    assert calls[0][0] == ("Salesforce/wikitext", "wikitext-103-v1")
