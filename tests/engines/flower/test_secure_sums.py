"""Secure sums with devices' own code behind the fleet, in one process, without a network."""

import itertools
import json
import logging
from dataclasses import replace

import pytest
from tiny_runs import Killed, least, outcome

import leff
from leff.device.sums import KeptSum, Told
from leff.engines.flower import simulation
from leff.engines.flower.seam import Member
from leff.errors import RunError, SecureSumError
from leff.privacy.secure_messages import Keys, Masked, Shares, Unmasked
from leff.runs import network
from leff.wire.asks import Answer, Ask
from leff.wire.json import from_json, to_json

pytestmark = pytest.mark.usefixtures("quick_runs")


class Direct(simulation.SimulationNetwork):
    """Answers at once.  Every ask meets a new process: nothing but the disk is kept.

    `leaves` has the clients that refuse, by what they are asked or by phase; `changes` makes
    another answer.
    """

    leaves: dict = {}  # noqa: RUF012
    changes = staticmethod(lambda ask, answer: answer)
    texts: list = []  # noqa: RUF012

    def present(self):
        return {client: Member(f"client {client}", client) for client in range(4)}

    def push(self, texts, seconds):
        names = [f"{len(self.texts) + place}" for place in range(len(texts))]
        self.texts.extend(texts)
        return {name: place for place, name in enumerate(names)}

    def pull(self, messages):
        return [(name, self._answer(*self.texts[int(name)])) for name in sorted(messages)]

    def _answer(self, client, text):
        ask = from_json(Ask, text)
        if client in self.leaves.get(ask.phase or ask.about, ()):
            return to_json(Answer(ask.about, refusal="its disk is full"))
        simulation._worker.cache_clear()
        levels = {name: logging.getLogger(name).level for name in ("leff", "flwr")}
        answer = from_json(Answer, self._clients.answer(client, text))
        for name, level in levels.items():  # a client's process is quieter than this one
            logging.getLogger(name).setLevel(level)
        return to_json(self.changes(ask, answer))

    def close(self):
        pass


@pytest.fixture
def direct(monkeypatch):
    """The network that runs of flower-simulation get."""

    class Own(Direct):
        texts, leaves = [], {}

    monkeypatch.setattr(network, "SimulationNetwork", Own)
    monkeypatch.setattr("leff.engines.flower.fleet.time.sleep", lambda _: None)
    return Own


def secure(folder, **changes):
    own = {
        "privacy__secure_sums": True,
        "clients__count": 4,
        "engine__name": "flower-simulation",
        "data__train_examples": 24,
    }
    return least(folder, **{**own, **changes})


def summed(run):
    """Who is in the sums of each round."""
    return [set(record.secure["clients"].values()) for record in run.records()[1:]]


NOISE = {"privacy__noise": 0.3, "privacy__reproducible": True}


@pytest.mark.parametrize(("method", "noise"), [("leff", {}), ("fedlora", {}), ("leff", NOISE)])
def test_sums_are_those_of_one_process_to_the_bit(method, noise, tmp_path, direct):
    """Though each phase meets a new process of the client."""
    options = secure(tmp_path, method__name=method, method__rank=2, **noise)
    leff.run(**options, out=tmp_path / "devices")
    leff.run(**{**options, "engine.name": "local"}, out=tmp_path / "local")
    devices, local = outcome(tmp_path / "devices"), outcome(tmp_path / "local")
    assert devices["records"] == local["records"]
    assert devices["model"] == local["model"]


def test_nothing_but_masked_values_and_keys_is_sent(tmp_path, direct, monkeypatch):
    """No answer has an update's bytes: every file that arrives is of values under masks."""
    arrived = []

    def seen(ask, answer):
        arrived.append((ask.about, ask.phase, bool(answer.digest)))
        return answer

    monkeypatch.setattr(direct, "changes", staticmethod(seen))
    leff.run(**secure(tmp_path), out=tmp_path / "run")
    assert {about for about, _, _ in arrived} == {"report", "train", "sum"}
    assert {phase for _, phase, file in arrived if file} == {"mask"}
    assert not list((tmp_path / "run" / "updates").rglob("[0-9a-f]" * 64))


@pytest.mark.parametrize(
    ("phase", "left"), [("train", 3), ("advertise", 3), ("share", 3), ("mask", 3), ("unmask", 4)]
)
def test_who_leaves_is_left_out_or_still_counts(phase, left, tmp_path, direct, caplog):
    direct.leaves = {phase: (2,)}
    run = leff.run(**secure(tmp_path), out=tmp_path / "run")
    assert summed(run) == [{left}] * 2
    if phase != "train":
        assert f"client 2 leaves the secure sum ({phase}): its disk is full" in caplog.text


