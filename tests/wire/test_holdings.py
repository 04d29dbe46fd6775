"""What the server knows of the parts that clients hold."""

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from small_rounds import TRAINING

from leff.wire.holdings import Holdings
from leff.wire.messages import Job, MeasureJob, Part, Segment

PARTS = [Part(f"{i:064x}", 10 + i) for i in range(8)]


def job(client, *numbers):
    segment = Segment(tuple(range(len(numbers))), tuple(PARTS[i] for i in numbers), trains=True)
    return Job(0, client, 0, "generation", "{}", 0, PARTS[0], PARTS[1], (segment,), TRAINING)


def test_a_client_is_sent_what_it_lacks():
    holdings = Holdings()
    assert set(holdings.missing(job(3, 2, 4))) == {PARTS[i].digest for i in (0, 1, 2, 4)}
    assert holdings.send(job(3, 2, 4)) == 10 + 11 + 12 + 14
    assert holdings.missing(job(3, 4, 2)) == {} and holdings.send(job(3, 4, 2)) == 0
    assert holdings.send(job(3, 5, 5)) == 15  # a part that a job names twice is sent once
    assert holdings.send(job(3, 2)) == 12  # of earlier jobs it holds nothing
    assert holdings.send(job(1, 2)) == 10 + 11 + 12  # other clients hold their own


@given(st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(2, 7), min_size=1)), max_size=8))
def test_a_restart_goes_on_as_if_there_was_none(sent):
    whole, resumed = Holdings(), Holdings()
    for client, numbers in sent:
        whole.send(job(client, *numbers))
    resumed.load_state(json.loads(json.dumps(whole.state())))
    for client in range(3):
        assert resumed.missing(job(client, 2, 3, 4)) == whole.missing(job(client, 2, 3, 4))


def test_what_was_measured_is_held_beside_the_last_job():
    """A measured model's parts stay until another is measured, whatever jobs come between."""
    holdings = Holdings()
    segment = Segment((0, 1), (PARTS[2], PARTS[3]), bits=8)
    measured = MeasureJob(0, 3, "text", "{}", 0, PARTS[0], PARTS[1], (segment,))
    assert holdings.send(measured) == 10 + 11 + 12 + 13 and holdings.send(measured) == 0
    assert holdings.send(job(3, 2, 4)) == 14
    assert holdings.send(job(3, 3)) == 0
    assert holdings.send(job(3, 4)) == 14  # of the job before the last it holds nothing
    other = replace(measured, segments=(Segment((0,), (PARTS[5],)),))
    assert holdings.send(other) == 15 and holdings.send(measured) == 12 + 13
