"""A run's folder is damaged: an error of one line, a stated fallback, or no difference."""

import json
import logging
import random
import re
import shutil

import pytest
from tiny_runs import Killed, least, outcome, quicken, raises, reseal

import leff
from leff.errors import CheckpointError, ConfigError, DataError
from leff.runs.folder import RunFolder, list_runs

pytestmark = pytest.mark.usefixtures("quick_runs")
RUNS = ("finished", "before the result", "in the second round")


class Stop:
    """Progress that dies when the second round has begun."""

    def __getattr__(self, name):
        return lambda *event: raises() if name == "trained" and event[0] == 1 else None


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run, and the same run stopped in two places; all come to the same."""
    top = tmp_path_factory.mktemp("damage")
    settings = least(top)
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        leff.run(**settings, out=top / RUNS[0])
        shutil.copytree(top / RUNS[0], top / RUNS[1])
        (top / RUNS[1] / "result.json").unlink()
        shutil.rmtree(top / RUNS[1] / "model")
        with pytest.raises(Killed):
            leff.run(**settings, out=top / RUNS[2], progress=Stop())
    return top


@pytest.fixture
def wanted(runs):
    return outcome(runs / RUNS[0])


@pytest.fixture
def finished(runs, tmp_path):
    return shutil.copytree(runs / RUNS[0], tmp_path / "run")


@pytest.fixture
def stopped(runs, tmp_path):
    return shutil.copytree(runs / RUNS[2], tmp_path / "run")


def change(path, old, new):
    payload = path.read_bytes()
    assert payload.count(old) >= 1
    path.write_bytes(payload.replace(old, new, 1))


# One value


def test_another_round_in_a_checkpoint(stopped, wanted, caplog):
    change(stopped / "checkpoints" / "round-0001" / "state.json", b'"round": 1', b'"round": 0')
    with pytest.raises(CheckpointError, match=r"every checkpoint .* remove that folder and resume"):
        leff.resume(stopped)
    assert "round-0001 is damaged" in caplog.text
    shutil.rmtree(stopped / "checkpoints")
    leff.resume(stopped)
    assert outcome(stopped) == wanted


def test_a_checkpoint_under_the_name_of_another_round(stopped):
    folder = stopped / "checkpoints"
    (folder / "round-0001").rename(folder / "round-0000")
    with pytest.raises(CheckpointError, match="every checkpoint"):
        leff.resume(stopped)


def test_a_state_that_names_another_file(stopped):
    files = {"../../config.toml": "0" * 64}
    reseal(stopped / "checkpoints" / "round-0001" / "state.json", files=files)
    with pytest.raises(CheckpointError, match="every checkpoint"):
        leff.resume(stopped)


@pytest.mark.parametrize("server", [[], {}, {"holdings": 3, "setbacks": {}}, None])
def test_a_whole_checkpoint_of_another_form(server, stopped, monkeypatch):
    """As another version could have written it."""
    run = RunFolder(stopped)
    found = run.load_checkpoint(run.digest())
    run.save_checkpoint(type(found)(1, found.model, found.method, server), run.digest(), 2)
    with pytest.raises(CheckpointError, match=r"round 1 .* another version .* remove the folder"):
        leff.resume(stopped)


@pytest.mark.parametrize("name", ["finished", "before the result"])
def test_another_digit_in_a_record(name, runs, tmp_path):
    folder = shutil.copytree(runs / name, tmp_path / "run")
    (folder / "rounds.png").unlink(missing_ok=True)
    line = (folder / "rounds.jsonl").read_bytes().splitlines()[1]
    (rate,) = re.findall(rb'"learning_rate": [0-9.]+', line)
    change(folder / "rounds.jsonl", rate, rate + b"5")
    for look in (leff.resume, lambda path: leff.api.Run(path, {}).records()):
        with pytest.raises(CheckpointError, match=r"line 2 is damaged \(its sha256 .*resume"):
            look(folder)


@pytest.mark.parametrize("name", ["finished", "before the result"])
def test_lost_lines_at_the_end(name, runs, tmp_path):
    folder = shutil.copytree(runs / name, tmp_path / "run")
    lines = (folder / "rounds.jsonl").read_text().splitlines(keepends=True)
    (folder / "rounds.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(CheckpointError, match=r"rounds\.jsonl lacks records .* and resume, which"):
        leff.resume(folder)


def test_lost_decisions(stopped, wanted):
    (stopped / "decisions.json").unlink()
    with pytest.raises(CheckpointError, match=r"lost its decisions\.json; remove the folder check"):
        leff.resume(stopped)
    shutil.rmtree(stopped / "checkpoints")
    leff.resume(stopped)
    assert outcome(stopped) == wanted


def test_lost_checkpoints_are_told(runs, tmp_path, wanted, caplog):
    folder = shutil.copytree(runs / RUNS[1], tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    leff.resume(folder)
    assert "has lost checkpoints; it goes on after round 0, and 3 records are" in caplog.text
    assert outcome(folder) == wanted


def test_a_damaged_split_is_written_anew(runs, stopped, wanted, caplog):
    split = (stopped / "split.json").read_bytes()
    for content in (b"{", None):
        path = stopped / "split.json"
        path.unlink() if content is None else path.write_bytes(content)
        folder = shutil.copytree(stopped, stopped.parent / f"{content}")
        leff.resume(folder)
        assert (folder / "split.json").read_bytes() == split and outcome(folder) == wanted
        assert "split.json was lost or damaged; it is written anew" in caplog.text


def damaged_models(folder):
    """Damage every file of a finished run's model in turn; yield its name."""
    for path in sorted(set((folder / "model").iterdir()) - {folder / "model" / "README.md"}):
        whole = path.read_bytes()
        for payload in (bytes([whole[0] ^ 1]) + whole[1:], whole[:-1], None):
            path.unlink() if payload is None else path.write_bytes(payload)
            yield path.name
        path.write_bytes(whole)


