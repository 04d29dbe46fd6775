"""The server's door: whose a message is, which counts, and what is dropped."""

from dataclasses import replace

import pytest
import torch
from small_rounds import (
    clients_of,
    fleet_of,
    make_method,
    recipe,
    run_rounds,
    same,
    state_of,
    whole,
)
from tiny_models import LAYERS, tiny

from leff.engines.local import LocalFleet
from leff.methods.guard import STEP_SCALE, Guard, weighed
from leff.server import Server
from leff.wire.codec import encoded
from leff.wire.messages import Capacity, Update
from leff.wire.parts import PartStore
from leff.wire.spool import Spool
from leff.wire.tensors import pack, unpack

KIND = "generation"


@pytest.fixture
def server(store, tmp_path):
    return Server(store, Spool(tmp_path / "updates"))


@pytest.fixture
def update(server, store):
    """An update of client 3 that can be merged; the server waits for those of 3 and 4."""
    model = tiny("gpt2", KIND)
    jobs = [replace(whole(model, KIND, store, range(1, 3)), client=client) for client in (3, 4)]
    server.open(model, jobs, [Capacity(client, 2, 5) for client in (3, 4)])
    tensors = {n: p for n, p in model.named_parameters() if ".h.1." in n or ".h.2." in n}
    tensors |= {n: p for n, p in model.named_parameters() if "ln_f" in n}
    return Update(0, 3, (1, 2), 5, pack(tensors), (2.0, 1.0), 2, layer_scores=(0.1, 0.2))


@pytest.mark.parametrize(
    "strange",
    [
        {"client": 9},
        {"client": -3},
        {"client": "3"},
        {"client": 3.0},
        {"client": [3]},
        {"client": None},
        {"client": "../../etc/passwd"},
        {"round": 1},
        {"round": -1},
        {"round": "0"},
        {"round": None},
        {"round": False},
    ],
    ids=str,
)
def test_what_belongs_to_nobody_is_dropped_counted_and_logged(server, update, strange, caplog):
    assert server.receive(replace(update, **strange)) is None
    assert server.receive(update).failure is None
    assert server.receive(replace(update, **strange)) is None
    _, (kept,), dropped = server.close()
    assert kept.client == 3 and kept.failure is None and dropped == 2
    assert "dropped 2 messages" in caplog.text
    names = sorted(path.name for path in server.spool.folder.iterdir())
    assert names == ["client-3.json", "client-3.safetensors"]


def test_the_first_good_update_of_a_client_counts(server, update):
    other = replace(update, payload=pack({n: t + 1 for n, t in unpack(update.payload).items()}))
    bad = replace(update, payload=b"")
    failed = replace(update, failure="gone", out_of_memory_bytes=7)
    for each in (bad, failed, bad):
        server.receive(each)
    assert "no safetensors" in server.spool.updates[3].failure
    assert server.receive(update).failure is None
    for each in (bad, failed, other):
        assert server.receive(each) is None
    (accepted,) = server.spool.accepted()
    assert accepted.payload.read_bytes() == update.payload
    _, (kept,), dropped = server.close()
    assert kept.failure is None and dropped == 5


def test_a_file_is_taken_like_bytes_and_is_the_servers_then(server, update, tmp_path):
    path = tmp_path / "arrived"
    path.write_bytes(update.payload[:-1])
    assert "bytes of values" in server.receive(replace(update, payload=path)).failure
    assert not path.exists()
    path.write_bytes(update.payload)
    received = server.receive(replace(update, payload=path))
    assert received.failure is None and received.upload_bytes == len(update.payload)
    assert received.payload == b"" and not path.exists()
    (accepted,) = server.spool.accepted()
    assert accepted.payload.read_bytes() == update.payload
    path.write_bytes(update.payload)
    assert server.receive(replace(update, payload=path)) is None and not path.exists()


@pytest.mark.parametrize("name", ["missing", "folder", "nul\0"])
def test_a_file_that_is_none_is_a_refusal(server, update, tmp_path, name):
    (tmp_path / "folder").mkdir()
    received = server.receive(replace(update, payload=tmp_path / name))
    assert "cannot be read" in received.failure or "no safetensors" in received.failure
    assert received.upload_bytes in (0, (tmp_path / "folder").stat().st_size)
    assert (tmp_path / "folder").exists()


@pytest.mark.parametrize("upload", ["bf16", "int8"])
@pytest.mark.parametrize("form", ["bytes", "file"])
def test_a_difference_is_added_to_the_servers_own_tensors(
    upload, form, server, update, store, tmp_path
):
    model = tiny("gpt2", KIND)
    job = replace(whole(model, KIND, store, range(1, 3)), client=3, upload=upload)
    server.open(model, [job], [Capacity(3, 2, 5)])
    start = {n: p.detach() for n, p in model.named_parameters() if n in unpack(update.payload)}
    tensors, lost = encoded({n: torch.full_like(t, 0.01) for n, t in start.items()}, upload)
    payload = pack(tensors)
    if form == "file":
        (tmp_path / "arrived").write_bytes(payload)
    sent = tmp_path / "arrived" if form == "file" else payload
    received = server.receive(replace(update, payload=sent))
    assert received.failure is None and received.upload_bytes == len(payload)
    (accepted,) = server.spool.accepted()
    for name, tensor in unpack(accepted.payload).items():
        assert torch.equal(tensor, start[name] + (0.01 - lost[name]))
    names = sorted(path.name for path in server.spool.folder.iterdir())
    assert names == ["client-3.json", "client-3.safetensors"]
    assert not (tmp_path / "arrived").exists()


