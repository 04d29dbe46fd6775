"""The characters of a text file as people save it: gzipped or not, in several encodings.

    for line in lines_of(Path("mails.csv.gz")): ...

UTF-16 and UTF-32 are known by the mark they begin with.  Bytes that are not UTF-8 are read as
Windows-1252, which holds Latin-1, with a warning; but not in a file that had other letters in
UTF-8, since that one is damaged.  A file is read in pieces, so memory follows the longest row.
"""

import codecs
import gzip
import logging
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

from leff.errors import DataError

log = logging.getLogger("leff.tasks.load")
PIECE_BYTES = 2**20
ROW_CHARACTERS = 16 * 2**20  # of one row; some ten books
GZIP_MARK = b"\x1f\x8b"
MARKS = (  # the longer ones first, as one begins with another
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
OTHERS = {  # what else a file may turn out to be, by its first bytes
    b"PK\x03\x04": "a zip archive or an Excel workbook; unpack it, or save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel or Word file; save it as CSV or plain text",
    b"PAR1": "a Parquet file; give its name the ending .parquet",
    b"%PDF": "a PDF; save its text as .txt",
}


def check_file(path: Path) -> None:
    """Raise DataError for a path that is no file, naming what it is instead."""
    try:
        if path.is_dir():
            raise DataError(f"{path} is a folder; name a file, or a pattern such as {path}/*.csv")
        if not path.is_file():
            raise DataError(f"there is no file {path}")
    except OSError as error:  # such as a name that is too long
        raise DataError(f"{path} cannot be read ({error.strerror})") from None


def lines_of(path: Path) -> Iterator[str]:
    """Yield every line of a file with its end; CR ends lines where no LF does.

    Raises DataError for a file that cannot be read, and for a row above `ROW_CHARACTERS`.
    """
    return split_lines(path, pieces_of(path))


def split_lines(path: Path, pieces: Iterable[str]) -> Iterator[str]:
    """Yield the lines, with their ends, of a file's `pieces`.  Raises DataError as `lines_of`."""
    pieces = iter(pieces)
    first = next(pieces, "")
    end = "\r" if "\r" in first and "\n" not in first else "\n"
    rest, size, done = list[str](), 0, 0
    for piece in chain([first], pieces):
        head, *others = piece.split(end)
        rest.append(head)
        size += len(head)
        if others:
            yield "".join(rest) + end
            for line in others[:-1]:
                yield line + end
            rest, size, done = [others[-1]], len(others[-1]), done + len(others)
        check_row(path, done + 1, size)
    if size:
        yield "".join(rest)


def check_row(path: Path, line: int, size: int) -> None:
    """Raise DataError if the row that begins in `line` has more than `ROW_CHARACTERS`."""
    if size > ROW_CHARACTERS:
        raise DataError(
            f"{path}, line {line}: a row of more than {ROW_CHARACTERS:,} characters; split it"
        )


def pieces_of(path: Path) -> Iterator[str]:
    """Yield a file's text in pieces.  Raises DataError, with the line, for what is no text."""
    check_file(path)
    done = 0  # line ends so far
    decode: codecs.IncrementalDecoder | None = None
    encoding, plain, text = "utf-8", True, ""
    for piece in chain(_raw_pieces(path), [b""]):
        if decode is None:
            encoding = next((name for mark, name in MARKS if piece.startswith(mark)), "utf-8")
            decode = _decoder(encoding)
        try:
            text = decode.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            good = error.object[: error.start].decode(encoding, errors="ignore")
            line = done + good.count("\n") + 1
            if encoding != "utf-8" or not (plain and good.isascii()):
                raise DataError(
                    f"{path}, line {line}: not {encoding.removesuffix('-sig').upper()} "
                    f"({error.reason}); mend the line, or save the file anew as UTF-8"
                ) from None
            log.warning("%s, line %d: not UTF-8; the file is read as Windows-1252", path, line)
            encoding, decode = "cp1252", _decoder("cp1252")
            text = _as_cp1252(path, decode, error.object, done)
        if "\0" in text:
            raise DataError(
                f"{path}, line {done + text[: text.index(chr(0))].count(chr(10)) + 1}: a NUL "
                "character, so this is no text or damaged; save the file anew as UTF-8"
            )
        plain, done = plain and text.isascii(), done + text.count("\n")
        yield text


def _decoder(encoding: str) -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder(encoding)()


def _as_cp1252(path: Path, decode: codecs.IncrementalDecoder, piece: bytes, done: int) -> str:
    try:
        return decode.decode(piece)
    except UnicodeDecodeError as error:
        line = done + error.object[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}: neither UTF-8 nor Windows-1252; save the file anew as UTF-8"
        ) from None


def _raw_pieces(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file, unpacked if it is gzipped.  Raises DataError."""
    done = 0
    try:
        with path.open("rb") as file, _unpacked(path, file) as stream:
            while piece := stream.read(PIECE_BYTES):
                if not done:
                    _check_mark(path, piece)
                yield piece
                done += len(piece)
    except (OSError, EOFError, zlib.error) as error:
        place = f", after {done:,} bytes" if done else ""
        why = getattr(error, "strerror", None) or f"{error}; damaged or cut off, copy it anew"
        raise DataError(f"{path}{place}: cannot be read ({why})") from None


@contextmanager
def _unpacked(path: Path, file: BinaryIO) -> Generator[BinaryIO]:
    start = file.read(len(GZIP_MARK))
    file.seek(0)
    if start == GZIP_MARK:
        with gzip.open(file) as stream:
            yield cast(BinaryIO, stream)
    elif path.suffix.lower() == ".gz" and start:
        raise DataError(f"{path} is not gzipped; give its name another ending")
    else:
        yield file


def _check_mark(path: Path, piece: bytes) -> None:
    for mark, what in OTHERS.items():
        if piece.startswith(mark):
            raise DataError(f"{path} is {what}")
