"""The fleet's rules, on made-up devices in a time that passes at once."""

import itertools
from dataclasses import replace

import pytest
from engines.flower.fake_network import LOST, SILENT, Clock, FakeNetwork, device, reply

from leff.engines.flower import asker, exchange, reports
from leff.engines.flower import fleet as fleets
from leff.engines.flower.fleet import FleetRules, FlowerFleet
from leff.engines.flower.roster import Roster
from leff.errors import RunError
from leff.wire.json import from_json, to_json
from leff.wire.messages import (
    Job,
    LocalTraining,
    Measure,
    MeasureJob,
    Part,
    Segment,
    TaskCard,
    Update,
)
from leff.wire.parts import PartStore

PART = Part("b" * 64, 10)
CARD = TaskCard("text", (), 32, "", False, 0, PART)
PAYLOAD = b"an update's bytes"


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    for module in (fleets, exchange, reports, asker):
        monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def build(clock, tmp_path):
    """Return a function that makes a fleet of devices; the arrivals hold every update's file."""

    def made(*devices, **rules):
        network = FakeNetwork(clock, {10 + each.number: each for each in devices})
        arrivals = tmp_path / "arrived"
        for client in range(4):
            (arrivals / str(client)).mkdir(parents=True, exist_ok=True)
            (arrivals / str(client) / ("a" * 64)).write_bytes(PAYLOAD)
        fleet = FlowerFleet(
            network,
            Roster(tmp_path / "clients.json"),
            CARD,
            {},
            PartStore(tmp_path / "parts"),
            arrivals,
            FleetRules(
                **{"quorum": len(devices), "deadline_seconds": 600.0, "most_clients": 9, **rules}
            ),
            4,
            lambda job: 1000,
        )
        return fleet, network

    return made


def jobs(*clients, round=0):
    segment = Segment((0,), (PART,), trains=True)
    training = LocalTraining(1.0, 0.1, 0.0, 1.0)
    return [
        Job(round, each, 1, "text", "{}", 0, PART, PART, (segment,), training) for each in clients
    ]


def measure_jobs(*clients):
    return [MeasureJob(0, each, "text", "{}", 0, PART, PART, ()) for each in clients]


def train(fleet, *clients):
    return {update.client: update for update in fleet.train(jobs(*clients))}


def still_granted(network):
    open_ = (grant for token, grant in network.grants.items() if token not in network.revoked)
    return [grant.job.split(" ", 1)[1] for grant in open_]


# Who is there


def test_a_device_that_never_reports_holds_a_round_up_once(build, clock):
    fleet, _ = build(device("a", 1), device("b", 2, seconds=1e9), quorum=1)
    started = clock.now
    assert fleet.clients() == [0]
    first = clock.now - started
    assert reports.REPORT_SECONDS <= first < reports.REPORT_SECONDS + 2
    for _ in range(20):
        assert fleet.clients() == [0]
    assert clock.now - started - first < 5


def test_clients_are_numbered_by_admission_and_file_whoever_comes_first(build, clock):
    late = device("late", 1, examples=(3, 4), here=False)
    fleet, _ = build(late, device("early", 2), quorum=3)
    clock.at(5.0, lambda: setattr(late, "here", True))
    assert fleet.clients() == [0, 1, 2]
    assert [report.examples for report in fleet.report([0, 1, 2])] == [3, 4, 5]


def test_a_device_that_joins_later_gets_the_next_number(build):
    new = device("new", 1, here=False)
    fleet, _ = build(device("old", 2), new, quorum=1)
    assert fleet.clients() == [0]
    new.here = True
    assert fleet.clients() == [0, 1]
    assert fleet._roster.places == [("old", 0), ("new", 0)]


def test_a_file_without_examples_is_no_client(build):
    fleet, _ = build(device("a", 1, examples=(0, 7)), quorum=1)
    assert fleet.clients() == [0] and fleet._roster.places == [("a", 1)]


def test_the_quorum_is_waited_for_and_then_missed_by_name(build, clock):
    fleet, _ = build(device("a", 1), quorum=2, wait_seconds=30.0)
    started = clock.now
    with pytest.raises(RunError, match=r"1 clients are there, and engine.quorum = 2 are needed"):
        fleet.clients()
    assert 30.0 <= clock.now - started < 40.0


