"""LEFF's plan: blocks as drawn, stand-ins around them, students kept over rounds."""

import pytest
import torch
from small_rounds import CASES, TRAINING, federate, make_method, same, state_of
from tiny_models import tiny

from leff.errors import RunError
from leff.methods.method import RoundContext
from leff.methods.stand_ins import Bank, make_context
from leff.models import layer_state
from leff.wire.messages import Capacity
from leff.wire.tensors import pack, unpack

GPT2 = ("gpt2", "generation")
REPORTS = [Capacity(i, 1 + i % 3, 5) for i in range(12)]


def plan(method, model, index=0, reports=REPORTS, seed=0):
    return method.plan(model, RoundContext(index, seed, TRAINING), reports)


@pytest.mark.parametrize("context", ["drop", "distil", "quantise"])
@pytest.mark.parametrize("sampling", ["importance", "round_robin", "random"])
def test_jobs_chain_stand_ins_and_block_in_the_models_order(context, sampling, store):
    model = tiny(*GPT2)
    before = state_of(model)
    method = make_method("leff", "generation", store, context, sampling=sampling, steps=1)
    jobs = plan(method, model).jobs
    assert [job.client for job in jobs] == list(range(12))
    for job, report in zip(jobs, REPORTS, strict=True):
        assert len(job.block) == report.layers
        assert list(job.block) == list(range(job.block[0], job.block[-1] + 1))
        sources = [source for segment in job.segments for source in segment.sources]
        assert sources == sorted(set(sources)) and set(sources) <= set(range(4))
        unselected = 4 - report.layers
        kept = unselected if context == "quantise" else -(-unselected // 2)
        assert len(sources) == report.layers + kept
        assert sum(segment.trains for segment in job.segments) == 1
        for segment in job.segments:
            assert segment.bits == (8 if context == "quantise" and not segment.trains else 32)
            if segment.trains:
                for source, part in zip(segment.sources, segment.parts, strict=True):
                    assert same(store.get(part), layer_state(model, source))
    assert same(before, state_of(model))


def test_round_robin_gives_every_client_every_block(store):
    method = make_method("leff", "generation", store, sampling="round_robin")
    model, report = tiny(*GPT2), Capacity(5, 2, 9)
    firsts = [plan(method, model, index, [report]).jobs[0].block[0] for index in range(6)]
    assert set(firsts) == {0, 1, 2} and firsts[:3] == firsts[3:]


def test_a_clients_block_does_not_depend_on_who_else_takes_part(store):
    method = make_method("leff", "generation", store)
    model = tiny(*GPT2)
    together = {job.client: job.block for job in plan(method, model).jobs}
    for report in REPORTS[3:5]:
        assert plan(method, model, reports=[report]).jobs[0].block == together[report.client]


def test_blocks_change_over_rounds_and_seeds(store):
    method, model = make_method("leff", "generation", store, sampling="random"), tiny(*GPT2)
    draws = [
        plan(method, model, *which) for which in ((0, REPORTS, 0), (1, REPORTS, 0), (0, REPORTS, 1))
    ]
    blocks = [tuple(job.block for job in drawn.jobs) for drawn in draws]
    assert len(set(blocks)) == 3


def test_importance_is_measured_on_other_batches_in_the_next_round(store):
    method, model = make_method("leff", "generation", store, batches=1), tiny(*GPT2)
    scores = [plan(method, model, i).facts["layer_scores"] for i in range(4)]
    assert scores[0] == scores[3] and scores[0] != scores[1] != scores[2]  # of three batches


def test_spans_are_made_once_whatever_the_number_of_clients(store, monkeypatch):
    method, model = make_method("leff", "generation", store), tiny(*GPT2)
    asked, puts = [], []
    original, put = Bank.make, store.put

    def make(self, model, spans, *rest):
        asked.append(spans)
        return original(self, model, spans, *rest)

    monkeypatch.setattr(Bank, "make", make)
    monkeypatch.setattr(type(store), "put", lambda self, tensors: puts.append(1) or put(tensors))
    many = [Capacity(i, 1 + i % 2, 5) for i in range(200)]
    plan(method, model, reports=many)
    (spans,) = asked
    assert len(spans) == len(set(spans)) <= 2 * 4 * 2
    assert len(puts) <= 2 + 4 + 4  # shell, tail, four layers that train, four that stand in


def test_context_error_is_reported_by_span(store):
    method, model = make_method("leff", "generation", store, sampling="round_robin"), tiny(*GPT2)
    facts = plan(method, model, reports=[Capacity(1, 2, 5)]).facts
    spans = make_context("drop", rate=0.5).spans(range(1, 3), 4)
    assert list(facts["context_error"]) == ["0-0", "3-3"]
    assert [span.layers for span in spans] == [1, 0]
    assert facts["context_error"]["0-0"] == 0 < facts["context_error"]["3-3"]


def test_students_are_kept_and_survive_a_restart(store):
    model = tiny(*GPT2)
    settings = {"sampling": "round_robin", "steps": 3}
    one = make_method("leff", "generation", store, "distil", **settings)
    plan(one, model, 0)
    two = make_method("leff", "generation", store, "distil", **settings)
    two.load_state(unpack(pack(one.state())))
    cold = make_method("leff", "generation", store, "distil", **settings)
    jobs = [plan(method, model, 1).jobs for method in (one, two, cold)]
    assert jobs[0] == jobs[1] != jobs[2]
    assert same(one.state(), two.state())


@pytest.mark.parametrize("context", ["drop", "quantise"])
def test_contexts_that_cannot_gain_from_the_past_keep_nothing(context, store):
    method = make_method("leff", "generation", store, context)
    plan(method, tiny(*GPT2))
    assert not any(key.startswith("bank/") for key in method.state())


def test_all_layers_need_no_stand_ins(store, monkeypatch):
    method, model = make_method("leff", "generation", store), tiny(*GPT2)
    monkeypatch.setattr(Bank, "make", lambda *a: pytest.fail("nothing to make"))
    found = plan(method, model, reports=[Capacity(0, 4, 5)])
    assert found.jobs[0].block == (0, 1, 2, 3) and found.facts["context_error"] == {}


def test_a_model_that_has_diverged_is_an_error_with_a_remedy(store):
    model = tiny(*GPT2)
    with torch.no_grad():
        model.transformer.h[1].ln_1.weight[0] = float("nan")
    with pytest.raises(RunError, match=r"round 3 .* lower training.learning_rate"):
        plan(make_method("leff", "generation", store), model, 2)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_scale_changes_the_probabilities_and_not_the_scores(name, kind, store):
    model = tiny(name, kind)
    facts = {
        scale: plan(make_method("leff", kind, store, scale=scale), model).facts
        for scale in ("literal", "standardised")
    }
    assert facts["literal"]["layer_scores"] == facts["standardised"]["layer_scores"]
    assert facts["literal"]["entropy"] != facts["standardised"]["entropy"]
    assert facts["standardised"]["entropy"] < facts["standardised"]["entropy_uniform"]


def test_what_the_clock_decides_is_written_to_the_round(store):
    method = make_method("leff", "generation", store, "distil", steps=2, seconds=60.0)
    context = RoundContext(0, 0, TRAINING)
    method.plan(tiny(*GPT2), context, REPORTS)
    assert context.decided == {"distil_steps": 2}


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize(
    ("context", "options"),
    [
        ("distil", {"bits": 4}),
        ("drop", {"bits": 8}),
        ("quantise", {"bits": 4}),
        ("quantise", {"bits": 8, "suffix": "distil"}),
    ],
)
def test_rounds_with_combined_contexts(context, options, name, kind, tmp_path):
    settings = {**options, "steps": 2}
    model, records = federate(
        "leff", (name, kind), tmp_path, context=context, settings=settings, capacities=(1, 2, 1)
    )
    assert [record["failures"] for record in records] == [0, 0]
    assert not same(state_of(model), state_of(tiny(name, kind)))
    assert all(0 <= error < 10 for r in records for error in r["context_error"].values())


def test_segments_say_how_many_bits_they_have(store):
    options = {"bits": 4, "suffix": "distil", "steps": 1, "sampling": "round_robin"}
    method = make_method("leff", "generation", store, "quantise", **options)
    (job,) = plan(method, tiny(*GPT2), reports=[Capacity(1, 1, 5)]).jobs
    assert [segment.bits for segment in job.segments] == [4, 32, 4]
    assert [segment.sources for segment in job.segments] == [(0,), (1,), (3,)]
