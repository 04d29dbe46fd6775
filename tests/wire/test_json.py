"""Messages as JSON: the same message comes back, and any other text is refused in a line."""

import json
import random
import struct
import tracemalloc
from dataclasses import dataclass, fields, replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leff.errors import LeffError, RunError
from leff.privacy.secure_messages import Boxes, Keys
from leff.wire import messages as types
from leff.wire.json import MOST_BYTES, from_json, job_digest, to_json
from leff.wire.messages import (
    Capacity,
    Device,
    Job,
    LocalTraining,
    Measure,
    Part,
    Segment,
    Step,
    Tuned,
    Update,
)

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
WHOLES = st.integers(-(2**70), 2**70)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PARTS = st.builds(Part, TEXTS, WHOLES)
SEGMENTS = st.builds(
    Segment, st.tuples(WHOLES, WHOLES), st.tuples(PARTS, PARTS), st.booleans(), WHOLES
)
STEPS = st.builds(
    Step,
    WHOLES,
    WHOLES,
    st.booleans(),
    st.sampled_from(get_args(types.Precision)),
    st.sampled_from(get_args(types.Optimizer)),
    NUMBERS,
)
TUNED = st.builds(
    Tuned,
    st.dictionaries(TEXTS, st.tuples(WHOLES, WHOLES), max_size=3),
    st.none() | PARTS,
    NUMBERS,
    WHOLES,
    st.lists(PARTS, max_size=2).map(tuple),
)
JOBS = st.builds(
    Job,
    WHOLES,
    WHOLES,
    WHOLES,
    TEXTS,
    TEXTS,
    WHOLES,
    PARTS,
    PARTS,
    st.lists(SEGMENTS, max_size=3).map(tuple),
    st.builds(
        LocalTraining,
        *(NUMBERS, NUMBERS, NUMBERS, NUMBERS),
        *(st.booleans(), WHOLES, STEPS),
    ),
    st.none() | TUNED,
    WHOLES,
    st.sampled_from(get_args(types.Upload)),
)
UPDATES = st.builds(
    Update,
    WHOLES,
    WHOLES,
    st.lists(WHOLES, max_size=3).map(tuple),
    WHOLES,
    losses=st.none() | st.tuples(NUMBERS, NUMBERS),
    layer_scores=st.lists(NUMBERS, max_size=3).map(tuple),
    failure=st.none() | TEXTS,
)
MEASURES = st.builds(
    Measure,
    WHOLES,
    WHOLES,
    WHOLES,
    confusion=st.lists(st.tuples(WHOLES, WHOLES), max_size=2).map(tuple),
    answers=st.lists(st.tuples(NUMBERS, NUMBERS), max_size=2).map(tuple),
    failure=st.none() | TEXTS,
)
CAPACITIES = st.builds(
    Capacity,
    WHOLES,
    WHOLES,
    WHOLES,
    device=st.none() | st.builds(Device, TEXTS, WHOLES, NUMBERS, NUMBERS, NUMBERS),
)
P = Part("a" * 64, 30)
JOB = Job(
    round=3,
    client=1,
    seed=2**62,
    kind="generation",
    config='{"model_type": "gpt2"}',
    pad_id=0,
    shell=P,
    tail=P,
    segments=(Segment((0, 1), (P, P), True), Segment((2,), (P,), bits=8)),
    training=LocalTraining(1, 1e-3, 0.1, 1.0),
    tuned=Tuned({"a.lora_A": (3, 4), "b": (2,)}, P, 2.0, 7, (P,)),
)
TEXT = to_json(JOB)


@settings(max_examples=60)
@given(JOBS | UPDATES | MEASURES | CAPACITIES)
def test_the_same_message_comes_back(message):
    back = from_json(type(message), to_json(message))
    assert back == message and to_json(back) == to_json(message)
    assert "\n" not in to_json(message)


@given(NUMBERS)
def test_floats_come_back_to_the_bit(number):
    back = from_json(Update, to_json(Update(0, 0, (), 1, losses=(number, -number)))).losses
    assert struct.pack("<2d", *back) == struct.pack("<2d", number, -number)


def test_kinds_come_back():
    back = from_json(Job, TEXT.encode())
    assert type(back.segments) is tuple and type(back.tuned.shapes["b"]) is tuple
    assert type(back.training.step) is Step and back == JOB and back.block == JOB.block


