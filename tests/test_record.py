"""Records of rounds: there and back through JSON, with the keys that readers of lines find."""

import json
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_records import client_record, round_record

from leff.files import finite
from leff.record import ClientRecord, RoundRecord, SimulatedSeconds

ALWAYS = {
    "client",
    "capacity",
    "memory_bytes",
    "step_flops",
    "layers",
    "examples",
    "steps",
    "losses",
    "download_bytes",
    "upload_bytes",
    "train_seconds",
    "state_bytes",
    "predicted_bytes",
    "accumulation",
    "checkpointing",
    "layer_scores",
    "failure",
}
"""Keys of a client's part, whatever was measured."""

counts = st.integers(0, 2**53)
numbers = st.floats(allow_nan=False, allow_infinity=False)
words = st.text(max_size=12)
some = st.none
keys = words.filter(lambda name: name not in {each.name for each in fields(RoundRecord)})
values = st.recursive(
    st.none() | st.booleans() | counts | numbers | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)

clients = st.builds(
    ClientRecord,
    client=counts,
    capacity=counts,
    memory_bytes=some() | counts,
    step_flops=some() | counts,
    layers=st.lists(counts, max_size=4).map(tuple),
    examples=counts,
    steps=counts,
    losses=some() | st.tuples(numbers, numbers),
    download_bytes=counts,
    upload_bytes=counts,
    train_seconds=numbers,
    state_bytes=counts,
    predicted_bytes=some() | counts,
    accumulation=counts,
    checkpointing=st.booleans(),
    layer_scores=st.lists(numbers, max_size=4).map(tuple),
    failure=some() | words,
    out_of_memory_bytes=some() | counts,
    device=some() | words,
    seconds_simulated=some()
    | st.builds(SimulatedSeconds, numbers, numbers, numbers, numbers, numbers),
)
rounds = st.builds(
    RoundRecord,
    round=st.integers(1, 10**6),
    train_loss=some() | numbers,
    learning_rate=some() | numbers,
    failures=some() | counts,
    download_bytes=some() | counts,
    upload_bytes=some() | counts,
    sat_out=some() | st.dictionaries(words, words, max_size=3),
    round_seconds_simulated=some() | numbers,
    setup_seconds_simulated=some() | numbers,
    idle_share=some() | numbers,
    clients=st.lists(clients, max_size=3).map(tuple),
    plug_in=some() | st.lists(st.dictionaries(words, values, max_size=3), max_size=2),
    plug_in_gap=some() | numbers,
    plan_seconds=some() | numbers,
    train_seconds=some() | numbers,
    observe_seconds=some() | numbers,
    merge_seconds=some() | numbers,
    loss=some() | numbers,
    metric=some() | numbers,
    evaluation_seconds=some() | numbers,
    seconds=some() | numbers,
    facts=st.dictionaries(keys, values, max_size=3),
)
zeros = st.builds(
    RoundRecord,
    round=st.just(0),
    loss=some() | numbers,
    metric=some() | numbers,
    evaluation_seconds=some() | numbers,
    before=some() | st.dictionaries(words, values, max_size=3),
)


def through_json(record):
    return RoundRecord.from_dict(json.loads(json.dumps(record.to_dict(), allow_nan=False)))


@given(rounds | zeros)
def test_there_and_back_is_the_same(record):
    assert through_json(record) == record
    assert json.loads(json.dumps(record.to_dict())) == record.to_dict()


@given(rounds)
def test_what_was_not_measured_has_no_key(record):
    found = record.to_dict()
    own = {each.name for each in fields(RoundRecord)} - {"facts"}
    there = {name for name in own if getattr(record, name) is not None}
    assert found.keys() == there | {"round", "train_loss", "clients"} | record.facts.keys()
    assert {name: found[name] for name in record.facts} == record.facts
    for client, values in zip(record.clients, found["clients"], strict=True):
        rest = ("out_of_memory_bytes", "device", "seconds_simulated")
        assert values.keys() == ALWAYS | {n for n in rest if getattr(client, n) is not None}


def test_round_0_has_nobody_that_trained():
    zero = RoundRecord(0, loss=3.5, before={"loss": 3.5})
    assert zero.to_dict() == {"round": 0, "loss": 3.5, "before": {"loss": 3.5}}
    assert through_json(zero) == zero and zero.clients == ()


def test_tuples_become_lists_and_come_back():
    spent = SimulatedSeconds(1.0, 2.0, 0.5, 3.5, 0.25)
    client = client_record(0, [3, 4], layer_scores=(0.5, 0.25), seconds_simulated=spent)
    record = round_record(2, clients=(client,))
    (found,) = record.to_dict()["clients"]
    assert (found["layers"], found["losses"]) == ([3, 4], [2.5, 2.25])
    assert found["layer_scores"] == [0.5, 0.25]
    names = ("download", "compute", "upload", "round", "setup")
    assert found["seconds_simulated"] == dict(zip(names, (1.0, 2.0, 0.5, 3.5, 0.25), strict=True))
    (again,) = through_json(record).clients
    assert again == client and isinstance(again.layers, tuple) and again.seconds_simulated == spent


def test_facts_stand_beside_the_other_keys():
    record = round_record(1, layer_scores=[1.0, None], entropy=0.5, context_error={"0": 0.25})
    found = record.to_dict()
    assert "facts" not in found and found["entropy"] == 0.5
    assert through_json(record).facts == record.facts
    assert record.layer_scores == [1.0, None] and RoundRecord(1).layer_scores is None


def test_facts_that_are_none_are_kept():
    record = round_record(1, entropy=None)
    assert record.to_dict()["entropy"] is None and through_json(record) == record


@pytest.mark.parametrize("changes", [{"layrs": [1]}, {"facts": {}}])
def test_a_client_with_a_key_that_is_not_its_own_is_refused(changes):
    (values,) = round_record(1, clients=(client_record(0, [1]),)).to_dict()["clients"]
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{next(iter(changes))}'"):
        ClientRecord.from_dict(values | changes)
    with pytest.raises(TypeError):
        RoundRecord.from_dict({"round": 1, "clients": [values | changes]})


@pytest.mark.parametrize("missing", sorted(ALWAYS))
def test_a_client_without_one_of_its_keys_is_refused(missing):
    (values,) = round_record(1, clients=(client_record(0, [1]),)).to_dict()["clients"]
    del values[missing]
    with pytest.raises((TypeError, LookupError)):
        ClientRecord.from_dict(values)


def test_a_refused_client_has_neither_losses_nor_a_device():
    (found,) = round_record(1, clients=(client_record(3, [1], "NaN"),)).to_dict()["clients"]
    assert found["failure"] == "NaN" and found["losses"] is None
    assert "device" not in found and "out_of_memory_bytes" not in found


def test_what_was_not_finite_reads_as_not_measured():
    record = replace(round_record(1, clients=(client_record(0, [1]),)), loss=float("nan"))
    values = json.loads(json.dumps(finite(record.to_dict()), allow_nan=False))
    assert values["loss"] is None and RoundRecord.from_dict(values) == replace(record, loss=None)
