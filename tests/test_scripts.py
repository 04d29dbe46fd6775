"""The scripts that pretrain models."""

import json
import runpy
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def decoder(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return runpy.run_path(str(SCRIPTS / "pretrain_decoder.py"))


def corpus(folder):
    """Write a small WikiText and a small WebNLG, whose validation texts repeat the training's."""
    lines = [f"The {a} of {b} is near the {b} .\n" for a in ("river", "hill") for b in "ABCDEFGH"]
    for split in ("train", "valid"):
        path = folder / f"wikitext103/{split}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(lines * 20))
    entries = [
        {
            str(i): {
                "category": "City",
                "size": "1",
                "modifiedtripleset": [{"subject": f"A{i}", "property": "leader", "object": "B"}],
                "lexicalisations": [{"comment": "good", "lex": f"B is the leader of A{i}."}],
            }
        }
        for i in range(100)
    ]
    for split in ("train", "dev"):
        path = folder / f"webnlg2017/{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"entries": entries}))
    return folder


def test_rows_hold_every_token_in_a_new_order_each_pass(decoder):
    documents = [[0, 10 * i, 10 * i + 1] for i in range(1, 9)]
    got = list(islice(decoder["batches"](documents, 2, 4, seed=0), 6))  # 48 tokens, two passes
    tokens = [token for batch in got for row in batch for token in row]
    assert all(len(batch) == 2 and all(len(row) == 4 for row in batch) for batch in got)
    first, second = tokens[:24], tokens[24:]
    assert sorted(first) == sorted(second) == sorted(t for d in documents for t in d)
    assert first != second


def test_a_text_starts_with_the_end_of_the_one_before(decoder):
    tokenizer = decoder["train_tokenizer"](["a b c", "c b a"], 300, 16)
    (row,) = decoder["encode"](["b c"], tokenizer)
    assert row[0] == tokenizer.eos_token_id
    assert tokenizer.decode(row[1:]) == "b c"


def run(*arguments):
    return subprocess.run(
        [sys.executable, SCRIPTS / "pretrain_decoder.py", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


SMALL = ["--steps", 200, "--batch", 4, "--positions", 32, "--layers", 1, "--width", 64]


@pytest.mark.slow
def test_a_decoder_learns_its_text_and_is_a_model_for_runs(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "decoder"
    done = run("--data-dir", corpus(tmp_path), "--out", out, *SMALL, "--vocabulary", 320)
    assert done.returncode == 0, done.stderr
    nats = dict(
        line.split(" nats")[0].split(": ") for line in done.stdout.splitlines() if " nats " in line
    )
    assert set(nats) == {"WikiText-103", "WebNLG"}
    assert all(float(each) < 2.5 for each in nats.values())  # ln 320 = 5.8 before
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.config.n_positions == tokenizer.model_max_length == 32
    assert tokenizer.eos_token_id == model.config.eos_token_id == 0


def test_data_that_is_not_there_is_named(tmp_path):
    done = run("--data-dir", tmp_path, "--out", tmp_path / "decoder", *SMALL)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(tmp_path) in done.stderr
