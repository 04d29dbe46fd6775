import subprocess
import time
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from leff.errors import MetricError
from leff.tasks.metrics import java


def script(folder: Path, body: str) -> str:
    path = folder / "java"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package folder with both programs, and no Java on the path."""
    for name in (java._TOKENIZER, java._METEOR):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    spec = ModuleSpec("pycocoevalcap", None)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(java, "find_spec", lambda name: spec)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return tmp_path


def test_find_needs_the_package(monkeypatch):
    monkeypatch.setattr(java, "find_spec", lambda name: None)
    assert "pip install 'leff[java]'" in java.find()


def test_find_needs_both_programs(package):
    (package / java._METEOR).unlink()
    assert java.find() == "pycocoevalcap is installed without meteor-1.5.jar"


def test_find_needs_java(package):
    assert java.find() == "no Java was found on the path or in JAVA_HOME"


def test_find_runs_java(package):
    stub = script(package, "echo 'please install a Java' >&2; exit 3")
    assert java.find() == f"{stub} does not run: please install a Java"


def test_find_notes_a_java_that_cannot_start(package):
    Path(script(package, "")).write_text("#!/no/such/interpreter\n")
    assert "java does not run: " in java.find()


def test_find_notes_a_java_that_hangs(package, monkeypatch):
    def hang(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    script(package, "")
    monkeypatch.setattr(subprocess, "run", hang)
    assert "timed out" in java.find()


def test_find_looks_in_java_home(package, monkeypatch):
    (package / "jdk" / "bin").mkdir(parents=True)
    path = script(package / "jdk" / "bin", "exit 0")
    monkeypatch.setenv("JAVA_HOME", str(package / "jdk"))
    found = java.find()
    assert isinstance(found, java.Programs)
    assert found.java == path


@pytest.mark.parametrize(
    "body, message",
    [
        ("echo Exception >&2; echo no memory >&2; exit 1", "status 1 and 0 of 2 lines: no memory"),
        ("echo only one; exit 0", "status 0 and 1 of 2 lines"),
    ],
)
def test_a_tokenizer_that_fails(tmp_path, body, message):
    programs = java.Programs(script(tmp_path, f"cat > /dev/null; {body}"), tmp_path, tmp_path)
    with pytest.raises(MetricError, match=message):
        programs.tokenize(["a", "b"])


def test_a_tokenizer_that_cannot_start(tmp_path):
    with pytest.raises(MetricError, match="tokenizer failed"):
        java.Programs(str(tmp_path / "nowhere"), tmp_path, tmp_path).tokenize(["a"])


@pytest.mark.parametrize(
    "body, message",
    [
        ("echo no memory >&2; exit 1", "METEOR failed: no memory"),
        ("exit 0", "METEOR failed: "),
        ("read line; echo 1; read line; echo Error; echo Error", "could not convert"),
    ],
)
def test_a_meteor_that_fails(tmp_path, body, message):
    programs = java.Programs(script(tmp_path, body), tmp_path, tmp_path)
    with pytest.raises(MetricError, match=message):
        programs.meteor([["a"]], ["a"])


def test_a_meteor_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(java, "_RUN_SECONDS", 0.2)
    programs = java.Programs(script(tmp_path, "exec sleep 60"), tmp_path, tmp_path)
    with pytest.raises(MetricError, match="ended without an answer"):
        programs.meteor([["a"]], ["a"])


def test_a_meteor_that_fails_and_stays_is_ended(tmp_path):
    talk = "head -n 1 > /dev/null; echo 1; head -n 1 > /dev/null; echo x; echo x; exec sleep 600"
    programs = java.Programs(script(tmp_path, talk), tmp_path, tmp_path)
    start = time.monotonic()
    with pytest.raises(MetricError, match="could not convert"):
        programs.meteor([["a"]], ["a"])
    assert time.monotonic() - start < 300


def test_meteors_protocol(tmp_path):
    talk = "head -n 1 >> log; echo 1 2; head -n 1 >> log; echo 0.1; echo 0.3"
    programs = java.Programs(script(tmp_path, f"cd {tmp_path}; {talk}"), tmp_path, tmp_path)
    assert programs.meteor([["a ||| b", "c"]], ["d |||"]) == 0.3
    assert (tmp_path / "log").read_text() == "SCORE ||| a  b ||| c ||| d \nEVAL ||| 1 2\n"


def test_every_line_keeps_its_place(programs):
    lines = ["a\u2028b", "", "c\x85d\re", "\ud800 f", "é £", "", ""]
    tokens = programs.tokenize(lines)
    assert tokens[:3] == [["a", "b"], [], ["c", "d", "e"]]
    assert tokens[4:] == [["é", "#"], [], []]


def test_the_locale_does_not_matter(programs, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    assert programs.tokenize(["Café £5"]) == [["café", "#", "5"]]


@pytest.mark.slow
def test_meteor_of_equal_empty_and_accented_texts(programs, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    assert programs.meteor([["café sicilia"], ["x y"]], ["café sicilia", "x y"]) == pytest.approx(1)
    assert programs.meteor([["ö ü"], ["a b c"], [""]], ["é è", "", ""]) == 0


@pytest.mark.slow
def test_meteor_is_pycocoevalcaps(programs):
    from pycocoevalcap.meteor.meteor import Meteor

    references = [["the cat sat on the mat", "a cat is sitting"], ["dogs run fast"]]
    hypotheses = ["the cats sit on a mat", "a dog runs"]
    official = Meteor()
    with official.meteor_p as process:
        outputs = {i: [text] for i, text in enumerate(hypotheses)}
        expected, _ = official.compute_score(dict(enumerate(references)), outputs)
        process.kill()
    assert programs.meteor(references, hypotheses) == pytest.approx(expected, rel=1e-9)
