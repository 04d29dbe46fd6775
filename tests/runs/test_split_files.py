"""Shards for devices: reading them gives the examples of the local engine's clients."""

import json

import pytest
from tiny_mmlu import write_mmlu
from tiny_runs import options, save_tiny, write_table

from leff.device.data import DataSettings, read_data
from leff.errors import ConfigError
from leff.runs.config import load_config
from leff.runs.folder import RunFolder
from leff.runs.prepare import prepare
from leff.runs.sources import text_form
from leff.runs.split_files import write_shards
from leff.tasks.card import task_card
from leff.tasks.tokenizer_part import read_tokenizer
from leff.wire.tensors import pack, part_of, unpack


def configured(tmp_path, kind, **changes):
    given = {
        "method__name": "fedavg",
        "clients__count": 3,
        "clients__partition": "iid",
        "data__train_examples": 31,
        "evaluation__where": "devices",
    }
    if kind != "mmlu":
        (tmp_path / "data").mkdir()
        table = write_table(tmp_path / "data" / "train.jsonl", kind)
        given |= {"data__task": "table", "data__train": str(table), "data__kind": kind}
    model = save_tiny(tmp_path / "model", "generation" if kind == "mmlu" else kind)
    return load_config(None, options(model, **{**given, **changes}))


def as_values(examples):
    return [(e.input_ids.tolist(), e.learnt, e.label, e.type_ids is None) for e in examples]


def check(tmp_path, config, share):
    """Every client of the local engine and its device have the same examples, in order."""
    federation = prepare(config, RunFolder.new(tmp_path / "run", config))
    count = federation.config.clients.count
    paths = write_shards(config, count, tmp_path / "shards")
    assert [path.name for path in paths] == [f"device-{i:03}.jsonl" for i in range(count)]
    task, store = federation.task, {}
    form = text_form(federation.config, task, federation.tokenizer)

    def put(tensors):
        store["tokenizer"] = pack(tensors)
        return part_of(store["tokenizer"])

    card = task_card(task, form, config.data.max_length, federation.tokenizer, put)
    assert card.tokenizer == part_of(store["tokenizer"])
    tokenizer = read_tokenizer(unpack(store["tokenizer"]))
    assert tokenizer.pad_token_id == card.pad_id
    for client, path in enumerate(paths):
        settings = DataSettings((path,), validation_share=share, kind=task.kind)
        (own,) = read_data(settings, card, tokenizer).clients
        assert as_values(own.train) == as_values(federation.clients.fleet._examples[client])
        assert as_values(own.validation) == as_values(federation.clients.fleet._validation[client])
        assert own.train and bool(own.validation) == bool(share)
    return paths


@pytest.mark.parametrize(
    "kind", ["generation", "classification", "multilabel", "regression", "text", "chat"]
)
def test_devices_have_the_local_engines_examples(tmp_path, kind):
    """With what both hold out too."""
    config = configured(tmp_path, kind, clients__validation_share=0.2)
    paths = check(tmp_path, config, share=0.2)
    rows = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    assert len(rows) == 31 and not any("town" in row for row in rows)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("classification", {"clients__partition": "dirichlet", "clients__alpha": 0.1}),
        ("generation", {"clients__partition": "column", "clients__by": "town"}),
    ],
)
def test_nothing_is_held_out_and_splits_are_skewed(tmp_path, kind, changes):
    check(tmp_path, configured(tmp_path, kind, evaluation__where="server", **changes), share=0)


def test_a_public_task_with_a_prompt_of_its_own(tmp_path):
    write_mmlu(tmp_path / "data")
    changes = {"data__task": "mmlu", "data__folder": str(tmp_path / "data")}
    changes |= {"clients__count": 2, "evaluation__where": "server", "data__train_examples": "all"}
    check(tmp_path, configured(tmp_path, "mmlu", **changes), share=0)


def test_train_files_are_the_shards(tmp_path):
    for name in "ab":
        path = write_table(tmp_path / f"{name}.jsonl", "text", rows=6)
        path.write_text(path.read_text().replace("walk", name))
    config = load_config(None, {"data.task": "table", "data.train": str(tmp_path / "?.jsonl")})
    paths = write_shards(config, 2, tmp_path / "out")
    assert len(paths[0].read_text().splitlines()) == 5  # a tenth of each is the server's
    with pytest.raises(ConfigError, match="3 devices, but the configuration has 2 clients, by its"):
        write_shards(config, 3, tmp_path / "out")


def test_folders_of_shards(tmp_path):
    """Shards are replaced; what is none is left alone."""
    config = configured(tmp_path, "text")
    write_shards(config, 4, tmp_path / "out")
    assert len(write_shards(config, 2, tmp_path / "out")) == len(list((tmp_path / "out").iterdir()))
    with pytest.raises(ConfigError, match=r"holds train\.jsonl, which is no shard"):
        write_shards(config, 2, tmp_path / "data")
    with pytest.raises(ConfigError, match="is a file"):
        write_shards(config, 2, tmp_path / "data" / "train.jsonl")
    with pytest.raises(ConfigError, match="at least one device, got 0"):
        write_shards(config, 0, tmp_path / "new")
