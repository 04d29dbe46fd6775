"""A device's own files: the rules of central data, what is held out, and what is refused."""

import json
import subprocess
import sys
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_tokenizers import bert, byte_level

from leff.device.data import DataSettings, read_data
from leff.errors import ConfigError, DataError
from leff.tasks.chat_form import chat_form
from leff.tasks.encode import encode
from leff.tasks.load import load_task
from leff.tasks.text_form import TextForm
from leff.wire.json import to_json
from leff.wire.messages import Part, TaskCard

PART = Part("0" * 64, 1)
LABELS = ("no", "yes")
KINDS = ("generation", "classification", "regression", "text")


def card(kind, **changes):
    labels = LABELS if kind == "classification" else ()
    return replace(TaskCard(kind, labels, 32, "{input} =", False, 0, PART), **changes)


def tokenizer(kind):
    return (
        bert(pad_token="[PAD]", unk_token="[UNK]")
        if kind in ("classification", "regression")
        else byte_level()
    )


def rows(kind, count=20):
    if kind == "generation":
        return [{"input": f"in {i}", "target": f"out {i}"} for i in range(count)]
    label = {"classification": lambda i: LABELS[i % 2], "regression": lambda i: i / 4}.get(kind)
    return [{"text": f"text {i}", **({"label": label(i)} if label else {})} for i in range(count)]


def save(path, table):
    path.write_text("".join(json.dumps(row) + "\n" for row in table))
    return path


def read(path, kind, changes=None, **settings):
    of = DataSettings((path,) if not isinstance(path, tuple) else path, **settings)
    return read_data(of, card(kind, **(changes or {})), tokenizer(kind))


def values(examples):
    return [(e.input_ids.tolist(), e.prompt_tokens, e.label) for e in examples]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_examples_as_central_data_has(tmp_path, kind):
    path = save(tmp_path / "a.jsonl", rows(kind))
    task = load_task("table", train=path, validation=path, kind=kind)
    wanted = encode(task.train, tokenizer(kind), kind, 32, TextForm())
    data = read(path, kind, validation_share=0)
    assert values(data.clients[0].train) == values(wanted) and data.validation == 0
    assert data.examples == len(wanted) and data.clients[0].name == "a"


def test_conversations_are_those_of_central_data(tmp_path):
    """The device gets the form of the chat template, and not the template, which is a program."""
    answer = {"role": "assistant", "content": "No."}
    talks = [{"messages": [{"role": "user", "content": f"Far, {i}?"}, answer]} for i in range(20)]
    path, own = save(tmp_path / "a.jsonl", talks), byte_level()
    own.chat_template = (
        "{% for m in messages %}{{ m['role'] + '= ' + m['content'] + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant= ' }}{% endif %}"
    )
    form = chat_form(own)
    task = load_task("table", train=path, validation=path)
    wanted = encode(task.train, own, "chat", 64, TextForm(chat=form))
    data = read(path, "chat", {"chat": to_json(form), "max_length": 64}, validation_share=0.1)
    (client,) = data.clients
    assert (len(client.train), len(client.validation)) == (18, 2)
    assert {e.input_ids.tobytes() for e in wanted} == {
        e.input_ids.tobytes() for e in (*client.train, *client.validation)
    }
    assert all(e.spans for e in client.train)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.tsv", "a.parquet", "a.txt"])
def test_every_form_of_file(tmp_path, name):
    path, table = tmp_path / name, rows("classification", 4)
    if name == "a.json":
        path.write_text(json.dumps(table))
    elif name == "a.jsonl":
        save(path, table)
    elif name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(table), path)
    else:
        between = "," if name == "a.csv" else "\t"
        lines = [("text", "label"), *((row["text"], row["label"]) for row in table)]
        path.write_text("\n".join(map(between.join, lines)))
    data = read(path, "classification", validation_share=0)
    assert [example.label for example in data.clients[0].train] == [0, 1, 0, 1]


