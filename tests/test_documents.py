"""The experiments and what the documents tell a user to type."""

import re
import tomllib
from pathlib import Path

import pytest

from leff.cli import app
from leff.runs.build_method import METHODS
from leff.runs.config import load_config, parse_config
from leff.tasks.load import known_tasks

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments").glob("*.toml")), ids=lambda p: p.name
)
def test_an_experiment_is_a_valid_configuration(path):
    config = load_config(path)
    assert config.data.task in known_tasks() and config.proxy.task in known_tasks()
    assert config.method.name in METHODS


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_toml_in_a_document_is_valid(path):
    for block in re.findall(r"```toml\n(.*?)```", path.read_text(), re.DOTALL):
        parse_config(tomllib.loads(block))


def test_commands_in_the_readme_exist():
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    typed = set(re.findall(r"\bleff ([a-z]+)", (ROOT / "README.md").read_text()))
    assert typed <= known, typed - known
    assert known <= typed, known - typed


def test_files_that_documents_link_to_exist():
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