def test_a_damaged_model_is_not_used(finished):
    looks = (leff.resume, leff.evaluate, lambda f: leff.api.Run(f, {}).load_model())
    looks += (lambda f: leff.generate(f, ["a"]), lambda f: leff.generate(f / "model", ["a"]))
    names = []
    for number, name in enumerate(damaged_models(finished)):
        names.append(name)
        with pytest.raises(CheckpointError, match=rf"model/{name} is (damaged|missing); remove"):
            looks[number % len(looks)](finished)
    assert "model.safetensors" in names and len(names) >= 9
    assert leff.resume(finished).result


def test_a_finished_run_on_a_disk_that_cannot_be_written(finished, cli, monkeypatch):
    """The result is printed; the picture is all that is missing."""
    (finished / "rounds.png").unlink()
    result = leff.api.Run(finished, RunFolder(finished).result()).result

    def refused(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("leff.report.picture.draw_run", refused)
    monkeypatch.setattr("pathlib.Path.mkdir", refused)
    monkeypatch.setattr("leff.files.write_synced", refused)
    status, printed, _ = cli("resume", finished, "--json", "--texts")
    assert status == 0 and json.loads(printed)["after"] == result["after"]


def test_a_picture_that_cannot_be_written_is_a_note(finished, monkeypatch, caplog):
    def refused(*_):
        raise OSError(30, "Read-only file system")

    (finished / "rounds.png").unlink()
    monkeypatch.setattr("leff.report.picture.draw_run", refused)
    assert leff.resume(finished).result
    assert "rounds.png was not written ([Errno 30] Read-only file system)" in caplog.text


def test_the_remedy_for_a_damaged_model_helps(finished, wanted):
    shutil.rmtree(finished / "model")
    with pytest.raises(CheckpointError, match=r"remove .*result\.json and resume, which makes"):
        leff.resume(finished)
    (finished / "result.json").unlink()
    leff.resume(finished)
    assert outcome(finished) == wanted


def test_an_environment_without_a_digest(stopped):
    reseal(stopped / "environment.json", model_digest=None)
    with pytest.raises(DataError, match="model_digest differs"):
        leff.resume(stopped)


def test_a_list_names_every_damaged_run(runs, tmp_path):
    damage = {
        "config": lambda f: change(f / "config.toml", b"rounds = 2", b"rounds = 7"),
        "environment": lambda f: (f / "environment.json").write_text("[]"),
        "line": lambda f: change(f / "rounds.jsonl", b'"loss"', b'"lost"'),
        "lines": lambda f: (f / "rounds.jsonl").unlink(),
        "result": lambda f: change(f / "result.json", b'"rounds": 2', b'"rounds": 1'),
    }
    for name, damaged in damage.items():
        damaged(shutil.copytree(runs / RUNS[0], tmp_path / name))
    shutil.copytree(runs / RUNS[0], tmp_path / "whole")
    found = {run["run"].rpartition("/")[2]: run["problem"] for run in list_runs(tmp_path)}
    assert found.pop("whole") is None
    assert found.keys() == damage.keys() and all(found.values())


def test_old_checkpoints_do_not_push_out_new_ones(stopped, wanted):
    """A damaged checkpoint of a later round is not counted among those to keep."""
    folder = stopped / "checkpoints"
    for name in ("round-0008", "round-0009"):
        shutil.copytree(folder / "round-0001", folder / name)
    leff.resume(stopped)
    assert sorted(path.name for path in folder.iterdir()) == ["round-0001", "round-0002"]
    assert outcome(stopped) == wanted


# Any value


def files_of(folder):
    names = (p for p in folder.rglob("*") if p.is_file() and p.name not in (".lock", "rounds.png"))
    return sorted(names)


def mutate(folder, rng):
    """Damage one file in one way; return what was done."""
    path = rng.choice(files_of(folder))
    payload = path.read_bytes()
    kind = rng.choice(("flip", "flip", "cut", "value", "value", "swap", "remove", "grow", "lines"))
    if kind == "flip" and payload:
        place = rng.randrange(len(payload))
        flipped = payload[place] ^ 1 << rng.randrange(8)
        path.write_bytes(payload[:place] + bytes([flipped]) + payload[place + 1 :])
    elif kind == "cut":
        path.write_bytes(payload[: rng.randrange(len(payload) + 1)])
    elif kind == "value" and path.suffix in (".json", ".jsonl", ".toml"):
        mutate_value(path, rng)
    elif kind == "swap":
        other = rng.choice(files_of(folder))
        path.write_bytes(other.read_bytes())
        other.write_bytes(payload)
    elif kind == "remove":
        path.unlink()
    elif kind == "grow":
        path.write_bytes(payload + rng.choice((b"\0" * 9, b"\n", b"{}\n", payload[-40:])))
    elif kind == "lines":
        lines = payload.splitlines(keepends=True)
        rng.shuffle(lines)
        path.write_bytes(b"".join(lines[: rng.randrange(len(lines) + 1)]))
    return f"{kind} of {path.relative_to(folder)}"


def mutate_value(path, rng):
    """Change a value, or the type of one, so that the file can still be read."""
    new = rng.choice(("0", "7", "-1", "[]", '"x"', "true", "1e9", "3.5", "{}"))
    lines = path.read_text().splitlines()
    number = rng.randrange(len(lines))
    if path.suffix == ".json":
        path.write_text(
            json.dumps(with_another(json.loads(path.read_text()), json.loads(new), rng))
        )
        return
    if path.suffix == ".jsonl":
        lines[number] = json.dumps(with_another(json.loads(lines[number]), json.loads(new), rng))
    else:
        lines[number] = f"{lines[number].partition('=')[0]} = {new}"
    path.write_text("\n".join(lines) + "\n")


def with_another(values, new, rng):
    """Return values with one of another type or number, one more, or one less."""
    key = rng.choice(list(values) if isinstance(values, dict) else range(len(values)))
    if rng.random() < 0.2:
        del values[key]
    elif isinstance(values[key], dict) and values[key] and rng.random() < 0.5:
        values[key] = with_another(values[key], new, rng)
    else:
        values["new" if isinstance(values, dict) and rng.random() < 0.3 else key] = new
    return values


@pytest.mark.slow
@pytest.mark.soak(30, 2000)
def test_any_damage_is_an_error_or_makes_no_difference(count, runs, tmp_path, wanted, caplog):
    caplog.set_level(logging.WARNING)
    known = {name: leff.evaluate(runs / name) for name in RUNS}
    told = {"error": 0, "fallback": 0, "same": 0}
    for case in range(count):
        rng = random.Random(case)
        name = rng.choice(RUNS)
        folder = shutil.copytree(runs / name, tmp_path / "run")
        what = mutate(folder, rng)
        caplog.clear()
        list_runs(tmp_path)
        try:
            measured = leff.evaluate(folder) if rng.random() < 0.2 else None
            warned = bool(caplog.records)
            leff.resume(folder)
        except (CheckpointError, ConfigError, DataError) as error:
            assert len(str(error)) > 40 and "Traceback" not in str(error), (case, what)
            told["error"] += 1
        except Exception as error:
            raise AssertionError(f"case {case}, {what}") from error
        else:
            assert outcome(folder) == wanted, (case, what)
            assert measured in (None, known[name]) or warned, (case, what)
            told["fallback" if caplog.records else "same"] += 1
        shutil.rmtree(folder)
    assert min(told.values()) > 0, told