def test_lines_of_plain_text(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (data,) = read(tmp_path / "a.txt", "text", validation_share=0).clients
    wanted = encode([{"text": "one"}, {"text": "two"}], tokenizer("text"), "text", 32)
    assert values(data.train) == values(wanted)


def test_each_file_is_a_client_that_holds_out_its_own_share(tmp_path):
    """Rows with the same text stay together, and the draw is always the same."""
    for name, count in (("b", 10), ("a", 40)):
        save(tmp_path / f"{name}.jsonl", rows("classification", count) * 2)
    data = read(tmp_path / "?.jsonl", "classification", validation_share=0.2)
    assert [client.name for client in data.clients] == ["a", "b"]
    assert [len(client.validation) for client in data.clients] == [16, 4]
    assert [len(client.train) for client in data.clients] == [64, 16]
    again = read(tmp_path / "?.jsonl", "classification", validation_share=0.2)
    for client, other in zip(data.clients, again.clients, strict=True):
        assert values(client.validation) == values(other.validation)
    texts = byte_level()
    for client in read(tmp_path / "?.jsonl", "text", {"max_length": 512}).clients:
        held = set(texts.decode(client.validation[0].input_ids).split("</s>")) - {""}
        trained = set("".join(texts.decode(e.input_ids) for e in client.train).split("</s>"))
        assert held and not held & trained


def test_a_validation_file_and_references(tmp_path):
    train = save(tmp_path / "a.jsonl", rows("generation"))
    held = save(tmp_path / "v.jsonl", [{"input": "x", "references": ["y", "z"]}])
    (data,) = read(train, "generation", validation=held).clients
    assert len(data.train) == 20
    wanted = encode([{"input": "x", "target": "y"}], byte_level(), "generation", 32)
    assert values(data.validation) == values(wanted)
    with pytest.raises(
        ConfigError, match="a validation file is for one data file, and there are 2"
    ):
        read((train, held), "generation", validation=held)


def test_columns_are_mapped_and_labels_follow_the_rules_of_central_data(tmp_path):
    """NFC, blanks, and whole numbers by value; a device may lack a class."""
    path = save(
        tmp_path / "a.jsonl", [{"body": "a", "queue": " yes "}, {"body": "b", "queue": "yes"}]
    )
    columns = {"text": "body", "label": "queue"}
    data = read(path, "classification", columns=columns, validation_share=0)
    assert [example.label for example in data.clients[0].train] == [1, 1]
    numbers = save(tmp_path / "n.jsonl", [{"text": "a", "label": 2.0}, {"text": "b", "label": "1"}])
    data = read(numbers, "classification", {"labels": ("1", "2")}, validation_share=0)
    assert [example.label for example in data.clients[0].train] == [1, 0]


REFUSED = {
    "label": ([{"text": "a", "label": "no"}, {"text": "b", "label": "maybe"}],
              r"a\.jsonl, line 2: label 'maybe' is none of this federation's classes: no, yes"),
    "empty": ([{"text": "a", "label": "no"}, {"text": "b", "label": None}],
              r"a\.jsonl, line 2: no value in column 'label'"),
    "column": ([{"txt": "a", "label": "no"}], r"a\.jsonl has no column 'text' .*mean 'txt'"),
    "text": ([{"text": 3, "label": "no"}], r"a\.jsonl, line 1: 'text' must be text, got 3"),
    "blank": ([{"text": " ", "label": "no"}], r"a\.jsonl, line 1: no value in column 'text'"),
    "list": ([{"text": "a", "label": ["no", "yes"]}], r"a\.jsonl, line 1: label .* is a list"),
    "none": ([], r"a\.jsonl has no rows"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_data_that_does_not_fit_names_file_row_and_column(tmp_path, name):
    table, said = REFUSED[name]
    with pytest.raises(DataError, match=said):
        read(save(tmp_path / "a.jsonl", table), "classification")


def test_other_data_that_does_not_fit(tmp_path):
    path = save(tmp_path / "a.jsonl", [{"text": "a", "label": "no"}])
    with pytest.raises(DataError, match=r"a\.jsonl, line 1: label 'no' is not a finite number"):
        read(path, "regression")
    with pytest.raises(DataError, match=r"a\.jsonl has no column 'input'"):
        read(path, "generation")
    with pytest.raises(DataError, match="there is no file"):
        read(tmp_path / "b.jsonl", "text")
    with pytest.raises(DataError, match="no file fits the pattern"):
        read(tmp_path / "b*.jsonl", "text")
    with pytest.raises(ConfigError, match="is given twice"):
        read((path, path), "text")


def test_settings_that_cannot_be(tmp_path):
    path = save(tmp_path / "a.jsonl", rows("text"))
    with pytest.raises(ConfigError, match=r"is for text \(kind\), and the federation learns gen"):
        read_data(DataSettings((path,), kind="text"), card("generation"), byte_level())
    with pytest.raises(ConfigError, match="learns 'poetry', which this version does not know"):
        read_data(DataSettings((path,)), card("poetry"), byte_level())
    with pytest.raises(ConfigError, match="the federation names no classes"):
        read(path, "classification", {"labels": ()})
    for wrong, said in (
        ({"files": ()}, "names no data file"),
        ({"validation_share": 1.0}, "must be 0 to 0.9, got 1"),
        ({"kind": "textt"}, "did you mean 'text'"),
        ({"columns": {"txt": "body"}}, "did you mean 'text'"),
    ):
        with pytest.raises(ConfigError, match=said):
            DataSettings(**{"files": (path,), **wrong})


BLOCKED = ("datasets", "flwr_datasets", "joblib", "matplotlib", "pandas", "pyarrow", "rich",
           "sacrebleu", "scipy", "sklearn", "typer")  # fmt: skip
SCRIPT = """
import sys
for name in {blocked}:
    sys.modules[name] = None  # so an import raises ModuleNotFoundError
from transformers import AutoTokenizer
from leff.client.measure import measure
from leff.client.train import train
from leff.device.data import DataSettings, read_data
from leff.tasks.sources.sample import MODEL
from leff.tasks.tokenizer_part import packed_tokenizer, read_tokenizer
from leff.wire.json import to_json
from leff.wire.messages import Part, TaskCard

tokenizer = read_tokenizer(packed_tokenizer(AutoTokenizer.from_pretrained(str(MODEL))))
for kind, labels in (("classification", ("no", "yes")), ("text", ())):
    card = TaskCard(kind, labels, 32, "{{input}} =", False, 0, Part("0" * 64, 1))
    for name in {files}:
        data = read_data(DataSettings((name,)), card, tokenizer)
        assert data.examples and data.validation, (kind, name)
print("read")
"""


def test_a_device_reads_its_files_without_libraries_of_data_sets(tmp_path):
    save(tmp_path / "a.jsonl", rows("classification"))
    lines = "".join(f"{row['text']},{row['label']}\n" for row in rows("classification"))
    (tmp_path / "a.csv").write_text(f"text,label\n{lines}")
    files = [str(tmp_path / name) for name in ("a.jsonl", "a.csv")]
    script = SCRIPT.format(blocked=BLOCKED, files=files)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "read\n", done.stderr
