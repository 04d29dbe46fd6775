"""The peak of a job that was written: what its choice is planned to take, and what it takes."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from small_rounds import CPU, TRAINING, invented, recipe
from tiny_models import LAYERS, tiny
from transformers import GPT2Config

from benchmarks.random_job import write
from leff.capacity.footprint import Choice
from leff.capacity.peak import fitted, least_peak, predict, predict_job
from leff.capacity.rehearsal import rehearse
from leff.errors import ConfigError
from leff.methods.method import RoundContext
from leff.methods.stand_ins import make_context
from leff.wire.messages import Capacity

KIND = "generation"
ASKED = Choice(rank=3, batch_size=4, length=12)


def planned(made, model, round_index=0):
    context = RoundContext(round_index, 0, TRAINING)
    return made.plan(model, context, [Capacity(client, 2, 6) for client in range(3)]).jobs


def jobs(method, store, model, **options):
    return planned(recipe(method, model, KIND, store, **options), model)


@pytest.mark.parametrize("method", ["fedavg", "fedbitfit", "fedlora", "flora"])
def test_a_job_is_what_its_method_is_predicted_to_hold(method, store):
    model = tiny("gpt2", KIND)
    (job, *_) = jobs(method, store, model)
    assert predict_job(job, ASKED).peak == predict(model.config, KIND, method, ASKED).peak


def test_both_stages_of_slora(store):
    model = tiny("gpt2", KIND)
    made = recipe("slora", model, KIND, store, training__rounds=2)
    (first, *_) = planned(made, model)
    made.merge(model, [invented(first, 5, seed=0)])
    (second, *_) = planned(made, model, 1)
    peaks = [predict_job(job, ASKED).peak for job in (first, second)]
    assert peaks[0] == rehearse(model.config, KIND, "slora", ASKED).peak
    assert peaks[1] == rehearse(model.config, KIND, "fedlora", ASKED).peak
    assert max(peaks) == predict(model.config, KIND, "slora", ASKED).peak


def test_the_base_of_adapters_is_held_in_its_bits(store):
    model = tiny("gpt2", KIND)
    (job, *_) = jobs("flexlora", store, model, clients__ranks=[2], method__base_bits=8)
    asked = replace(ASKED, base_bits=8, rank=2)
    assert predict_job(job, replace(ASKED, base_bits=8)) == predict(
        model.config, KIND, "flexlora", asked
    )


@pytest.mark.parametrize("context", ["quantise", "drop"])
def test_leff_is_predicted_where_its_block_was_drawn(context, store):
    model = tiny("gpt2", KIND)
    options = {"context__name": context, "context__bits": 8, "context__embedding_bits": 16}
    around = make_context(context, rate=0.5, bits=8)
    asked = replace(ASKED, embedding_bits=16, context=around)
    drawn = {}
    for job in jobs("leff", store, model, **options):
        block = range(job.block[0], job.block[-1] + 1)
        drawn[block] = predict_job(job, asked)
        assert drawn[block] == rehearse(model.config, KIND, "leff", asked, block)
    assert len(drawn) > 1


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "deberta-v3"])
def test_the_peak_is_that_of_the_place_where_it_is_most(name, checkpointing):
    """For DeBERTa, checkpointed, the last: all of its layers read the tail and have a graph."""
    kind = KIND if name == "gpt2" else "classification"
    config = tiny(name, kind).config
    asked = replace(ASKED, checkpointing=checkpointing, context=make_context("quantise", bits=8))
    places = [range(k, k + 1) for k in range(LAYERS)]
    peaks = [rehearse(config, kind, "leff", asked, place).peak for place in places]
    assert predict(config, kind, "leff", asked).peak == max(peaks)


def test_a_jobs_own_settings_count(store):
    model = tiny("gpt2", KIND)
    (job, *_) = jobs("fedavg", store, model)
    plain = predict_job(job, ASKED).peak
    for change in ({"accumulation": 2}, {"checkpointing": True}, {"optimizer": "adamw8bit"}):
        other = replace(job, training=replace(job.training, **change))
        assert predict_job(other, ASKED) == predict(
            model.config, KIND, "fedavg", replace(ASKED, **change)
        )
    pulled = replace(job, training=replace(job.training, proximal=0.1))
    weights = sum(p.nbytes for p in model.parameters()) - model.transformer.wpe.weight.nbytes
    weights -= model.transformer.wte.weight.nbytes  # neither trains
    assert predict_job(pulled, ASKED).peak == plain + weights


def test_fitted_is_the_plainest_and_the_least_is_said():
    config = tiny("gpt2", KIND).config
    peaks = [
        predict(config, KIND, "fedavg", replace(ASKED, accumulation=n)).peak for n in (1, 2, 4)
    ]
    for peak, parts in zip(peaks, (1, 2, 4), strict=True):
        found = fitted(config, KIND, "fedavg", ASKED, peak)
        assert (found.accumulation, found.checkpointing) == (parts, False)
    assert fitted(config, KIND, "fedavg", ASKED, peaks[2] - 1).checkpointing
    least = least_peak(config, KIND, "fedavg", ASKED)
    with pytest.raises(ConfigError, match=f"fedavg needs {least:,} bytes at least, there are 10"):
        fitted(config, KIND, "fedavg", ASKED, 10)


@pytest.mark.slow
def test_a_process_takes_what_is_predicted_when_it_trains_the_leaner_way(tmp_path):
    config = GPT2Config(n_embd=256, n_layer=6, n_head=4, vocab_size=5000, n_positions=256)
    around = make_context("quantise", bits=8)
    plain = Choice(batch_size=8, length=256, context=around)
    memory = predict(config, KIND, "leff", plain).peak // 3
    choice = fitted(config, KIND, "leff", plain, memory)
    assert choice.accumulation > 1
    job = write(tmp_path, config, KIND, "leff", choice, range(1), 3)
    predicted = predict_job(job, choice).peak
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.device_side", str(tmp_path), str(CPU), "1"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    found = json.loads(done.stdout)
    assert found["failure"] is None
    assert found["peak_bytes"] == pytest.approx(predicted, rel=0.1)
    assert found["peak_bytes"] <= memory * 1.1