def test_any_frozen_dataclass_is_a_message():
    @dataclass(frozen=True)
    class Card:
        names: tuple[str, ...]
        share: float
        inner: tuple[Part, ...] = ()

    card = Card(("a", "b"), 0.1, (P,))
    assert from_json(Card, to_json(card)) == card
    with pytest.raises(LeffError, match=r"\(Card\) cannot be read: inner is missing"):
        from_json(Card, '{"names": [], "share": 1.0}')


@given(st.binary(max_size=40), st.dictionaries(st.integers(0, 9), st.binary(max_size=9)))
def test_bytes_come_back(sealing, boxes):
    for message in (Keys(3, sealing, b""), Boxes(boxes)):
        assert from_json(type(message), to_json(message)) == message


@pytest.mark.parametrize("text", ["A", "AB", "AA==\n", "AB==", "A+/=", "é", "AAA"])
def test_bytes_have_one_form(text):
    """It is base64 with the alphabet for addresses; a text with unused bits set is no other one."""
    with pytest.raises(RunError, match="cannot be read"):
        from_json(Keys, json.dumps({"client": 0, "sealing": text, "masking": ""}))


def test_a_payload_does_not_go_into_json(tmp_path):
    for payload in (b"\xff\x00", tmp_path / "a"):
        assert "payload" not in to_json(Update(0, 1, (), 2, payload))
    with pytest.raises(LeffError, match="payload is unknown"):
        from_json(Update, to_json(Update(0, 1, (), 2))[:-1] + ',"payload":""}')


def test_a_digest_is_of_everything_that_a_job_says():
    same = from_json(Job, TEXT)
    assert job_digest(JOB) == job_digest(same) and len(job_digest(JOB)) == 64
    other = {
        job_digest(replace(JOB, **{name: value}))
        for name, value in {
            "round": 4,
            "seed": 1,
            "segments": JOB.segments[:1],
            "tuned": None,
            "upload": "int8",
            "training": replace(JOB.training, learning_rate=1.0000000000000002e-3),
        }.items()
    }
    assert len(other) == 6 and job_digest(JOB) not in other


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (Update(0, 1, (), 2, losses=(float("nan"), 1.0)), "cannot be sent"),
        (Update("0", 1, (), 2), "cannot be sent"),
        (Update(0, 1, (object(),), 2), "cannot be sent"),
    ],
    ids=["a NaN", "text for a number", "an object"],
)
def test_what_json_has_not_is_not_sent(message, words):
    with pytest.raises(LeffError, match=words):
        to_json(message)


def changed(old, new):
    assert old in TEXT
    return TEXT.replace(old, new, 1)


