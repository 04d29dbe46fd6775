"""The experiments, and what the documents tell a user to type.

Every block of commands in a document is tried here, or has ``<!-- not run: reason -->`` on the line
before it.  What a try is, by command, so that all of them take seconds:

    leff run                 run as typed on the built-in task and on tables, but with `SIZES`; of
                             other tasks the configuration is read and checked, and nothing trains
    leff table, figure       every label is looked up; nothing is run, shown or drawn
    leff config, list, examples, and cd
                             done as typed; so are resume, evaluate, predict and generate, where a
                             command before them in the block has made the run
    leff, all others         parsed by the command line itself; nothing is computed
    python -m benchmarks.X   parsed by the benchmark's own parser; so is a script
    make X                   the Makefile has the target
    Python                   run, with `SIZES` and the built-in task
    TOML                     read as a configuration, or after ``# fleet.toml`` as a fleet file

Commands find the files that documents speak of (`my.toml`, `fleet.toml`, `walks.csv`).
"""

import argparse
import json
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint
from itertools import dropwhile, groupby, takewhile
from pathlib import Path
from unittest.mock import patch

import jsonschema
import pytest
from tiny_runs import FLEET, LAYERS, OPTIONS
from typer.main import get_command

import leff
from leff import api
from leff.capacity.fleet_file import fleet_devices, read_classes
from leff.cli import app
from leff.methods.registry import _METHODS, GROUP, methods
from leff.paper import command
from leff.paper.study import Study
from leff.runs.config import load_config, parse_config
from leff.runs.schema import schema
from leff.tasks.load import known_tasks

EXAMPLES = Path(leff.__file__).parent / "examples"
ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(EXAMPLES.rglob("*.md")),
]
MARK = re.compile(r"<!-- not run: \S.* -->")
RUN = api.run
SIZES = {
    "model.name": "tiny-gpt2",
    "training.rounds": 1,
    "evaluation.gap_clients": 0,
    **{
        key: OPTIONS[key]
        for key in (
            "data.train_examples",
            "data.max_length",
            "proxy.examples",
            "proxy.importance_batches",
            "clients.min_examples",
            "context.steps",
            "training.batch_size",
            "evaluation.examples",
            "evaluation.final_examples",
            "evaluation.max_new_tokens",
            "engine.threads",
            "engine.workers",
        )
    },
}
LANGUAGES = ("sh", "python", "toml", "text")  # text is what is printed, and is not tried


@dataclass(frozen=True)
class Block:
    """A fenced or indented block: its first line's number, its language, and its text."""

    line: int
    language: str
    text: str
    marked: bool  # as not run


def blocks(text: str) -> list[Block]:
    """Return the blocks of a document; indented ones, of four blanks, are commands."""
    found, lines, at = [], text.splitlines(), 0
    while at < len(lines):
        start = at
        if lines[at].startswith("```"):
            language = lines[at][3:].strip()
            at += 1
            while not lines[at].startswith("```"):
                at += 1
            inside = lines[start + 1 : at]
        elif lines[at].startswith("    ") and (at == 0 or not lines[at - 1].strip()):
            language = "sh"
            while at + 1 < len(lines) and lines[at + 1].startswith("    "):
                at += 1
            inside = [line[4:] for line in lines[start : at + 1]]
        else:
            at += 1
            continue
        at += 1
        before = [line for line in lines[:start] if line.strip()][-1:]
        marked = bool(before and MARK.fullmatch(before[0]))
        found.append(Block(start + 1, language, "\n".join(inside), marked))
    return found


def commands(text: str) -> Iterator[list[str]]:
    """Yield the commands of a block, as words, without comments, variables, and what is piped."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|>")
        lexer.whitespace_split = True
        for end, part in groupby(lexer, key=lambda word: word in (";", "&&")):
            words = list(takewhile(lambda word: word not in ("|", ">"), part))
            words = list(dropwhile(re.compile(r"[A-Z_]+=").match, words))
            if words and not end:
                yield [words[0].removeprefix(".venv/bin/"), *words[1:]]


def named(path: Path) -> str:
    """Return a document's name.  Pages of two folders may have the same file name."""
    return path.relative_to(ROOT).as_posix()


