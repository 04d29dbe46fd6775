"""Thousands of damaged updates: each is refused, dropped, or as good as one that was asked for.

They come as bytes and as files, and in every form of upload.
"""

import json
import math
import random
from dataclasses import fields, replace

import pytest
import torch
from small_rounds import whole
from tiny_models import tiny

from leff.capacity.setbacks import Setbacks
from leff.methods.checks import expected_shapes
from leff.server import Server
from leff.wire.codec import encoded
from leff.wire.json import from_json, job_digest, to_json
from leff.wire.messages import Capacity, Update
from leff.wire.spool import Spool
from leff.wire.tensors import pack, unpack

KIND = "generation"
VALUES = (
    *(None, True, 0, 1, -1, 2, 5, 2**31, 2**63, 10**400, 0.0, 1.5, -0.5, 1e300, math.nan, math.inf),
    *("", "5", "x" * 10_000, "\x1b[2J", "\ud800", "../../x", b"", b"\x80\x04.", [], [1, 2], {}),
    *((), (1, 2), (1.0, 2.0), (math.nan, 1.0), ("a", "b"), (1, 2, 3), ((1,), (2,)), object()),
)
WORDS = (
    *("F64", "F32", "BF16", "I8", "F8_E4M3", "C64", "F4", None, [], {}, 1, -1, 0, 2**64, 10**30),
    *([0, 4], [4, 0], [1], [2.0], ["1"], [32], [96, 32], [10**12, 10**12], math.inf, "\ud800"),
)


UPLOADS = ("full", "bf16", "int8")


@pytest.fixture(scope="module", params=UPLOADS)
def case(request, tmp_path_factory):
    from leff.wire.parts import PartStore

    folder = tmp_path_factory.mktemp("fuzz")
    store, model = PartStore(folder / "parts"), tiny("gpt2", KIND)
    job = replace(whole(model, KIND, store, range(1, 2)), upload=request.param)
    server = Server(store, Spool(folder / "updates"))
    server.open(model, [job], [Capacity(3, 1, 5)])
    tensors = {name: torch.randn(shape) for name, shape in expected_shapes(model, job).items()}
    sent = tensors if request.param == "full" else encoded(tensors, request.param)[0]
    update = Update(0, 3, (1,), 5, pack(sent), (2.0, 1.0), 2, 0.1, 0, 0, (0.1,), state_bytes=100)
    return server, update, job, tensors


def split(payload):
    length = int.from_bytes(payload[:8], "little")
    return json.loads(payload[8 : 8 + length]), payload[8 + length :]


def with_bytes(rng, payload):
    """Some bytes changed, cut out, put in or put at the end."""
    data = bytearray(payload)
    for _ in range(rng.choice((1, 1, 2, 20))):
        near = min(len(data), rng.choice((9, 200, 2000, 10**6)))  # mostly in the header
        place = rng.randrange(near) if near else 0
        how = rng.randrange(6)
        if how <= 1 and data:
            data[place] = rng.randrange(256)
        elif how == 2:
            del data[place : place + rng.choice((1, 4, 1000))]
        elif how == 3:
            data[place:place] = rng.randbytes(rng.choice((1, 4, 1000)))
        elif how == 4:
            data = data[:place] if rng.random() < 0.3 else data + rng.randbytes(rng.choice((1, 8)))
        else:
            data = bytearray(rng.randbytes(rng.randrange(3000))) if rng.random() < 0.1 else data
    return bytes(data)


