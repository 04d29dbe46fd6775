"""The scripts that pretrain models."""

import ast
import json
import os
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


MUTATED = """
'A docstring.'
def half(number: int = 1) -> float:
    if number > 0:
        return number / 2
    raise ValueError(f"{number + 1} is small")
"""


def test_mutants_are_single_changes_of_what_runs():
    script = runpy.run_path(str(SCRIPTS / "mutants.py"))
    found = list(script["mutants"](MUTATED))
    plain = ast.unparse(ast.parse(MUTATED))
    assert len({mutant.source for mutant in found} | {plain}) == len(found) + 1
    assert {(mutant.line, mutant.change) for mutant in found} == {
        (3, "1  ->  2"),
        (4, "if number > 0:  ->  if not number > 0:"),
        (4, "Gt  ->  GtE"),
        (4, "0  ->  1"),
        (5, "return number / 2  ->  return None"),
        (5, "Div  ->  Mult"),
        (5, "2  ->  3"),
        (6, "raise ValueError(f'{number + 1} is small')  ->  pass"),
    }


def test_every_mutated_module_and_its_tests_are_there():
    for module, tests in runpy.run_path(str(SCRIPTS / "mutants.py"))["COVERED"].items():
        for path in (f"src/leff/{module}", *(f"tests/{test}" for test in tests)):
            assert (SCRIPTS.parent / path).exists(), path


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")
def test_mutants_that_no_test_notices_are_printed(tmp_path):
    files = {
        "src/leff/__init__.py": "",
        "src/leff/half.py": MUTATED,
        "tests/test_half.py": "from leff.half import half\n\n"
        "def test_half():\n    assert half(2) == 1 and half() == 0.5",
        "pyproject.toml": "[tool.pytest.ini_options]\nmarkers = ['slow']",
        "scripts/mutants.py": (SCRIPTS / "mutants.py").read_text(),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    code = (
        "import runpy\nmain = runpy.run_path('scripts/mutants.py')['main']\n"
        "covered = main.__globals__['COVERED']\ncovered.clear()\n"
        "covered['half.py'] = ['test_half.py']\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    *survivors, module, score = done.stdout.splitlines()
    assert survivors == [
        "src/leff/half.py:4  Gt  ->  GtE",
        "src/leff/half.py:6  raise ValueError(f'{number + 1} is small')  ->  pass",
    ]
    assert module == "half.py: 6 of 8 noticed"
    assert score == "score: 6 of 8 noticed, 75.0%"