def of_all_documents(language: str) -> list:
    """Return the blocks of a language that a test has to try, each a parameter with its place."""
    return [
        pytest.param(
            block.text,
            id=f"{named(path)}:{block.line}",
            marks=[pytest.mark.slow] if "leff run" in block.text or language == "python" else [],
        )
        for path in DOCUMENTS
        for block in blocks(path.read_text())
        if block.language == language and not block.marked
    ]


class ParsedError(Exception):
    """Arguments were understood; nothing else is done."""


def parse(main) -> None:
    """Run a program up to the point where its parser has read the arguments."""
    read = argparse.ArgumentParser.parse_args

    def parsed(self, *arguments, **named):
        read(self, *arguments, **named)
        raise ParsedError

    with patch("argparse.ArgumentParser.parse_args", parsed), pytest.raises(ParsedError):
        main()


def looked_up(word, number, selection, places, wishes, say) -> None:
    """Look up a table's or figure's labels, in place of `leff.paper.command.answer`."""
    Study.open(f"{word}{number}", selection, places)
    raise ParsedError


def run_small(config, out=None, progress=None, track=None):
    """Run a configuration with `SIZES`, in place of `leff.api.run`."""
    if config.data.task not in ("sample", "table"):
        raise ParsedError
    given = config.model_dump(exclude_unset=True, mode="json")
    for key, value in SIZES.items():
        section, name = key.split(".")
        given.setdefault(section, {})[name] = value
    clients = given["clients"]
    if config.data.task == "sample" and not config.clients.fleet:
        clients.setdefault("count", OPTIONS["clients.count"])
    if config.method.name == "leff" and not config.clients.fleet:
        most = [min(layers, LAYERS) for layers in config.clients.layers]
        clients["layers"] = most or OPTIONS["clients.layers"]
    return RUN(parse_config(given), out=out, progress=progress, track=track)


def try_leff(words: list[str]) -> None:
    """Try a command line of `leff`, by the rules above."""
    name, *rest = words
    if name == "generate":
        words = [*words, "--max-new-tokens=6"]
    made = name in ("resume", "evaluate", "predict", "generate") and Path(rest[0]).exists()
    if made or name in ("run", "table", "figure", "config", "list", "examples"):
        with (
            patch.object(api, "run", run_small),
            patch.object(command, "answer", looked_up),
            pytest.raises((ParsedError, SystemExit)) as end,
        ):
            app(words)
        assert end.type is ParsedError or end.value.code == 0
    else:
        get_command(app).commands[name].make_context(name, rest)


def try_command(words: list[str], monkeypatch) -> None:
    """Try a command; AssertionError for one that no rule is for."""
    program, *rest = words
    monkeypatch.setattr(sys, "argv", words)
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(rest) <= set(targets), f"the Makefile has no {rest}"
    elif program == "cd":
        (Path(rest[0]) / "tiny-gpt2").symlink_to(Path("tiny-gpt2").resolve())
        monkeypatch.chdir(rest[0])
    elif program == "leff":
        try_leff(rest)
    elif program == "python" and rest[0] == "-m" and rest[1].startswith("benchmarks."):
        monkeypatch.setattr(sys, "argv", rest[1:])
        parse(import_module(rest[1]).main)
    elif program == "python" and rest[0].startswith("scripts/"):
        monkeypatch.setattr(sys, "argv", rest)
        monkeypatch.syspath_prepend(ROOT / "scripts")
        parse(import_module(Path(rest[0]).stem).main)
    elif program == "python" and (EXAMPLES / rest[0]).exists():
        monkeypatch.setattr(leff.methods.registry, "_METHODS", dict(_METHODS))
        with patch.object(leff, "run", lambda **given: RUN(**given, **SIZES)):
            runpy.run_path(str(EXAMPLES / rest[0]), run_name="__main__")
    else:
        raise AssertionError(f"no rule tries {program}; add one, or <!-- not run: the reason -->")


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_gpt2, quick_runs):
    """A working directory with what the documents' commands read."""
    monkeypatch.chdir(tmp_path)
    for path in EXAMPLES.glob("*.toml"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "tiny-gpt2").symlink_to(tiny_gpt2)
    (tmp_path / "my.toml").touch()
    rows = (f"length: {i} km,A walk of {i} km.,{'north' if i % 3 else 'south'}" for i in range(60))
    (tmp_path / "walks.csv").write_text("\n".join(["facts,description,region", *rows]))
    tickets = [f"ticket {i},{'login' if i % 3 else 'billing'}" for i in range(60)]
    (tmp_path / "tickets.csv").write_text("\n".join(["text,label", *tickets]))
    asked = (
        {"messages": [question(i), {"role": "assistant", "content": "No."}]} for i in range(60)
    )
    (tmp_path / "talks.jsonl").write_text("\n".join(map(json.dumps, asked)))
    (tmp_path / "new.csv").write_text("text\ncannot log in\n")
    (tmp_path / "fleet.toml").write_text(FLEET)
    return tmp_path