def with_header(rng, payload):
    """A header that says something else, sometimes with another length."""
    header, values = split(payload)
    name = rng.choice(list(header))
    how = rng.randrange(6)
    if how == 0:
        header[rng.choice(("more", "__metadata__", "", name + "x"))] = rng.choice(
            (header[name], {}, {"format": "pt"}, rng.choice(WORDS))
        )
    elif how == 1:
        del header[name]
    elif how == 2:
        header[name][rng.choice(("dtype", "shape", "data_offsets", "more"))] = rng.choice(WORDS)
    elif how == 3:
        header[name] = rng.choice(WORDS)
    elif how == 4:
        other = rng.choice(list(header))
        header[name], header[other] = header[other], header[name]
    else:
        start, end = header[name]["data_offsets"]
        header[name]["data_offsets"] = [start + rng.choice((0, 4, -4)), end + rng.choice((0, 4))]
    text = json.dumps(header, indent=rng.choice((None, None, 1))).encode()
    if rng.random() < 0.1:
        text = text[:-1] + b"," + text[1:]  # every name twice
    length = len(text) + rng.choice((0, 0, 0, 0, 1, -1, 2**40, 2**63))
    return (length % 2**64).to_bytes(8, "little") + text + values


def with_fields(rng, update):
    names = rng.sample([field.name for field in fields(Update)], rng.choice((1, 1, 2, 5)))
    return replace(update, **{name: rng.choice(VALUES) for name in names})


def mutated(rng, update):
    how = rng.randrange(3)
    if how == 0:
        return replace(update, payload=with_bytes(rng, update.payload))
    if how == 1:
        return replace(update, payload=with_header(rng, update.payload))
    return with_fields(rng, update)


@pytest.mark.parametrize("form", ["bytes", "file"])
@pytest.mark.soak(30, 10_000)
def test_no_update_ends_a_run_or_gets_through_damaged(case, count, form, tmp_path):
    server, update, job, good = case
    rng, file = random.Random(11), tmp_path / "arrived"
    outcomes = {"dropped": 0, "refused": 0, "taken": 0}
    for _ in range(count):
        server.spool.open({})  # forgets
        server.spool.open({3: job_digest(job)})
        changed = mutated(rng, update)
        if form == "file" and type(changed.payload) is bytes:
            file.write_bytes(changed.payload)
            changed = replace(changed, payload=file)
        received = server.receive(changed)
        assert not file.exists()
        if received is None:
            assert not server.spool.updates
            outcomes["dropped"] += 1
            continue
        assert (received.client, received.round) == (3, 0)
        assert (received.layers, received.examples) == ((1,), 5)
        taken = list(server.spool.accepted())
        outcomes["taken" if taken else "refused"] += 1
        assert received.payload == b""
        if received.failure is not None:
            assert received.losses is None and not taken
            assert received.failure.isprintable() and 0 < len(received.failure) < 250
        for own in taken:
            tensors = unpack(own.payload)
            assert {n: t.shape for n, t in tensors.items()} == {n: t.shape for n, t in good.items()}
            assert all(t.dtype == torch.float32 and t.isfinite().all() for t in tensors.values())
        assert from_json(Update, to_json(received)) == received
        assert len(to_json(received)) < 2000
    assert all(outcomes.values()), outcomes
    server.close()
    report = Capacity(3, 4, 5)
    assert server.believed([3], [report], 4)[0][0].layers in (1, 4)
    server.open(server._model, [job], [Capacity(3, 1, 5)])


@pytest.mark.soak(300, 20_000)
def test_no_report_ends_a_run(tmp_path, count):
    server = Server(None, Spool(tmp_path))
    rng, usable = random.Random(12), 0
    setbacks = Setbacks()
    for _ in range(count):
        names = rng.sample([f.name for f in fields(Capacity)], rng.choice((1, 1, 2)))
        report = replace(Capacity(3, 1, 5), **{name: rng.choice(VALUES) for name in names})
        kept, unfit = server.believed([3], [report], 4)
        assert len(kept) + len(unfit) <= 1
        for own in kept:
            usable += 1
            assert 1 <= own.layers <= 4 and own.examples >= 1 and own.failed_bytes is None
            setbacks.applied(own)
        assert all(reason.isprintable() and len(reason) < 250 for reason in unfit.values())
    assert usable