def test_nobody_is_numbered_before_the_quorum_is_there(build):
    fleet, _ = build(device("a", 1), quorum=2, wait_seconds=1.0)
    with pytest.raises(RunError):
        fleet.clients()
    assert fleet._roster.places == []


def test_a_device_that_refuses_is_named_with_our_own_words_only(build):
    why = "this device has not joined this federation"
    refuses, gossips = device("a", 1), device("b", 2)
    fleet, network = build(refuses, gossips, quorum=2, wait_seconds=1.0)
    network.devices[11].answers = lambda ask: to_json(reply(refuses, ask, refusal=why))
    network.devices[12].answers = lambda ask: to_json(reply(gossips, ask, refusal="Anna is ill"))
    with pytest.raises(RunError) as error:
        fleet.clients()
    assert f"device 1 (a) refuses: {why}" in str(error.value)
    assert "it gives a reason that is not kept" in str(error.value)
    assert "Anna" not in str(error.value)
    assert ("a", why) in network.refusals  # for `leff server status`


def test_those_who_took_no_part_are_named_at_the_end(build, caplog):
    good, bad = device("a", 1), device("b", 2)
    fleet, network = build(good, bad, quorum=1)
    network.devices[12].answers = lambda ask: to_json(reply(bad, ask, refusal="its disk is full"))
    with caplog.at_level("INFO"):
        assert fleet.clients() == [0]
    assert "client 0 is device 1 (a)" in caplog.text
    caplog.clear()
    fleet.close()
    assert "device 2 (b) took no part: its disk is full" in caplog.text


def test_a_device_that_is_asked_again_may_still_answer_the_first_ask(build, clock):
    slow = device("a", 1, seconds=20.0)  # it reads its data; after 15 s it is asked again
    fleet, network = build(slow, quorum=1)
    started = clock.now
    assert fleet.clients() == [0]
    assert clock.now - started < 25 and len(slow.asks) == 2
    assert not {ask.token for _, ask in slow.asks} & set(network.revoked)


def test_the_older_of_two_processes_with_one_key_is_refused_by_name(build):
    one = device("a", 1)
    fleet, _ = build(one, quorum=1, wait_seconds=1.0)
    fleet.clients()
    older = one.report
    one.report = replace(older, session="another")  # as if it had been started again
    train(fleet, 0)
    assert fleet.clients() == [0]
    one.report = older  # but the one before still runs
    train(fleet, 0)
    with pytest.raises(RunError, match=r"device 1 \(a\) refuses: two processes use this key"):
        fleet.clients()


@pytest.mark.parametrize("again", [False, True], ids=["alone", "started again"])
def test_a_device_whose_key_was_used_twice_is_believed_once_it_is_alone(build, clock, again):
    one = device("a", 1)
    fleet, _ = build(one, quorum=1, wait_seconds=600.0)
    fleet.clients()
    older = one.report
    for report in (replace(older, session="another"), older):
        one.report = report
        train(fleet, 0)
    if again:
        one.report = replace(older, session="a third")
    started = clock.now
    assert fleet.clients() == [0]
    assert clock.now - started < 30 if again else 100 < clock.now - started < 180


def test_a_restarted_device_goes_on_and_its_new_data_counts(build):
    one = device("a", 1)
    fleet, _ = build(one, quorum=1)
    fleet.clients()
    one.report = replace(device("a", 1, examples=(9,)).report, session="restarted", data="e" * 64)
    refused = reply_with("its data has changed since it reported", one)
    one.answer = refused
    assert train(fleet, 0)[0].failure == "its data has changed since it reported"
    one.answer = None
    assert fleet.clients() == [0] and fleet.report([0])[0].examples == 9
    assert train(fleet, 0)[0].failure is None
    assert one.asks[-1][1].data == "e" * 64


def reply_with(refusal, of):
    return lambda ask: to_json(reply(of, ask, refusal=refusal, update="", digest=""))


def test_numbers_are_kept_when_the_run_is_resumed(build):
    first, second = device("a", 1), device("b", 2)
    fleet, _ = build(second, quorum=1)
    assert fleet.clients() == [0]
    resumed, _ = build(first, second, quorum=2)
    assert resumed.clients() == [0, 1]
    assert resumed._roster.places == [("b", 0), ("a", 0)]
    assert resumed._roster.run == fleet._roster.run


