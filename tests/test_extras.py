"""Packages that only some uses need."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from leff.errors import UsageError
from leff.extras import EXTRAS, advice, need

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
LISTED = PROJECT["optional-dependencies"]


def distributions(requirements):
    """The requirements' names, with brackets where they have them; LEFF's own are left out."""
    names = {re.split(r"[><=]", each)[0] for each in requirements}
    return {name for name in names if not name.startswith("leff[")}


def test_the_extras_are_those_of_the_project():
    packages_of = metadata.packages_distributions()
    assert set(EXTRAS) == set(LISTED) - {"all", "dev"}
    for extra, packages in EXTRAS.items():
        found = {name for package in packages for name in packages_of[package]}
        listed = distributions(LISTED[extra])
        if extra == "simulation":
            assert listed == {"flwr[simulation]"} and found == {"ray"}
        else:
            assert found == listed - ({"pyarrow"} if extra == "server" else set())


def test_all_has_all():
    (everything,) = LISTED["all"]
    named = set(everything.removeprefix("leff[").removesuffix("]").split(","))
    inside = {each for name in named for each in LISTED[name] if each.startswith("leff[")}
    assert named | {each[5:-1] for each in inside} | {"parquet"} == set(EXTRAS)
    assert "pyarrow>=15" in LISTED["server"]  # so `parquet` is in it


def test_what_is_missing_is_named_with_its_remedy(monkeypatch):
    need("server")
    monkeypatch.setattr("leff.extras.find_spec", lambda name: None if name == "sklearn" else 1)
    with pytest.raises(UsageError, match=r"^a run needs the package sklearn; pip install 'leff\["):
        need("server", "a run")
    need("gguf")
    assert advice("pyarrow") == "pip install 'leff[parquet]'" and advice("torch") is None
