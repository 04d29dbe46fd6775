"""E2E in both layouts and from the hub."""

import pytest

from leff.errors import DataError
from leff.tasks.load import load_task
from leff.tasks.sources.e2e import SLOTS, parse

MR = ["name[The A], customer rating[5 out of 5], near[Café B]", "name[C]", "name[C]"]
REF = ['"The A", near Café B.', "C.", "It is C."]


def csv_text(mr=MR, ref=REF):
    quoted = (f'"{m}","{r}"'.replace('""', '"""') if r[0] == '"' else f'"{m}","{r}"'
              for m, r in zip(mr, ref, strict=True))  # fmt: skip
    return "mr,ref\n" + "\n".join(quoted).replace('A", near', 'A"", near') + "\n"


@pytest.mark.parametrize("inside", ["", "e2e/"])
@pytest.mark.parametrize("original", [False, True])
def test_both_layouts(write, tmp_path, inside, original):
    for split, csv in (("train", "trainset"), ("dev", "devset"), ("test", "testset_w_refs")):
        if original:
            write(f"{inside}{csv}.csv", csv_text())
        else:
            write(f"{inside}{split}.parquet", {"mr": MR, "ref": REF})
    check(load_task("e2e", tmp_path))


def test_hub(hub):
    columns = {"meaning_representation": MR, "human_reference": REF}
    hub(dict.fromkeys(("train", "validation", "test"), columns))
    check(load_task("e2e"))


def check(task):
    assert task.kind == "generation"
    assert task.attributes == SLOTS
    first = task.train[0]
    assert (first["input"], first["target"]) == (MR[0], REF[0])
    assert (first["customer rating"], first["near"], first["food"]) == (
        "5 out of 5",
        "Café B",
        "none",
    )
    assert task.validation[:] == {"input": [MR[0], "name[C]"], "references": [REF[:1], REF[1:]]}
    assert task.test[:] == task.validation[:]


def test_no_test_file_is_fine(write, tmp_path):
    for split in ("train", "dev"):
        write(f"{split}.parquet", {"mr": MR, "ref": REF})
    assert load_task("e2e", tmp_path).test is None


def test_a_meaning_that_is_none_names_its_row(write, tmp_path):
    write("train.parquet", {"mr": ["name[A]", "just words"], "ref": ["a", "b"]})
    write("dev.parquet", {"mr": MR, "ref": REF})
    with pytest.raises(DataError, match=r"train.parquet, row 2: not a list of slot\[value\]"):
        load_task("e2e", tmp_path)


def test_missing_column(write, tmp_path):
    write("trainset.csv", "mr,text\na,b\n")
    write("devset.csv", "mr,text\na,b\n")
    with pytest.raises(DataError, match=r"devset.csv has no column 'ref' \(columns: mr, text\)"):
        load_task("e2e", tmp_path)


def test_parse():
    assert parse("name[A], near[B & C, D]") == {"name": "A", "near": "B & C, D"}
    with pytest.raises(ValueError, match="not a list"):
        parse("name[A], near")