def test_what_the_owner_sets_bounds_what_a_device_trains(build):
    one, two = device("a", 1), device("b", 2)
    one.report = replace(one.report, layers=3)
    two.report = replace(two.report, layers=1)
    fleet, _ = build(one, two, layers=(2,))
    assert [each.layers for each in fleet.report(fleet.clients())] == [2, 1]
    free, _ = build(one, two)
    assert [each.layers for each in free.report(free.clients())] == [3, 1]


# A round


def test_updates_come_with_their_file_and_the_bytes_that_were_counted(build):
    fleet, network = build(device("a", 1), device("b", 2))
    fleet.clients()
    done = train(fleet, 0, 1)
    assert sorted(done) == [0, 1]
    assert all(update.payload.read_bytes() == PAYLOAD for update in done.values())
    assert {update.download_bytes for update in done.values()} == {100}
    assert set(still_granted(network)) == {"report"}
    fleet.close()
    assert still_granted(network) == []


def test_each_device_is_asked_for_its_own_file_and_told_the_deadline(build):
    fleet, network = build(device("a", 1, examples=(5, 6)), quorum=2)
    fleet.clients()
    train(fleet, 0, 1)
    asks = [ask for _, ask in network.devices[11].asks if ask.about == "train"]
    assert [ask.share for ask in asks] == [0, 1]
    assert [from_json(Job, ask.job).client for ask in asks] == [0, 1]
    assert all(599.0 < ask.seconds <= 600.0 for ask in asks)
    granted = [grant for grant in network.grants.values() if grant.upload_bytes]
    assert [grant.device for grant in granted] == ["a", "a"]
    assert all(set(grant.parts) == {PART.digest} for grant in granted)


def test_who_has_not_answered_by_the_deadline_has_failed(build, clock):
    slow = device("b", 2, seconds=0.0)
    fleet, _ = build(device("a", 1), slow, deadline_seconds=60.0)
    fleet.clients()
    slow.seconds, started = 61.0, clock.now
    done = train(fleet, 0, 1)
    assert done[0].failure is None and done[1].failure == "no answer by the deadline"
    assert 60.0 <= clock.now - started < 62.0


def test_a_lost_ask_is_asked_again_after_growing_waits(build):
    one = device("a", 1)
    fleet, _ = build(one)
    fleet.clients()
    losses = iter([LOST] * 4)
    one.answer = lambda ask: next(losses, None) or to_json(reply(one, ask))
    assert train(fleet, 0)[0].failure is None
    times = [at for at, ask in one.asks if ask.about == "train"]
    waits = [b - a for a, b in itertools.pairwise(times)]
    assert len(waits) == 4 and waits == sorted(waits)
    assert waits[0] >= 1.0 and waits[-1] >= 8.0 and max(waits) <= 31.0


def test_a_silent_device_is_asked_again_with_the_same_token(build):
    one = device("a", 1)
    fleet, _ = build(one)
    fleet.clients()
    silences = iter([SILENT] * 5)
    one.answer = lambda ask: next(silences, None) or to_json(reply(one, ask))
    assert train(fleet, 0)[0].failure is None
    asks = [each for each in one.asks if each[1].about == "train"]
    waits = [second - first for (first, _), (second, _) in itertools.pairwise(asks)]
    assert waits == pytest.approx([15, 30, 60, 120, 120], abs=3)
    assert len({ask.token for _, ask in asks}) == 1
    assert asks[-1][1].seconds < asks[0][1].seconds - 340.0


def test_a_device_that_was_away_is_asked_when_it_is_back(build, clock):
    one, two = device("a", 1), device("b", 2)
    fleet, _ = build(one, two)
    fleet.clients()
    two.here = False
    clock.at(50.0, lambda: setattr(two, "here", True))
    done = train(fleet, 0, 1)
    assert done[1].failure is None


def test_a_round_that_silent_devices_do_not_answer_ends_at_its_deadline(build, clock):
    one = device("a", 1)
    fleet, _ = build(one, deadline_seconds=60.0)
    fleet.clients()
    one.answer, started = (lambda ask: SILENT), clock.now
    assert train(fleet, 0)[0].failure == "no answer by the deadline"
    assert 60.0 <= clock.now - started < 65.0