def test_a_difference_that_leads_out_of_the_numbers_is_refused(server, update, store):
    model = tiny("gpt2", KIND)
    job = replace(whole(model, KIND, store, range(1, 3)), client=3, upload="int8")
    server.open(model, [job], [Capacity(3, 2, 5)])
    changes = {n: torch.ones_like(t) for n, t in unpack(update.payload).items()}
    tensors = encoded(changes, "int8")[0]
    name = next(n for n in tensors if n.endswith(":scale"))
    tensors[name] = torch.full_like(tensors[name], 3e38)
    received = server.receive(replace(update, payload=pack(tensors)))
    assert received.failure == f"{name.removesuffix(':scale')} in the update is not finite"
    assert received.losses is None and list(server.spool.accepted()) == []
    assert [path.name for path in server.spool.folder.iterdir()] == ["client-3.json"]


def test_a_round_that_is_opened_again_asks_for_what_is_left(server, update, store, tmp_path):
    model, jobs = server._model, list(server._jobs.values())
    reports = [Capacity(client, 2, 5) for client in (3, 4)]
    server.receive(update)
    again = Server(store, Spool(tmp_path / "updates"))
    assert [job.client for job in again.open(model, jobs, reports)] == [4]
    assert again.spool.updates == server.spool.updates
    assert again.receive(update) is None  # it came twice
    assert [job.client for job in again.open(model, jobs[:1], reports)] == []
    other = [replace(job, seed=job.seed + 1) for job in jobs]
    assert [job.client for job in again.open(model, other, reports)] == [3, 4]


def test_memory_that_ran_out_before_a_kill_counts_after_it(server, update, store, tmp_path):
    jobs, reports = list(server._jobs.values()), [Capacity(client, 2, 5) for client in (3, 4)]
    server.receive(replace(update, payload=b"", failure="gone", out_of_memory_bytes=7))
    again = Server(store, Spool(tmp_path / "updates"))
    assert [job.client for job in again.open(server._model, jobs, reports)] == [4]
    for each in (server, again):
        each.close()
    setbacks = [each.state()["setbacks"] for each in (again, server, Server(store, again.spool))]
    assert setbacks[0] == setbacks[1] != setbacks[2]


def test_a_claim_to_have_no_memory_that_does_not_count_lowers_nobody(server, update):
    """Anybody may send it under another's id."""
    server.receive(replace(update, payload=b"", failure="gone", out_of_memory_bytes=7))
    server.receive(update)
    server.close()
    reports = [Capacity(3, 2, 5)]
    assert server.believed([3], reports, LAYERS) == (reports, {})


@pytest.mark.parametrize("claim", [-1, 2**70, "much", float("nan"), 1.5, True])
def test_an_absurd_claim_to_have_no_memory_lowers_nobody(server, update, claim):
    received = server.receive(replace(update, failure="gone", out_of_memory_bytes=claim))
    assert "out_of_memory_bytes" in received.failure and received.out_of_memory_bytes == 0
    server.close()
    assert server.believed([3], [Capacity(3, 2, 5)], LAYERS) == ([Capacity(3, 2, 5)], {})


def test_a_bad_report_is_a_reason_and_a_strange_one_is_dropped(server):
    good = Capacity(1, 2, 5)
    reports = [
        Capacity(2, 0, 5),
        Capacity(2, 2, 0),
        good,
        replace(good, examples=10**7),  # a second report
        Capacity(3, LAYERS + 1, 5),
        Capacity(3, 1, 5),
        Capacity(9, 1, 5),  # not asked
        Capacity("1", 1, 5),
        Capacity([1], 1, 5),
    ]
    usable, unfit = server.believed([1, 2, 3], reports, LAYERS)
    assert usable == [good, Capacity(3, 1, 5)]
    assert unfit == {2: f"it reports layers = 0, which must be a whole number from 1 to {LAYERS}"}
    server.open(tiny("gpt2", KIND), [], usable)
    assert server.close() == ({}, [], 4)
    assert server.close() == ({}, [], 0)


class Meddling(LocalFleet):
    """Client 0 sends what `meddle` makes of its update; client 1's report is what `claim` says."""

    meddle = staticmethod(lambda update: [update])
    claim = staticmethod(lambda report: report)

    def report(self, clients):
        reports = super().report(clients)
        return [self.claim(each) if each.client == 1 else each for each in reports]

    def train(self, jobs):
        for update in super().train(jobs):
            yield from self.meddle(update) if update.client == 0 else [update]


