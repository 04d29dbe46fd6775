"""The two Java programs of the E2E challenge scorer: Stanford's PTBTokenizer and METEOR 1.5.

`pycocoevalcap` carries both (``pip install leff[java]``).  This file runs them without its classes,
which write into the installed package, read the locale's encoding, and leave METEOR's process
running.

    python -c "from leff.tasks.metrics.java import find; print(find())"
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from threading import Timer
from typing import IO, cast

from leff.errors import MetricError
from leff.extras import advice

_UTF8 = ("-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-Dsun.stdout.encoding=UTF-8")
_TOKENIZER = "tokenizer/stanford-corenlp-3.4.1.jar"
_METEOR = "meteor/meteor-1.5.jar"
_START_SECONDS = 60
_RUN_SECONDS = 1800


@dataclass(frozen=True)
class Programs:
    """The paths of Java and of the two programs."""

    java: str
    tokenizer_jar: Path
    meteor_jar: Path

    def tokenize(self, lines: Sequence[str]) -> list[list[str]]:
        """Return the lower-case Penn Treebank tokens of each line, punctuation included.

        Raises MetricError if the program fails.
        """
        # A line end inside a text, as Java sees it, would shift all later lines.
        text = "".join(" ".join(line.split()) + "\n" for line in lines)
        options = ("-preserveLines", "-lowerCase", "-encoding", "UTF-8")
        main = ("-cp", str(self.tokenizer_jar), "edu.stanford.nlp.process.PTBTokenizer")
        command = [self.java, *_UTF8, *main, *options]
        try:
            done = subprocess.run(
                command, input=_encode(text), capture_output=True, timeout=_RUN_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MetricError(f"the Stanford tokenizer failed: {error}") from error
        tokens = [line.split() for line in done.stdout.decode().split("\n")[:-1]]
        if done.returncode or len(tokens) != len(lines):
            raise MetricError(
                f"the Stanford tokenizer ended with status {done.returncode} and {len(tokens)} of "
                f"{len(lines)} lines: {_last_line(done.stderr)}"
            )
        return tokens

    def meteor(self, references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> float:
        """Return METEOR 1.5, English, of a corpus of tokenized lines, between 0 and 1.

        Raises MetricError if the program fails.
        """
        command = [self.java, *_UTF8, "-Xmx2G", "-jar", str(self.meteor_jar)]
        command += ["-", "-", "-stdio", "-l", "en", "-norm"]
        pipe = subprocess.PIPE
        with (
            TemporaryFile() as messages,
            subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=messages) as process,
        ):
            stdin, stdout = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
            limit = Timer(_RUN_SECONDS, process.kill)
            limit.start()
            try:
                return _converse(stdin, stdout, references, hypotheses)
            except (OSError, ValueError) as error:
                process.kill()
                process.wait()
                messages.seek(0)
                reason = _last_line(messages.read()) or str(error)
                raise MetricError(f"METEOR failed: {reason}") from error
            finally:
                limit.cancel()
                process.kill()
                with suppress(OSError):  # a dead process does not read the rest
                    stdin.close()


def find() -> Programs | str:
    """Return the programs, or the reason why they cannot be run."""
    spec = find_spec("pycocoevalcap")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        return f"the package pycocoevalcap is not installed ({advice('pycocoevalcap')})"
    tokenizer_jar, meteor_jar = Path(folders[0], _TOKENIZER), Path(folders[0], _METEOR)
    for jar in (tokenizer_jar, meteor_jar):
        if not jar.is_file():
            return f"pycocoevalcap is installed without {jar.name}"
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java") or (shutil.which("java", path=f"{home}/bin") if home else None)
    if java is None:
        return "no Java was found on the path or in JAVA_HOME"
    try:
        # Some systems put a stub on the path that only offers to install Java.
        done = subprocess.run([java, "-version"], capture_output=True, timeout=_START_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{java} does not run: {error}"
    if done.returncode:
        return f"{java} does not run: {_last_line(done.stderr)}"
    return Programs(java, tokenizer_jar, meteor_jar)


def _converse(
    stdin: IO[bytes],
    stdout: IO[bytes],
    references: Sequence[Sequence[str]],
    hypotheses: Sequence[str],
) -> float:
    """Ask METEOR for each input's statistics, then for the score of the corpus."""

    def ask(*fields: str) -> None:
        stdin.write(_encode(" ||| ".join(fields) + "\n"))
        stdin.flush()

    def answer() -> str:
        line = stdout.readline().decode()
        if not line:
            raise ValueError("it ended without an answer")
        return line.strip()

    statistics: list[str] = []
    for texts, hypothesis in zip(references, hypotheses, strict=True):
        # A text must not contain the separator of the protocol.
        ask("SCORE", *(text.replace("|||", "") for text in (*texts, hypothesis)))
        statistics.append(answer())
    ask("EVAL", *statistics)
    for _ in statistics:
        answer()  # the inputs' own scores
    return float(answer())


def _encode(text: str) -> bytes:
    return text.encode(errors="replace")  # half a surrogate pair becomes a question mark


def _last_line(message: bytes) -> str:
    lines = message.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
