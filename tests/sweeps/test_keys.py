"""What a run's key counts, where a default changed after the first results."""

from leff.runs.config import load_config
from leff.sweeps.keys import run_key

FORMER = {
    "training.levelled": False,
    "training.calibrated_from": 0.0,
    "method.weights": "examples",
    "method.mixed": False,
}


def key(**given):
    return run_key(load_config(None, {name.replace("__", "."): v for name, v in given.items()}))


def test_a_run_with_todays_defaults_is_not_one_with_the_former():
    assert key() != key(**FORMER)
    assert key() == key(method__weights="auto", training__levelled=True)
    assert key() != key(method__weights="examples")
    assert key(**{**FORMER, "training.calibrated_from": 0.1}) != key(**FORMER)


def test_a_method_as_published_has_the_key_that_it_had():
    """Before, its loss was given, and the rest was the default."""
    assert key(method__name="fedavg") == key(
        method__name="fedavg", training__calibrated=False, **FORMER
    )
    aided = {**FORMER, "training.levelled": True, "training.calibrated": True}
    assert key(method__name="fedavg", training__levelled=True, training__calibrated=True) == key(
        method__name="fedavg", **aided
    )
