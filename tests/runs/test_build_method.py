"""What clients can afford: ranks as given or by memory, and what cannot be done."""

from dataclasses import replace

import pytest
from small_rounds import recipe
from tiny_models import tiny

from leff.capacity.peak import predict
from leff.errors import ConfigError
from leff.methods.registry import spec_of
from leff.methods.setup import ClientSetup
from leff.methods.stand_ins import make_context
from leff.runs.build_method import client_ranks
from leff.runs.config import load_config
from leff.wire.messages import Step

SMALL = {"training.batch_size": 4, "data.max_length": 12}
SMALLEST = Step(batch_size=4, accumulation=4, checkpointing=True)


def small():
    """Two layers, since a rehearsal takes longer with each."""
    return tiny("gpt2", "generation", layers=2)


def ranks(name="flora", count=5, **given):
    values = {"method.name": name, "clients.count": count, **SMALL}
    values |= {key.replace("__", "."): value for key, value in given.items()}
    return client_ranks(load_config(None, values), spec_of(name), small(), "generation")


def needed(rank, name="flora", **given):
    """The peak of a step done the smallest way, of a run's own size."""
    asked = ClientSetup(rank=rank, step=SMALLEST, length=12, **given)
    return predict(small().config, "generation", spec_of(name), asked).peak


def refused(name, store, **given):
    with pytest.raises(ConfigError) as caught:
        recipe(name, small(), "generation", store, **SMALL, **given)
    return str(caught.value)


def test_ranks_are_those_given_in_turn_or_the_methods():
    assert ranks(clients__ranks=[1, 4]) == (1, 4, 1, 4, 1)
    assert ranks(clients__ranks=[1, 4], count=1) == (1,)
    assert ranks(method__rank=7) == (7,) * 5


@pytest.mark.parametrize(("name", "bits"), [("flora", 32), ("flexlora", 32), ("flexlora", 8)])
def test_the_largest_rank_that_memory_has_room_for(name, bits):
    def room(rank, less=0):
        return f"{needed(rank, name, base_bits=bits) - less}B"

    memory = [room(3), room(3, less=1), room(8), "1GB", room(1)]
    given = {"clients__memory": memory, "method__rank": 8, "method__base_bits": bits}
    assert ranks(name, **given) == (3, 2, 8, 8, 1)


def test_ranks_that_are_given_hold_whatever_more_the_memory_has_room_for():
    assert ranks(clients__ranks=[2], clients__memory=["1GB"]) == (2,) * 5


def test_memory_that_has_no_room_for_a_clients_layers(store):
    """Of clients that train one layer and two, the second's is too little, by a byte."""
    given = {"clients__layers": [1, 2], "clients__count": 2, "context__embedding_bits": 32}
    asked = ClientSetup(step=SMALLEST, length=12, context=make_context("quantise", bits=8))
    one, two = (
        predict(small().config, "generation", spec_of("leff"), replace(asked, layers=n)).peak
        for n in (1, 2)
    )
    said = refused("leff", store, clients__memory=[f"{one}B", f"{two - 1}B"], **given)
    assert f"too little for leff, a step of which takes {two / 1e6:.1f} MB at least" in said
    fit = {"clients__memory": [f"{one}B", f"{two}B"], **given}
    recipe("leff", small(), "generation", store, **SMALL, **fit)


def test_fewer_bits_need_less_only_where_they_are_used():
    assert needed(2, "flexlora", base_bits=4) < needed(2, "flexlora", base_bits=8)
    assert needed(2, "flexlora", base_bits=8) < needed(2, "flexlora")
    for name in ("flora", "slora"):
        assert needed(2, name, base_bits=4) == needed(2, name)


@pytest.mark.parametrize("name", ["fedlora", "slora", "flora", "flexlora"])
def test_a_rank_without_room_in_the_model(name, store):
    if name in ("flora", "flexlora"):
        said = refused(name, store, clients__ranks=[2, 33])
        assert "clients.ranks must be 1 to 32" in said and "got 33" in said
    said = refused(name, store, method__rank=33)
    assert "method.rank must be 1 to 32" in said and "got 33" in said


@pytest.mark.parametrize("name", ["fedavg", "fedbitfit", "fedlora", "slora", "flora", "flexlora"])
def test_memory_that_has_no_room(name, store):
    given = {"method__rank": 1, "clients__memory": ["1GB", "50kB"]}
    said = refused(name, store, **given)
    assert f"clients.memory: 0.1 MB is too little for {name}" in said
    assert "context.name = 'auto'" in said
    assert f"{needed(1, name) / 1e6:.1f} MB at least" in said
    roomy = {**given, "clients__memory": ["1GB", f"{needed(1, name)}B"]}
    recipe(name, small(), "generation", store, **SMALL, **roomy)


@pytest.mark.parametrize("name", ["fedavg", "fedbitfit", "fedlora", "slora"])
def test_ranks_where_all_clients_train_the_same(name, store):
    said = refused(name, store, clients__ranks=[1, 2])
    assert f"clients.ranks cannot be used by {name}" in said and "flora or flexlora" in said


@pytest.mark.parametrize("name", ["leff", "fedavg", "fedbitfit", "slora", "flora"])
def test_a_base_in_few_bits_where_there_is_none(name, store):
    said = refused(name, store, method__base_bits=4)
    assert f"method.base_bits cannot be used by {name}; use fedlora or flexlora" in said


@pytest.mark.parametrize("name", ["flora", "flexlora"])
def test_ranks_that_the_memory_has_no_room_for(name, store):
    given = {"clients__ranks": [2, 8], "clients__memory": ["1GB", f"{needed(8, name) - 1}B"]}
    said = refused(name, store, **given)
    assert "clients.ranks gives a client with" in said and "rank 8" in said
    assert f"{needed(8, name) / 1e6:.1f} MB at least" in said
    given["clients__memory"][1] = f"{needed(8, name)}B"
    recipe(name, small(), "generation", store, **SMALL, **given)


def test_ranks_with_leff(store):
    assert "clients.ranks cannot be used by leff" in refused("leff", store, clients__ranks=[1, 2])
