"""What is said below tables and figures, beside what their runs do."""

import re

import pytest

from leff.paper.captions import averages_line, caption
from leff.paper.cells import Selection
from leff.paper.study import Places, Study


def study(name, size="mini", **selection):
    return Study.open(name, Selection(size=size, **selection), Places())


def test_a_caption_has_the_numbers_of_its_own_runs():
    said = caption(study("table2"))
    assert "SST-2 2,000, STS-B 1,000 training examples; measured on at most 1,000 of" in said
    assert "CoLA" not in said and "RTE" not in said
    said = caption(study("table1", columns=("E2E",)))
    assert "2,000 training examples; measured on at most 200 of the inputs of the test set" in said
    assert "MiniLM" not in said and "stories260K" in said
    said = caption(study("table4"))
    assert "400 training examples; measured on at most 64 of the test set" in said
    assert "All training examples; measured on all of the inputs" in caption(
        study("table3", "full")
    )


def test_a_curve_is_of_what_a_round_measures():
    said = caption(study("figure8"))
    assert "loss on 100 of the validation examples" in said
    assert "loss on 50 of the validation examples" in said and "measured on" not in said


def test_points_and_columns_that_a_size_leaves_out_are_said():
    assert "α = 0.1, 1, 10, 50: not in mini." in caption(study("figure4"))
    assert "not in" not in caption(study("figure4", size="full"))
    small, whole = (study("figure5", size).values() for size in ("mini", "full"))
    assert averages_line(small) == "Averages are over the columns that this size has."
    assert averages_line(whole) == ""
    beside = averages_line(study("table2").values())
    assert beside == "Averages, the paper's too, are over the columns that this size has."


@pytest.mark.parametrize("size", ["mini", "full"])
def test_a_caption_says_which_loss_and_which_merge(size):
    said = caption(study("table1", size=size))
    assert "LEFF has its calibrated loss" in said
    assert re.search("the other methods the plain (one|loss)", said)
    assert "the merge that is our default" in said
    assert ("without the aids for skewed labels" in said) == (size == "mini")
    assert ("and its aids for skewed labels" in said) == (size == "full")


def test_a_model_in_place_of_the_sizes_is_said():
    assert "With gpt2 instead." in caption(study("table3", model="gpt2"))
