"""Runs on a fleet of device classes: clock, deadline, who sits out, and all of it on resume."""

import json

import pytest
from tiny_runs import Killed, options, outcome, raises, write_table

import leff
from leff.errors import ConfigError, DataError
from leff.runs.config import load_config, parse_config
from leff.runs.folder import RunFolder
from leff.runs.prepare import prepare

pytestmark = pytest.mark.usefixtures("quick_runs")

CLASSES = {
    "phone": (2, "{room}", "1MFLOP/s", "80kbit/s", "20kbit/s"),
    "laptop": (1, "1GB", "20MFLOP/s", "8Mbit/s", "8Mbit/s"),
}


def fleet_file(tmp_path, room="430kB", name="fleet.toml", **changes):
    lines = []
    for label, values in {**CLASSES, **changes}.items():
        count, memory, speed, down, up = values
        lines += [f"[{label}]", f"count = {count}", f'memory = "{memory.format(room=room)}"']
        lines += [f'speed = "{speed}"', f'down = "{down}"', f'up = "{up}"']
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n")
    return path


def settings(tmp_path, model, **changes):
    table = str(write_table(tmp_path / "t.jsonl", "generation"))
    given = {"context__name": "quantise", "clients__fleet": str(fleet_file(tmp_path)), **changes}
    found = options(model, data__task="table", data__train=table, **given)
    for key in ("clients.count", "clients.layers"):
        if key.replace(".", "__") not in changes:
            del found[key]
    found |= {"clients.partition": "iid", "proxy.task": "table", "proxy.train": table}
    return found | {"evaluation.gap_clients": 0, "training.rounds": 2}


def test_cohorts_are_of_the_fleets_devices(tmp_path, tiny_gpt2):
    """Three devices, where eight are the default."""
    given = settings(tmp_path, tiny_gpt2, privacy__secure_sums=True, privacy__least_cohort=4)
    given["proxy.task"] = "sample"
    del given["proxy.train"]
    with pytest.raises(ConfigError, match=r"least_cohort = 4 is never met: a round has 3 of 3"):
        leff.run(**given, out=tmp_path / "run")
    fleet = fleet_file(
        tmp_path, name="large.toml", phone=(20, "1GB", "1MFLOP/s", "1Mbit/s", "1Mbit/s")
    )
    load_config(None, {**given, "clients.fleet": str(fleet), "clients.per_round": 0.2})


def test_students_of_a_fleets_blocks_would_tell_who_is_there(tmp_path, tiny_gpt2):
    given = settings(tmp_path, tiny_gpt2, context__name="distil", privacy__epsilon=9.0)
    given |= {"privacy.delta": 0.01, "proxy.task": "sample"}
    with pytest.raises(ConfigError, match=r"context\.name = 'distil' cannot be used with privacy"):
        leff.run(**given, out=tmp_path / "run")


def clocked(run):
    """Records after the first, with the laws that all of them hold."""
    records = run.records()[1:]
    for record in records:
        own = [client.seconds_simulated.round for client in record.clients]
        assert record.round_seconds_simulated == max(own)
        idle = [1 - each / max(own) for each in own] + [1.0] * len(record.sat_out or {})
        assert record.idle_share == pytest.approx(sum(idle) / len(idle))
        assert 0 <= record.idle_share <= 1
        for client in record.clients:
            spent = client.seconds_simulated
            assert spent.round == pytest.approx(spent.download + spent.compute + spent.upload)
            assert client.state_bytes < client.predicted_bytes <= client.memory_bytes
    return records


def test_every_client_is_timed_by_what_it_did(tmp_path, tiny_gpt2):
    run = leff.run(**settings(tmp_path, tiny_gpt2), out=tmp_path / "run")
    assert load_config(run.folder / "config.toml").clients.count == 3
    for record in clocked(run):
        assert [client.device for client in record.clients] == ["phone", "phone", "laptop"]
        phone, _, laptop = record.clients
        assert len(laptop.layers) == 4 and record.sat_out is None
        assert "sat_out" not in record.to_dict()
        sent = phone.seconds_simulated
        assert sent.upload == phone.upload_bytes / 2500
        assert sent.download + sent.setup == pytest.approx(phone.download_bytes / 1e4)
        assert laptop.seconds_simulated.round < sent.round


@pytest.mark.parametrize(
    "method",
    ["leff", "flora", *(pytest.param(m, marks=pytest.mark.slow) for m in ("fedavg", "slora"))],
)
def test_a_deadline_is_kept_by_every_method(method, tmp_path, tiny_gpt2):
    free = settings(tmp_path, tiny_gpt2, method__name=method, method__rank=2)
    if method != "leff":  # whose clients choose by memory
        free["clients.fleet"] = str(fleet_file(tmp_path, room="1GB"))
    plain = leff.run(**free, out=tmp_path / "free")
    longest = max(record.round_seconds_simulated for record in clocked(plain))
    limit = 0.7 * longest
    late = leff.run(**free, **{"clients.deadline": f"{limit:.3f}s"}, out=tmp_path / "late")
    for record, before in zip(clocked(late), plain.records()[1:], strict=True):
        assert record.round_seconds_simulated <= limit
        done = {client.client: client.steps for client in record.clients}
        all_steps = {client.client: client.steps for client in before.clients}
        assert done.keys() | {int(c) for c in record.sat_out or {}} == all_steps.keys()
        assert all(0.25 * all_steps[c] <= steps <= all_steps[c] for c, steps in done.items())
        assert done != all_steps