def meddled(folder, method="fedavg", claim=None, meddle=None, sizes=(5, 4, 6)):
    store, model = PartStore(folder / "parts"), tiny("gpt2", KIND)
    fleet = fleet_of(clients_of(KIND, sizes), (2,) * 3, store, kind=Meddling)
    fleet.claim, fleet.meddle = claim or fleet.claim, meddle or fleet.meddle
    if method in ("flora", "flexlora"):
        made = recipe(method, model, KIND, store)
    else:
        made = make_method(method, KIND, store)
    return model, run_rounds(model, made, fleet, folder, 2)


@pytest.mark.parametrize("method", ["fedavg", "leff", "flora", "flexlora"])
def test_no_client_decides_its_own_weight(method, tmp_path):
    """An update that says that it is of a billion examples is refused, and the round goes on."""

    def greedy(update):
        return [replace(update, examples=10**9)]

    def gone(update):
        return [replace(update, failure="gone", payload=b"")]

    bad, records = meddled(tmp_path / "bad", method, meddle=greedy)
    good, _ = meddled(tmp_path / "good", method, meddle=gone)
    assert same(state_of(bad), state_of(good))
    for record in records:
        first = record["clients"][0]
        assert "1000000000 examples, 5 were reported" in first["failure"]
        assert first["examples"] == 5 and record["failures"] == 1


def test_fewer_steps_than_were_asked_for_do_not_weigh_more(server, update):
    """A client that says one step would count as if its examples were all in it."""
    for steps in (2, 1, 0):
        kept = server.receive(replace(update, steps=steps, asked_steps=1))
        assert kept.asked_steps == 2 and kept.failure is None
        (weighted,) = weighed(server.spool, Guard(weights="steps"))
        assert weighted.examples == round(STEP_SCALE * 5 / 2)
        server.spool.updates.clear()


def test_others_ids_and_rounds_change_nothing(tmp_path):
    """Client 0 also sends its update as everybody else's, and for other rounds."""

    def everywhere(update):
        ids = [replace(update, client=client) for client in (7, -1)]
        return [update, *ids, replace(update, round=update.round + 1), update]

    bad, records = meddled(tmp_path / "bad", meddle=everywhere)
    good, clean = meddled(tmp_path / "good")
    assert same(state_of(bad), state_of(good))
    assert [record["dropped"] for record in records] == [4, 4]
    assert all("dropped" not in record for record in clean)


def test_an_update_that_comes_late_under_anothers_id_changes_nothing(tmp_path):
    store, model = PartStore(tmp_path / "a"), tiny("gpt2", KIND)

    class Late(LocalFleet):
        def train(self, jobs):
            updates = list(super().train(jobs))
            zeros = {n: torch.zeros_like(t) for n, t in unpack(updates[0].payload).items()}
            yield from updates
            yield replace(updates[1], payload=pack(zeros))

    fleet = fleet_of(clients_of(KIND, (5, 4, 6)), (2,) * 3, store, kind=Late)
    records = run_rounds(model, make_method("fedavg", KIND, store), fleet, tmp_path, 2)
    assert [record["dropped"] for record in records] == [1, 1]
    assert same(state_of(model), state_of(meddled(tmp_path / "good")[0]))


def test_a_client_with_a_bad_report_sits_out(tmp_path):
    _, records = meddled(tmp_path, claim=lambda report: replace(report, examples=float("nan")))
    for record in records:
        assert [client["client"] for client in record["clients"]] == [0, 2]
        assert list(record["sat_out"]) == ["1"]
        assert "examples = nan" in record["sat_out"]["1"]


@pytest.mark.parametrize("method", ["fedavg", "leff", "flora", "flexlora", "fedlora", "slora"])
def test_a_round_of_bad_reports_alone_changes_nothing(method, tmp_path):
    store, model = PartStore(tmp_path / "parts"), tiny("gpt2", KIND)
    fleet = fleet_of(clients_of(KIND, (5, 4)), (LAYERS + 1, 0), store)
    if method in ("fedavg", "leff"):
        made = make_method(method, KIND, store)
    else:
        made = recipe(method, model, KIND, store)
    records = run_rounds(model, made, fleet, tmp_path, 2)
    assert same(state_of(model), state_of(tiny("gpt2", KIND)))
    assert all(len(record["sat_out"]) == 2 and record["clients"] == [] for record in records)


def test_a_round_without_anybody_keeps_what_the_next_needs(tmp_path):
    """The frozen model is stored once, before the first round."""
    store, model = PartStore(tmp_path / "parts"), tiny("gpt2", KIND)
    fleet = fleet_of(clients_of(KIND, (5, 4)), (2, 2), store, kind=Meddling)
    asked, whole_report = [], fleet.report

    def report(clients):
        asked.append(clients)
        reports = whole_report(clients)
        return [replace(each, layers=0) for each in reports] if len(asked) == 1 else reports

    fleet.report = report
    records = run_rounds(model, recipe("fedlora", model, KIND, store), fleet, tmp_path, 2)
    assert [len(record["clients"]) for record in records] == [0, 2]
    assert records[1]["failures"] == 0
