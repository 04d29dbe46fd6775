import pytest

from leff.errors import DataError
from leff.tasks.metrics.nlg import read_official


@pytest.fixture
def read(tmp_path):
    def call(references: str | bytes, hypotheses: str | bytes):
        paths = tmp_path / "refs.txt", tmp_path / "hyps.txt"
        for path, content in zip(paths, (references, hypotheses), strict=True):
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_official(*paths)

    return call


@pytest.mark.parametrize(
    "references",
    [
        "a b\na c\n\nd\n",
        "a b\na c\n\nd",
        "a b\na c\n\nd\n\n\n",
        "\n a b \na c\n\n\nd\n",
        "a b\r\na c\r\n\r\nd\r\n",
        "a b\ra c\r\rd\r",
        "\ufeffa b\na c\n \t\nd\n",
    ],
)
@pytest.mark.parametrize(
    "hypotheses", ["x\ny\n", "x\ny", "x\r\ny\r\n", "\ufeffx\n y \n", "x\ny\n\n\n"]
)
def test_line_endings_and_blanks(read, references, hypotheses):
    assert read(references, hypotheses) == ([["a b", "a c"], ["d"]], ["x", "y"])


def test_an_empty_line_is_an_empty_hypothesis(read):
    assert read("a\n\nb\n\nc\n", "\n\nx\n")[1] == ["", "", "x"]
    assert read("a\n\nb\n\nc\n", "x\n\n\n")[1] == ["x", "", ""]
    assert read("a\n\nb\n\nc\n", "x\n\n\n\n")[1] == ["x", "", ""]


def test_single_references_and_a_single_input(read):
    assert read("a\nb\n", "x\ny\n") == ([["a"], ["b"]], ["x", "y"])
    assert read("a\nb\n", "x\n") == ([["a", "b"]], ["x"])


def test_text_is_kept_as_it_stands(read):
    quoted = '"It\'s £20, ""cheap"""'
    assert read(quoted + "\n", "'x'\n") == ([[quoted]], ["'x'"])
    assert read("a\u2028b\n\nc\n", "x\ny\n")[0] == [["a\u2028b"], ["c"]]


@pytest.mark.parametrize(
    "references, hypotheses, message",
    [
        ("a\n\nb\n", "x\n", r"refs.txt has references for 2 inputs, but .*hyps.txt has 1 hypo"),
        ("a\n\nb\n", "x\ny\nz\n", r"for 2 inputs, but .* has 3 hypotheses"),
        ("", "x\n", r"refs.txt is empty"),
        ("a\n", "", r"hyps.txt is empty"),
        ("a\n", "\ufeff", r"hyps.txt is empty"),
        ("\n \n", "x\n", r"refs.txt has empty lines only"),
        (b"a\n\nb\n\xe9\n", "x\n", r"refs.txt, line 4, is not UTF-8"),
        ("a\n", b"\xff\xfex\n", r"hyps.txt, line 1, is not UTF-8"),
    ],
)
def test_bad_files(read, references, hypotheses, message):
    with pytest.raises(DataError, match=message):
        read(references, hypotheses)


def test_missing_file(tmp_path):
    (tmp_path / "hyps.txt").write_text("x\n")
    with pytest.raises(DataError, match=r"nowhere.txt cannot be read: No such file"):
        read_official(tmp_path / "nowhere.txt", tmp_path / "hyps.txt")
    with pytest.raises(DataError, match="cannot be read"):
        read_official(tmp_path / "hyps.txt", tmp_path)
