"""Messages: one line, short values, and nothing that a terminal would obey."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leff.cli import main
from leff.errors import LONGEST_LINE, LONGEST_VALUE, DataError, key_part, nearest, one_line, shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        ("a\nb", "'a\\nb'"),
        (["2GB", True], "['2GB', True]"),
        (10**5000, "a number of 16610 bits"),
        (-(10**5000), "a number of 16610 bits"),
    ],
    ids=["int", "text", "list", "large", "negative"],
)
def test_a_value_as_it_is_shown(value, text):
    assert shown(value) == text


class Broken:
    def __repr__(self):
        raise ZeroDivisionError


endless = []
endless.append(endless)


@pytest.mark.parametrize(
    "value", ["x" * 10**6, [[["a"] * 9] * 9] * 10**5, {"k" * 999: 10**5000}, endless, Broken()]
)
def test_a_large_value_is_cut(value):
    assert 0 < len(shown(value)) <= LONGEST_VALUE
    assert "..." in shown(value) or "Broken" in shown(value)


def test_parts_of_keys():
    assert [key_part(p) for p in ("a", "a-b", "a.b", 3)] == ["a", "a-b", "a.b", "3"]
    assert [key_part(p) for p in ("", "a b", "\0")] == ["''", "'a b'", r"'\x00'"]
    assert len(key_part("x" * 5000)) <= LONGEST_VALUE


@given(st.text())
def test_any_message_is_one_printable_line(message):
    line = one_line(message)
    assert line.isprintable() and (line or not message.strip())


def test_a_message_is_cut():
    assert len(one_line("x" * 10**6)) == LONGEST_LINE
    assert one_line("a  path\n  and more") == "a  path and more"
    assert one_line("\x1b[31m\u202e\ud800") == r"\x1b[31m\u202e\ud800"


def test_the_nearest_of_a_long_name_is_found_soon():
    assert nearest("x" * 10**7, ["leff", "fedavg"]) == "; known are: leff, fedavg"


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (DataError("a\nb\x1b"), 2, "error: a b\\x1b\n"),
        (IsADirectoryError(21, "Is a directory", "a\nb"), 1, "error: [Errno 21] Is a directory: "),
        (MemoryError(), 1, "error: out of memory\n"),
        (RuntimeError("can't allocate memory: 9 bytes"), 1, "error: out of memory: can't allocate"),
    ],
)
def test_errors_of_the_command_line(error, status, line, cli, monkeypatch):
    def app():
        raise error

    monkeypatch.setattr("leff.cli.app", app)
    ended, printed, said = cli()
    assert (ended, printed) == (status, "")
    assert said.startswith(line) and said.count("\n") == 1


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def app():
        raise RuntimeError("a fault")

    monkeypatch.setattr("leff.cli.app", app)
    monkeypatch.setattr("sys.argv", ["leff"])
    with pytest.raises(RuntimeError, match="a fault"):
        main()