REFUSED = {
    "nothing": ("", "Expecting value"),
    "cut": (TEXT[:-1], "Expecting"),
    "more": (TEXT + "{}", "Extra data"),
    "a list": ("[]", "should be an object, got []"),
    "null": ("null", "should be an object"),
    "an unknown key": (changed('"round"', '"extra":1,"round"'), "extra: Unexpected"),
    "an unknown key inside": (changed('"bits"', '"extra":1,"bits"'), "segments.0.extra"),
    "a missing key": (changed('"round":3,', ""), "round"),
    "a missing key with a default": (changed('"calibrated":false,', ""), "calibrated is missing"),
    "a missing key inside": (changed(',"bits":32', ""), "segments.0.bits is missing"),
    "a key twice": (changed('"round":3', '"round":3,"round":3'), "a key comes twice"),
    "a key twice inside": (changed('"bits":32', '"bits":32,"bits":32'), "comes twice"),
    "true for 1": (changed('"client":1', '"client":true'), "client: Input should be a valid int"),
    "a text for 3": (changed('"round":3', '"round":"3"'), "round: Input should be a valid int"),
    "a float for 3": (changed('"round":3', '"round":3.0'), "round"),
    "null for 3": (changed('"round":3', '"round":null'), "round"),
    "1 for false": (changed("false", "1"), "trains: Input should be a valid bool"),
    "NaN": (changed("0.001", "NaN"), "NaN is no JSON"),
    "Infinity": (changed("0.001", "-Infinity"), "Infinity is no JSON"),
    "an infinity by size": (changed("0.001", "1e999"), "not JSON compliant"),
    "a number that no float is": (changed("0.001", "100000000000000001"), "which is read as"),
    "an unknown choice": (changed('"full"', '"half"'), "upload: Input should be 'full'"),
    "a number of 5000 digits": (changed('"round":3', '"round":' + "9" * 5000), "digits"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "deep objects": ('{"a":' * 100_000, "nested too deeply"),
    "long": (" " * MOST_BYTES + TEXT, "more than 1,048,576 bytes"),
    "no UTF-8": (b"\xff\xfe" + TEXT.encode("utf-16-le"), "utf-8"),
    "half a character": (changed('"generation"', '"\\ud800"'), "Invalid JSON"),
    "an empty pair": (changed('"sources":[0,1]', '"sources":[0,[]]'), "segments.0.sources.1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_anything_else_is_refused_in_one_line(name):
    text, words = REFUSED[name]
    with pytest.raises(LeffError) as error:
        from_json(Job, text)
    message = str(error.value)
    assert words in message and message.startswith("a message (Job) cannot be read: ")
    assert message.isprintable() and len(message) < 500


def test_a_smaller_bound_holds_for_bytes():
    assert from_json(Job, TEXT, len(TEXT)) == JOB
    with pytest.raises(LeffError, match="more than"):
        from_json(Job, TEXT, len(TEXT) - 1)
    with pytest.raises(LeffError, match="more than"):
        from_json(Job, "é" * 60, 100)


def test_nothing_is_made_by_a_texts_word():
    texts = [text for text, _ in REFUSED.values()]
    texts += ['{"round":' + "[" * 500_000, '"' + "x" * 10**6 + '"', "[0," * 10_000]
    for text in texts[:3]:  # what is made once
        with pytest.raises(LeffError):
            from_json(Job, text)
    tracemalloc.start()
    try:
        for text in texts:
            with pytest.raises(LeffError):
                from_json(Job, text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * MOST_BYTES


WORDS = (
    *("null", "true", "0", "-1", "1.5", "1e999", "NaN", '"x"', "[]", "{}", "[[]]", "9" * 30),
    *('"\\u0000"', '"\\ud800"', '{"a":1,"a":2}', "[" * 2000, "1e-400", "-0", "00"),
)


def mutated(rng, text):
    """Bytes changed, cut or put in; or one value or key of the JSON replaced."""
    if rng.random() < 0.5:
        data = bytearray(text.encode())
        for _ in range(rng.choice((1, 1, 3))):
            place, how = rng.randrange(len(data)), rng.randrange(3)
            if how == 0:
                data[place] = rng.randrange(256)
            elif how == 1:
                del data[place : place + rng.choice((1, 1, 30))]
            else:
                data[place:place] = rng.choice(WORDS).encode()
        return bytes(data)
    values = json.loads(text)
    at = values
    while True:
        keys = list(at) if isinstance(at, dict) else range(len(at))
        if not keys:
            break
        key = rng.choice(keys)
        if isinstance(at[key], dict | list) and rng.random() < 0.7:
            at = at[key]
            continue
        if rng.random() < 0.2:
            del at[key]
        else:
            at[key] = "@"
        break
    return json.dumps(values).replace('"@"', rng.choice(WORDS), 1)


@pytest.mark.soak(400, 20_000)
def test_a_damaged_message_is_refused_or_says_what_it_says(count):
    rng, outcomes = random.Random(5), {"refused": 0, "taken": 0}
    update = Update(0, 3, (1,), 5, losses=(2.0, 1.0), layer_scores=(0.1,))
    report = Capacity(3, 1, 5, device=Device("phone", 10, 1.0, 2.0, 3.0))
    for _ in range(count):
        message = rng.choice((JOB, update, report))
        text = mutated(rng, to_json(message))
        try:
            read = from_json(type(message), text)
        except LeffError as error:
            outcomes["refused"] += 1
            assert str(error).isprintable() and len(str(error)) <= 2000
            continue
        outcomes["taken"] += 1
        assert json.loads(to_json(read)) == json.loads(text)
        assert {f.name for f in fields(read)} == {f.name for f in fields(message)}
    assert all(outcomes.values()), outcomes
