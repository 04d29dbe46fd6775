"""A client whose memory ran out is taken for less from then on."""

import json
from dataclasses import replace

import pytest
from small_rounds import TRAINING

from leff.capacity.setbacks import Setbacks
from leff.wire.messages import Capacity, Job, Part, Segment, Tuned

PART = Part("0" * 64, 1)


def job(client=0, layers=3, predicted=0, tuned=None):
    block = Segment(tuple(range(layers)), (PART,) * layers, trains=True)
    made = Job(0, client, 0, "generation", "{}", 0, PART, PART, (block,), TRAINING, tuned)
    return replace(made, predicted_bytes=predicted)


def test_without_a_setback_a_report_is_believed():
    report = Capacity(0, 4, 10, memory_bytes=100)
    assert Setbacks().applied(report) == report


def test_memory_counts_as_less_than_the_least_that_failed():
    setbacks, report = Setbacks(), Capacity(0, 4, 10, memory_bytes=1000)
    for predicted in (800, 600, 700):
        setbacks.lower(job(predicted=predicted), report)
    assert setbacks.applied(report) == replace(report, memory_bytes=599, failed_bytes=600)
    less = replace(report, memory_bytes=50)  # the client's own word, where it is lower
    assert setbacks.applied(less).memory_bytes == 50
    assert setbacks.applied(Capacity(1, 4, 10, memory_bytes=1000)).failed_bytes is None


def test_without_a_budget_a_block_loses_a_layer_down_to_one():
    setbacks, report = Setbacks(), Capacity(0, 4, 10)
    for layers, left in ((3, 2), (2, 1), (1, 1)):
        setbacks.lower(job(layers=layers), report)
        assert setbacks.applied(report).layers == left
    assert setbacks.applied(replace(report, client=1)).layers == 4


@pytest.mark.parametrize(
    ("report", "tuned"), [(Capacity(0, 4, 10, 500), None), (Capacity(0, 4, 10), Tuned({}))]
)
def test_layers_stay_where_there_is_a_budget_or_no_block(report, tuned):
    setbacks = Setbacks()
    setbacks.lower(job(predicted=300, tuned=tuned), report)
    assert setbacks.applied(report).layers == 4


def test_a_restart_goes_on_as_if_there_was_none():
    setbacks, resumed = Setbacks(), Setbacks()
    setbacks.lower(job(client=2, layers=3, predicted=70), Capacity(2, 4, 10))
    resumed.load_state(json.loads(json.dumps(setbacks.state())))
    report = Capacity(2, 4, 10, memory_bytes=100)
    assert resumed.applied(report) == setbacks.applied(report)
    assert resumed.applied(report).memory_bytes == 69 and resumed.applied(report).layers == 2
