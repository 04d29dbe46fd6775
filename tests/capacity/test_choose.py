"""What is chosen by memory, operations and time; peaks that are estimated, and rehearsed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import LAYERS, tiny

from leff.capacity.candidates import TOLERANCE, Candidate, Setting, candidates
from leff.capacity.choose import choose
from leff.capacity.clock import Needs
from leff.capacity.deadline import TimeLimit
from leff.capacity.peak import Peaks, predict
from leff.capacity.sizes import model_sizes
from leff.errors import ConfigError
from leff.methods.registry import spec_of
from leff.methods.setup import ClientSetup
from leff.runs.config import load_config
from leff.runs.plans import choose_plan
from leff.wire.messages import Capacity, Device, Step

KIND = "generation"
LEFF = spec_of("leff")
ASKED = ClientSetup(step=Step(batch_size=2), length=32)
RUN = load_config(
    None,
    {"training.batch_size": 2, "data.max_length": 32, "context.embedding_bits": 32},
)
EIGHT, HALF = Setting("quantise", bits=8), Setting("distil", 0.5, 8)


class Known:
    """Peaks that are said; estimates may be off.  Remembers what was rehearsed."""

    def __init__(self, exact=None, estimates=None):
        self._exact, self._estimates, self.rehearsed = exact or {}, estimates or {}, []

    def exact(self, candidate):
        self.rehearsed.append(candidate)
        return self._exact.get(candidate, candidate.state_bytes)

    def estimate(self, candidate):
        return self._estimates.get(candidate, candidate.state_bytes)


def best(errors, memory=None, flops=None, peaks=None):
    errors_of = lambda found: {c: errors[c] for c in found}  # noqa: E731
    report = Capacity(0, 1, 5, memory, flops)
    return choose(list(errors), errors_of, report, TimeLimit(), peaks or Known()).candidate


A = Candidate(1, EIGHT, 100, 10)
B = Candidate(2, EIGHT, 200, 9)
C = Candidate(2, Setting("quantise", bits=4), 150, 5)
D = Candidate(2, Setting("drop", 0.5, 8), 150, 4)
ERRORS = {A: 0.010, B: 0.018, C: 0.019, D: 0.5}


@pytest.mark.parametrize(
    ("memory", "flops", "wanted"),
    [
        (None, None, C),  # A, B and C count as equal; B and C are larger, C holds less
        (100, None, A),
        (200, None, C),
        (150, None, C),
        (None, 4, D),
        (199, 9, C),
    ],
)
def test_the_least_error_within_both_budgets(memory, flops, wanted):
    assert best(ERRORS, memory, flops) == wanted


@pytest.mark.parametrize(
    ("memory", "flops", "message"),
    [
        (99, None, "within 99 bytes; the least that would do is 100"),
        (120, 9, "within 120 bytes; the least that would do is 150"),  # A is too slow
        (None, 3, "in 3 operations; the least that would do is 4"),
    ],
)
def test_what_would_do_is_said_if_nothing_fits(memory, flops, message):
    with pytest.raises(ConfigError, match=message):
        best(ERRORS, memory, flops)


def test_a_choice_that_turns_out_too_large_is_made_again():
    peaks = Known({C: 151, A: 100}, {B: 200})
    assert best(ERRORS, 150, peaks=peaks) == A and peaks.rehearsed == [C, A]


def test_what_was_estimated_too_large_is_found_if_nothing_else_fits():
    assert best(ERRORS, 99, peaks=Known({A: 99})) == A
    with pytest.raises(ConfigError, match="the least that would do is 98"):
        best({A: 0}, 97, peaks=Known({A: 98}))


def test_nothing_is_rehearsed_without_a_limit_on_memory():
    peaks = Known()
    peaks.estimate = lambda _: pytest.fail("estimated")
    assert best(ERRORS, None, 9, peaks) == C and not peaks.rehearsed


def test_checkpointed_only_where_plain_does_not_fit():
    again = {
        replace(c, checkpointing=True, state_bytes=c.state_bytes, step_flops=c.step_flops + 3): e
        for c, e in ERRORS.items()
    }
    less = {c: c.state_bytes - 60 for c in again}
    both, peaks = {**ERRORS, **again}, Known(less, less)
    assert best(both, 150, peaks=peaks) == C
    assert best(both, 149, peaks=peaks) == replace(C, checkpointing=True, step_flops=8)
    with pytest.raises(ConfigError, match="the least that would do is 90"):  # 40 is too slow
        best(
            {C: 0, replace(C, checkpointing=True, step_flops=8): 0}, 89, 8, peaks=Known(less, less)
        )


def test_a_checkpointed_step_takes_its_time():
    """Ten steps are in time whole, six with the second forward pass: that goes by the memory."""
    again = replace(B, checkpointing=True, step_flops=15)
    needs = {c: Needs(0, 0, c.step_flops) for c in (B, again)}
    device = Device("phone", 200, 1.0, 1.0, 1.0)
    peaks = Known({again: 100}, {again: 100})
    for memory, wanted in ((200, (B, 10)), (150, (again, 6))):
        report = Capacity(0, 1, 10, memory, None, device)
        limit = TimeLimit(90.0, 0.5, needs, 1.0, 1)
        found = choose([B, again], lambda c: dict.fromkeys(c, 0.0), report, limit, peaks)
        assert (found.candidate, found.steps) == wanted
    late = TimeLimit(90.0, 0.7, needs, 1.0, 1)
    with pytest.raises(ConfigError, match=r"70% of its steps within 90 s on a phone.* is 105 s"):
        choose([B, again], lambda c: dict.fromkeys(c, 0.0), report, late, peaks)


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9), st.floats(0, 1)), min_size=1),
    st.integers(1, 9),
)
def test_no_fitting_candidate_is_better(drawn, memory):
    errors = {
        Candidate(n, Setting("quantise", bits=i), size, 1): error
        for i, (n, size, error) in enumerate(drawn)
    }
    fitting = [c for c in errors if c.state_bytes <= memory]
    if not fitting:
        with pytest.raises(ConfigError, match="would do"):
            best(errors, memory)
        return
    found, least = best(errors, memory), min(errors[c] for c in fitting)
    assert found in fitting and errors[found] <= least + TOLERANCE
    assert all(c.layers <= found.layers for c in fitting if errors[c] <= least + TOLERANCE)


@pytest.mark.parametrize(("name", "kind"), [("gpt2", KIND), ("deberta-v3", "classification")])
def test_an_estimate_is_near_the_rehearsal(name, kind):
    model = tiny(name, kind)
    asked = replace(ASKED, step=replace(ASKED.step, checkpointing=kind != KIND))
    peaks = Peaks(model.config, kind, LEFF, asked)
    for candidate in candidates(model_sizes(model, kind), asked)[::9]:
        assert peaks.estimate(candidate) == pytest.approx(peaks.exact(candidate), rel=0.1)


def within(folder, config, **budgets):
    """Plan with a run's options that ask for what `ASKED` does."""
    config.architectures = ["GPT2LMHeadModel"]
    config.save_pretrained(folder)
    return choose_plan(str(folder), RUN, **budgets)


def test_a_model_of_one_layer(tmp_path):
    config = tiny("gpt2", KIND).config
    config.n_layer = 1
    found = within(tmp_path, config, memory="1GB")
    step = found["step"]
    assert (found["layers"], step["accumulation"], step["checkpointing"]) == (1, 1, False)


def test_within_a_budget_the_step_is_the_plainest_that_fits(tmp_path):
    config = tiny("gpt2", KIND).config
    plain = predict(config, KIND, LEFF, replace(ASKED, layers=LAYERS)).peak
    for memory, parts in ((plain, 1), (plain - 1, 2)):
        found = within(tmp_path, config, memory=str(memory))
        step = found["step"]
        assert (found["layers"], step["accumulation"], step["checkpointing"]) == (
            LAYERS,
            parts,
            False,
        )
        whole = replace(ASKED, layers=LAYERS, step=replace(ASKED.step, accumulation=parts))
        assert found["predicted_bytes"] == predict(config, KIND, LEFF, whole).peak <= memory


def test_operations_that_nothing_does(tmp_path):
    with pytest.raises(ConfigError, match="trains a step in 1 operations; the least"):
        within(tmp_path, tiny("gpt2", KIND).config, flops="1")