def test_a_round_in_which_nobody_was_there_is_asked_again(build, clock):
    one = device("a", 1)
    fleet, _ = build(one, deadline_seconds=60.0)
    fleet.clients()
    one.here, started = False, clock.now
    clock.at(90.0, lambda: setattr(one, "here", True))
    assert train(fleet, 0)[0].failure is None
    assert 90.0 <= clock.now - started < 95.0


def test_a_lost_link_costs_nothing_but_time(build):
    one = device("a", 1)
    fleet, network = build(one)
    fleet.clients()
    network.down = 3
    assert train(fleet, 0)[0].failure is None
    assert network.losses == 3


def test_closing_a_round_early_ends_its_tokens(build):
    fleet, network = build(device("a", 1), device("b", 2, seconds=5.0))
    fleet.clients()
    updates = fleet.train(jobs(0, 1))
    next(updates)
    updates.close()
    assert set(still_granted(network)) == {"report"}
    fleet.close()
    assert still_granted(network) == []


@pytest.mark.parametrize(
    ("changes", "failure"),
    [
        ({"update": "{", "digest": ""}, "its update cannot be read"),
        ({"update": ""}, "it sends no update"),
        ({"digest": "c" * 64}, "its update did not arrive"),
        ({"digest": "../../etc/passwd"}, "its update did not arrive"),
        ({"about": "measure"}, "it answers something else"),
        ({"refusal": "its disk is full"}, "its disk is full"),
        ({"refusal": "the patient's name is Anna"}, "it gives a reason that is not kept"),
    ],
)
def test_what_is_no_update_fails_with_words_of_ours(build, changes, failure):
    one = device("a", 1)
    fleet, _ = build(one)
    fleet.clients()
    one.answer = lambda ask: to_json(reply(one, ask, **changes))
    assert train(fleet, 0)[0].failure == failure


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"about": "train"}', "\x00"])
def test_an_answer_that_cannot_be_read_is_a_failure(build, text):
    one = device("a", 1)
    fleet, _ = build(one)
    fleet.clients()
    one.answer = lambda ask: text
    assert train(fleet, 0)[0].failure == "its answer cannot be read"


def test_a_failed_update_keeps_our_own_words_only(build):
    one = device("a", 1)
    fleet, _ = build(one)
    fleet.clients()
    for own, kept in (
        ("the loss was nan at step 3", "the loss was nan at step 3"),
        ("KeyError: 'Anna'", "it gives a reason that is not kept"),
    ):
        update = to_json(Update(0, 0, (0,), 5, failure=own))
        one.answer = lambda ask, update=update: to_json(reply(one, ask, update=update, digest=""))
        assert train(fleet, 0)[0].failure == kept


def test_a_report_in_an_answer_is_believed(build):
    one = device("a", 1)
    fleet, network = build(one)
    fleet.clients()
    one.report = replace(one.report, memory_bytes=123)
    train(fleet, 0)
    assert fleet.report([0])[0].memory_bytes == 123 and network.noted["a"].memory_bytes == 123


def test_measures_come_as_devices_answer_and_failures_in_our_own_words(build):
    one, two, three = (device(name, number) for number, name in enumerate("abc", 1))
    fleet, _ = build(one, two, three, deadline_seconds=60.0)
    fleet.clients()
    good = Measure(0, 0, 3, loss=1.5, weight=3)
    bad = Measure(0, 1, 3, failure="Anna's file is broken")
    one.answer = lambda ask: to_json(reply(one, ask, measure=to_json(good)))
    two.answer = lambda ask: to_json(reply(two, ask, measure=to_json(bad)))
    three.answer = lambda ask: SILENT
    found = {each.client: each for each in fleet.measure(measure_jobs(0, 1, 2))}
    assert found[0] == replace(good, download_bytes=100)
    assert found[1].failure == "it gives a reason that is not kept"
    assert found[2].failure == "no answer by the deadline"


def test_a_round_without_jobs_asks_nobody(build):
    fleet, network = build(device("a", 1))
    assert list(fleet.train([])) == [] and not network.devices[11].asks


def test_the_network_is_told_when_the_run_is_over(build):
    fleet, network = build(device("a", 1))
    fleet.close()
    assert network.closed
