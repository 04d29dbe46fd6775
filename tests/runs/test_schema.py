"""The JSON schema of a configuration file."""

import json
import random
import tomllib
from pathlib import Path

import jsonschema
import pytest
from any_toml import any_value
from pydantic import ValidationError

import leff
from leff.cli import app
from leff.errors import LeffError
from leff.runs.options import RunConfig
from leff.runs.schema import schema
from leff.runs.toml import commented_toml

FILES = sorted((Path(leff.__file__).parent / "examples").rglob("*.toml"))
SECTIONS = {
    name: field.default_factory or type(field.default)
    for name, field in RunConfig.model_fields.items()
    if hasattr(field.default_factory or type(field.default), "model_fields")
}


def fits(values) -> bool:
    return jsonschema.Draft202012Validator(schema()).is_valid(values)


def test_the_schema_is_one_and_refuses_what_is_wrong():
    jsonschema.Draft202012Validator.check_schema(schema())
    assert fits({"training": {"rounds": 3, "epochs": "auto"}, "seed": 1})
    for wrong in ({"round": 3}, {"training": {"rounds": "3"}}, {"method": {"name": 1}}):
        assert not fits(wrong)


def test_it_takes_the_examples_and_what_leff_config_prints():
    files = [path for path in FILES if path.name != "fleet.toml"]
    for text in [*(path.read_text() for path in files), commented_toml()]:
        jsonschema.validate(tomllib.loads(text), schema())


def test_leff_config_prints_it(capsys):
    with pytest.raises(SystemExit) as end:
        app(["config", "--schema"])
    assert end.value.code == 0 and json.loads(capsys.readouterr().out) == schema()


@pytest.mark.parametrize("section", SECTIONS)
def test_what_it_refuses_a_run_refuses(section):
    rng, model = random.Random(section), SECTIONS[section]
    check = jsonschema.Draft202012Validator(schema())
    for key, option in model.model_fields.items():
        for _ in range(60):
            value = rng.choice([any_value(rng, 1), [any_value(rng, 0)], option.default])
            try:
                model.model_validate({key: value})
            except (ValidationError, LeffError, ValueError, OverflowError):
                continue
            assert value is None or check.is_valid({section: {key: value}}), (key, value)
