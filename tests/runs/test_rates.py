"""The learning rate that a run gets if it is given none."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leff.runs.config import parse_config
from leff.runs.rates import LARGEST, MEASURED, rate_for, with_learning_rate

KINDS = {"language": ("generation", "text"), "label": ("classification", "regression")}
widths = st.integers(1, 100_000)


@dataclasses.dataclass
class Shape:
    hidden_size: int


@pytest.mark.parametrize("kind", KINDS)
def test_measured_widths_get_their_rates(kind):
    for width, rate in MEASURED[kind].items():
        assert {rate_for(Shape(width), each) for each in KINDS[kind]} == {rate}


@given(widths, widths, st.sampled_from(["generation", "classification"]))
def test_a_wider_model_never_gets_more(one, other, kind):
    narrow, wide = sorted((one, other))
    assert rate_for(Shape(narrow), kind) >= rate_for(Shape(wide), kind) > 0
    assert rate_for(Shape(narrow), kind) <= LARGEST


OTHERS = (
    (16, "text", 4e-3),
    (4096, "text", 6e-5),
    (48, "classification", 3e-3),
    (1536, "regression", 1e-4),
)


@pytest.mark.parametrize(("width", "kind", "rate"), OTHERS)
def test_beyond_the_measured_widths(width, kind, rate):
    assert rate_for(Shape(width), kind) == rate


@pytest.mark.parametrize("method", ["fedlora", "slora", "flora", "flexlora", "fedbitfit"])
def test_methods_that_train_little_get_more(method, caplog):
    caplog.set_level("INFO")
    config = parse_config({"method": {"name": method}})
    filled = with_learning_rate(config, Shape(384), "classification")
    assert filled.training.learning_rate == 2e-3
    assert f"chosen for {method}, classification and a width of 384" in caplog.text
    assert with_learning_rate(config, Shape(64), "text").training.learning_rate == 2 * LARGEST


def test_a_given_rate_stays():
    config = parse_config({"training": {"learning_rate": 0.5}})
    assert with_learning_rate(config, Shape(384), "text") is config