def altered(phase, change):
    def changes(ask, answer):
        return change(answer) if ask.phase == phase and '"client":1,' in ask.job else answer

    return staticmethod(changes)


def message(kind, **fields):
    """An answer whose message has these fields."""

    def change(answer):
        return replace(answer, sum=to_json(replace(from_json(kind, answer.sum), **fields)))

    return change


@pytest.mark.parametrize(
    ("phase", "change", "words", "left"),
    [
        ("advertise", lambda answer: replace(answer, sum="{}"), "cannot be read", 3),
        ("advertise", message(Keys, client=2), "it answers for another client", 3),
        ("share", lambda answer: replace(answer, sum='{"client":1}'), "cannot be read", 3),
        ("mask", lambda answer: replace(answer, digest="0" * 64), "did not arrive", 3),
        ("mask", lambda answer: replace(answer, digest="../" * 22), "did not arrive", 3),
        ("mask", message(Masked, client=0), "it answers for another client", 3),
        ("unmask", message(Unmasked, client=3), "it answers for another client", 4),
    ],
)
def test_a_message_that_is_wrong_leaves_its_client_out(
    phase, change, words, left, tmp_path, direct, monkeypatch, caplog
):
    monkeypatch.setattr(direct, "changes", altered(phase, change))
    run = leff.run(**secure(tmp_path), out=tmp_path / "run")
    assert summed(run) == [{left}] * 2
    assert f"client 1 leaves the secure sum ({phase})" in caplog.text and words in caplog.text


def test_values_of_another_size_are_left_out(tmp_path, direct, monkeypatch, caplog):
    out = tmp_path / "run"

    def shorter(answer):
        file = next(out.rglob(f"arrived/1/{answer.digest}"))
        file.write_bytes(file.read_bytes()[:-4])
        return answer

    monkeypatch.setattr(direct, "changes", altered("mask", shorter))
    run = leff.run(**secure(tmp_path), out=out)
    assert summed(run) == [{3}] * 2
    assert "bytes of values, and the round has" in caplog.text


def killed_after_the_sums(options, out, monkeypatch):
    """Run until the second round's sums are known, and no further."""
    made = itertools.count()

    def means(*arguments):
        if next(made) == 1:
            raise Killed
        return first(*arguments)

    with monkeypatch.context() as patch:
        from leff.runs import private_rounds

        first = private_rounds.SumMeans
        patch.setattr(private_rounds, "SumMeans", means)
        with pytest.raises(Killed):
            leff.run(**options, out=out)