def question(number):
    return {"role": "user", "content": f"Is walk {number} long?"}


@pytest.mark.parametrize("text", of_all_documents("sh"))
def test_commands_in_a_document_can_be_typed(text, folder, monkeypatch):
    for words in commands(text):
        try_command(words, monkeypatch)


@pytest.mark.parametrize("text", of_all_documents("python"))
def test_python_in_a_document_runs(text, folder, monkeypatch):
    here = {"data.task": "sample", "proxy.task": "sample", "clients.by": "", "clients.layers": [1]}
    monkeypatch.setattr(leff, "run", lambda *given, **_: RUN(*given, **SIZES, **here))
    monkeypatch.setattr(leff, "generate", partial(leff.generate, max_new_tokens=6))
    exec(compile(text, "document", "exec"), {})


@pytest.mark.parametrize("text", of_all_documents("toml"))
def test_toml_in_a_document_is_valid(text, tmp_path):
    values = tomllib.loads(text)
    if "project" in values:  # of a package that adds a method
        (value,) = values["project"]["entry-points"][GROUP].values()
        assert EntryPoint("a", value, GROUP).attr
    elif text.startswith("# fleet.toml"):
        path = tmp_path / "fleet.toml"
        path.write_text(text)
        assert fleet_devices(read_classes(path))
    else:
        parse_config(values)
        jsonschema.validate(values, schema())


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_a_block_says_what_it_is(path):
    for block in blocks(path.read_text()):
        assert block.language in LANGUAGES, (
            f"{named(path)}:{block.line}: a block of {block.language!r}"
        )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("    pip install leff", "no rule tries pip"),
        ("    leff walk", "walk"),
        ("```sh\nleff plan gpt2 --lairs 2\n```", "lairs"),
        ("```sh\nleff run --set training.round=2\n```", "training.round"),
        ("```sh\nleff table 1 --row LEF\n```", "LEF"),
        ("```sh\nmake tea\n```", "tea"),
        ("```sh\npython -m benchmarks.device --model\n```", "2"),  # the exit status
    ],
)
def test_a_command_that_cannot_be_typed_is_found(text, reason, folder, monkeypatch):
    (block,) = blocks(text)
    with pytest.raises((Exception, SystemExit), match=reason):
        for words in commands(block.text):
            try_command(words, monkeypatch)


def test_a_mark_needs_a_reason_and_the_place_before_the_block():
    text = "<!-- not run: {} -->\n```sh\npip install leff\n```"
    assert blocks(text.format("needs the hub"))[0].marked
    assert not blocks(text.format(""))[0].marked
    assert not blocks(text.format("needs the hub").replace("\n", "\n\nWords.\n\n", 1))[0].marked


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda p: p.name)
def test_an_experiment_is_a_valid_configuration(path):
    config = load_config(path)
    assert config.data.task in known_tasks() and config.proxy.task in known_tasks()
    assert config.method.name in methods()


def test_commands_in_the_readme_exist():
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    typed = set(re.findall(r"\bleff ([a-z]+)", (ROOT / "README.md").read_text()))
    assert typed <= known, typed - known
    assert known <= typed, known - typed


def anchors(path: Path) -> set[str]:
    """Return what the headings of a document are linked by."""
    titles = re.findall(r"^#+ (.*)", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_what_a_document_links_to_exists(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), f"{named(path)} links to {target}"
        assert not anchor or anchor in anchors(file), f"{named(path)} links to {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_a_document_names_no_place_of_one_machine(path):
    found = re.search(
        r"(?<![\w.:/])/(home|root|tmp|mnt|opt|srv|usr|var|work|Users)\b", path.read_text()
    )
    assert found is None, f"{named(path)}: {found}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 120
