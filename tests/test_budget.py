"""Estimates that a search goes by, against rehearsals of the same choice at full depth."""

import dataclasses

import pytest
from tiny_models import tiny

from leff.budget import Search, within
from leff.errors import ConfigError
from leff.footprint import Choice
from leff.prediction import predict

KIND = "generation"
ASKED = Choice(batch_size=2, length=16)


@pytest.mark.parametrize(("name", "kind"), [("gpt2", KIND), ("deberta-v3", "classification")])
def test_an_estimate_is_near_the_rehearsal(name, kind):
    config = tiny(name, kind).config
    search = Search(config, kind, ASKED)
    for candidate in search.found[::7]:
        for order in (0, len(search.ways) - 1):
            each = search.fitted(candidate, order)
            exact = predict(config, kind, "leff", each.choice).peak
            assert each.peak == pytest.approx(exact, rel=0.1), (candidate, order)


def test_ways_are_the_plain_one_first():
    search = Search(tiny("gpt2", KIND).config, KIND, dataclasses.replace(ASKED, batch_size=4))
    assert search.ways == [(1, False), (2, False), (4, False), (1, True), (2, True), (4, True)]


def test_operations_that_nothing_does():
    with pytest.raises(ConfigError, match="trains a step in 1 operations; the least"):
        within(tiny("gpt2", KIND).config, KIND, ASKED, step_flops=1)