def test_who_cannot_make_it_sits_out_and_is_recorded(tmp_path, tiny_gpt2):
    slow = {"phone": (1, "1GB", "1kFLOP/s", "80kbit/s", "20kbit/s")}
    given = settings(tmp_path, tiny_gpt2, clients__deadline="60s")
    given["clients.fleet"] = str(fleet_file(tmp_path, **slow))
    for method, reason in (
        ("leff", "no block and context fit 1,000,000,000 bytes and a deadline of 60 s"),
        ("fedavg", "s on a phone, the deadline is 60 s"),
    ):
        run = leff.run(**given, method=method, out=tmp_path / method)
        for record in clocked(run):
            assert list(record.sat_out) == ["0"] and reason in record.sat_out["0"]
            assert [client.client for client in record.clients] == [1]
            assert record.idle_share == 0.5


def test_devices_without_memory_for_a_layer_sit_out(tmp_path, tiny_gpt2):
    given = settings(tmp_path, tiny_gpt2)
    given["clients.fleet"] = str(fleet_file(tmp_path, room="10kB"))
    run = leff.run(**given, out=tmp_path / "run")
    for record in clocked(run):
        assert set(record.sat_out) == {"0", "1"} and record.idle_share == 2 / 3
        assert record.sat_out["0"] == "no block and context fit 10,000 bytes"
    nobody = {"laptop": (1, "10kB", "20MFLOP/s", "8Mbit/s", "8Mbit/s")}
    given["clients.fleet"] = str(fleet_file(tmp_path, room="10kB", **nobody))
    with pytest.raises(ConfigError, match="within 10,000 bytes; the least that would do is"):
        leff.run(**given, out=tmp_path / "none")


def test_devices_without_memory_for_a_method_sit_out(tmp_path, tiny_gpt2):
    given = settings(tmp_path, tiny_gpt2, method__name="fedavg", training__rounds=1)
    given["clients.fleet"] = str(fleet_file(tmp_path, room="400kB"))
    run = leff.run(**given, out=tmp_path / "run")
    (record,) = clocked(run)[:1]
    assert "422,612 bytes are needed, a phone has 400,000" in record.sat_out["0"]
    nobody = {"laptop": (1, "400kB", "20MFLOP/s", "8Mbit/s", "8Mbit/s")}
    given["clients.fleet"] = str(fleet_file(tmp_path, room="400kB", **nobody))
    with pytest.raises(ConfigError, match=r"clients.fleet: 0.4 MB is too little for fedavg"):
        leff.run(**given, out=tmp_path / "none")


@pytest.mark.parametrize("method", ["leff", "fedlora"])
def test_a_resumed_run_has_the_same_clock(method, tmp_path, tiny_gpt2, monkeypatch):
    given = settings(tmp_path, tiny_gpt2, method__name=method, clients__deadline="40s")
    whole = leff.run(**given, out=tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        real, calls = RunFolder.append, []

        def kill_late(folder, record):
            calls.append(record)
            return raises() if len(calls) == 3 else real(folder, record)

        patch.setattr(RunFolder, "append", kill_late)
        leff.run(**given, out=tmp_path / "cut")
    leff.resume(tmp_path / "cut")
    assert outcome(tmp_path / "cut") == outcome(whole.folder)
    assert "seconds_simulated" in json.dumps(outcome(whole.folder)["records"])


def test_a_fleet_that_was_changed_is_refused(tmp_path, tiny_gpt2):
    given = settings(tmp_path, tiny_gpt2)
    run = leff.run(**given, out=tmp_path / "run")
    (run.folder / "result.json").unlink()
    faster = {"laptop": (1, "1GB", "21MFLOP/s", "8Mbit/s", "8Mbit/s")}
    fleet_file(tmp_path, **faster)
    with pytest.raises(DataError, match=r"fleet_digest differs"):
        leff.resume(run.folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clients__count": 5}, r"clients.count = 5, but .* has 3 devices; leave out"),
        ({"clients__layers": [1]}, r"clients.fleet and clients.layers = \[1\] both say"),
        ({"clients__memory": ["1GB"]}, r"clients.fleet and clients.memory = \['1GB'\] both"),
        ({"clients__flops": ["1G"]}, r"clients.fleet and clients.flops"),
        ({"clients__fleet": "nowhere.toml"}, "there is no fleet file"),
        ({"clients__deadline": "5 days"}, "clients.deadline: '5 days' has an unknown unit 'days'"),
        (
            {"clients__deadline": "1ms"},
            r"clients.deadline = '1ms' leaves no client of this fleet: 25% of the steps with leff",
        ),
        (
            {"clients__deadline": "1ms", "method__name": "fedlora"},
            "25% of the steps with fedlora take .* s on the fastest",
        ),
    ],
)
def test_what_is_refused_before_any_work(changes, message, tmp_path, tiny_gpt2):
    with pytest.raises(ConfigError, match=message):
        config = load_config(None, settings(tmp_path, tiny_gpt2, **changes))
        prepare(config, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_deadline_needs_a_fleet():
    with pytest.raises(ConfigError, match=r"clients.deadline = '30s' needs clients.fleet"):
        parse_config({"clients": {"deadline": "30s"}})


def test_a_fleet_is_relative_to_where_the_run_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = parse_config({"clients": {"fleet": "fleet.toml"}})
    assert config.clients.fleet == tmp_path / "fleet.toml"