def test_a_round_whose_sums_were_lost_is_done_again_to_the_same_bits(tmp_path, direct, monkeypatch):
    """Devices tell the same sums as often as they are asked."""
    options = secure(tmp_path)
    leff.run(**options, out=tmp_path / "whole")
    killed_after_the_sums(options, tmp_path / "run", monkeypatch)
    leff.resume(tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_of_one_update_no_two_sums_are_told(tmp_path, direct, monkeypatch, caplog):
    """The difference of a sum with a client and one without it would be its update."""
    options = secure(tmp_path)
    killed_after_the_sums(options, tmp_path / "run", monkeypatch)
    direct.leaves = {"advertise": (2,)}
    run = leff.resume(tmp_path / "run")
    assert summed(run)[1] == set()
    assert "takes no part in the secure sum; its own log says why" in caplog.text
    assert "the round has no secure sum" in caplog.text


def test_an_honest_kill_with_more_clients_later_tells_nothing(tmp_path, direct, monkeypatch):
    """Three were summed, then the fourth is back: the difference would be its update."""
    options = secure(tmp_path)
    direct.leaves = {"train": (3,)}
    killed_after_the_sums(options, tmp_path / "run", monkeypatch)
    direct.leaves = {}
    masked = []

    def seen(ask, answer):
        if ask.phase == "mask":
            masked.append((json.loads(ask.job)["round"], bool(answer.digest)))
        return answer

    monkeypatch.setattr(direct, "changes", staticmethod(seen))
    run = leff.resume(tmp_path / "run")
    assert summed(run)[1] == set()
    assert sorted(masked) == [(1, False)] * 3 + [(1, True)]  # only the fourth sends values


@pytest.mark.parametrize(
    ("phase", "change", "words"),
    [
        ("advertise", message(Keys, sealing=b""), "malformed public key"),
        ("share", lambda answer: _with(answer, boxes={}), "must for all others"),
        ("share", lambda answer: _with(answer, boxes="long"), "and has to send"),
        (
            "share",
            lambda answer: _with(answer, commitments={}),
            "committed to self masks of nothing",
        ),
        ("unmask", message(Unmasked, self_masks={}), "gave no share of"),
    ],
)
def test_a_well_formed_message_that_is_wrong_leaves_its_client_out(
    phase, change, words, tmp_path, direct, monkeypatch, caplog
):
    monkeypatch.setattr(direct, "changes", altered(phase, change))
    run = leff.run(**secure(tmp_path), out=tmp_path / "run")
    assert summed(run) == [{3 if phase != "unmask" else 4}] * 2
    assert "client 1 leaves the secure sum: client 1" in caplog.text and words in caplog.text


def _with(answer, **fields):
    """The answer with other fields in its shares; "long" makes each box longer."""
    shares = from_json(Shares, answer.sum)
    if fields.get("boxes") == "long":
        fields["boxes"] = {to: box + b"0" * 700_000 for to, box in shares.boxes.items()}
        fields["boxes"] = {to: box[:9000] for to, box in fields["boxes"].items()}
    return replace(answer, sum=to_json(replace(shares, **fields)))


def test_a_device_killed_within_a_phase_gives_the_same_answer(tmp_path, direct, monkeypatch):
    """After it noted what it tells, or wrote its values, and before it kept its answer."""
    killed, writing = set(), KeptSum.__dict__["answer"]

    def once(self, phase, text, held):
        def die(*_, **__):
            raise OSError("killed")

        key = phase, held(None).job.client, held(None).job.round
        if key not in killed and phase in ("mask", "unmask"):
            killed.add(key)
            with monkeypatch.context() as patch, pytest.raises(OSError, match="killed"):
                patch.setattr("leff.device.sums.write_json", kept_but(die))
                writing(self, phase, text, held)
        return writing(self, phase, text, held)

    options = secure(tmp_path)
    leff.run(**options, out=tmp_path / "whole")
    monkeypatch.setattr(KeptSum, "answer", once)
    leff.run(**options, out=tmp_path / "run")
    assert len(killed) == 16
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def kept_but(die):
    """Write what was told, and end at the state."""
    from leff.files import write_json

    return lambda path, values, secret=False: die() if secret else write_json(path, values, secret)


def test_a_message_for_too_many_clients_ends_the_run(tmp_path, direct, monkeypatch):
    monkeypatch.setattr("leff.engines.flower.sums.MOST_SUM_BYTES", 3000)
    with pytest.raises(RunError, match=r"bytes for 4 clients, and devices read 3,000; lower"):
        leff.run(**secure(tmp_path), out=tmp_path / "run")


def test_a_device_that_asks_for_larger_sums_takes_no_part(tmp_path, direct, monkeypatch):
    from leff.device.settings import LimitSettings

    class Careful(LimitSettings):
        least_cohort: int | None = 4

    monkeypatch.setattr("leff.device.settings.LimitSettings", Careful)
    run = leff.run(**secure(tmp_path), out=tmp_path / "run")
    assert summed(run) == [set()] * 2
    run = leff.run(**secure(tmp_path, privacy__least_cohort=4), out=tmp_path / "more")
    assert summed(run) == [{4}] * 2
    plain = {**secure(tmp_path), "privacy.secure_sums": False}
    words = "the job asks for what this device tells in sums only; see its limits"
    with pytest.raises(RunError, match=words):
        leff.run(**plain, out=tmp_path / "plain")


def test_secrets_are_for_their_owner_alone_and_end_with_the_last_phase(
    tmp_path, direct, monkeypatch
):
    during, after = [], []

    def look(ask, answer):
        if ask.phase in ("mask", "unmask"):
            job = json.loads(ask.job)
            own = tmp_path / "run" / "clients" / f"client-{job['client']:03}"
            (file,) = own.rglob("sum.json")
            state = json.loads(file.read_text())["state"]
            assert file.stat().st_mode & 0o77 == 0
            files = [each.name for each in file.parent.iterdir()]
            after.append((state, len(files))) if ask.phase == "unmask" else during.append(
                (json.loads(state)["round_index"] == job["round"], len(files))
            )
        return answer

    monkeypatch.setattr(direct, "changes", staticmethod(look))
    leff.run(**secure(tmp_path), out=tmp_path / "run")
    # the update and its header, what was sent, the state, and during the sum the masked values
    assert set(during) == {(True, 5)} and len(during) == 8
    assert set(after) == {("", 4)} and len(after) == 8


def test_an_ask_out_of_order_is_refused(tmp_path):
    kept = KeptSum(tmp_path, Told(tmp_path / "told.json"))
    with pytest.raises(SecureSumError, match="no keys for the sum; it was not invited"):
        kept.answer("unmask", '{"clients":[0,1]}', lambda state: None)
    with pytest.raises(SecureSumError, match=r"phases advertise, share, mask, unmask, and not ''"):
        kept.answer("", "", lambda state: None)
    (tmp_path / "sum.json").write_text("{}")  # a damaged file is no state
    with pytest.raises(SecureSumError, match="it was not invited"):
        kept.answer("unmask", '{"clients":[0,1]}', lambda state: None)
