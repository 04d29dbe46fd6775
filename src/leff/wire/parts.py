"""Parts of models by content: what a job refers to and a client fetches.

    store = PartStore(folder)
    part = store.put({"weight": tensor})     # Part(digest, size_bytes)
    store.get(part)["weight"]                # equal to the bit

The parts are on disk, so memory does not grow with the number of different client models.  A
digest may come from outside, and it becomes a file's name.  So it is looked at first.
"""

import hashlib
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from leff.errors import RunError, shown
from leff.wire.messages import Part
from leff.wire.tensors import pack, part_of, unpack_file


class PartStore:
    """A folder of safetensors files named by the SHA-256 of their bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, tensors: Mapping[str, torch.Tensor]) -> Part:
        """Store tensors, unless their file is here and complete, and return their part."""
        payload = pack(tensors)
        part = part_of(payload)
        path = self.folder / part.digest
        if not path.exists() or path.stat().st_size != part.size_bytes:
            self.folder.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".new")
            unfinished.write_bytes(payload)
            unfinished.replace(path)
        return part

    def get(self, part: Part) -> dict[str, torch.Tensor]:
        """Return a part's tensors, on the CPU.

        RunError if the part's digest or size cannot be one, or if the file is missing or was
        changed.
        """
        path = self.folder / checked_digest(part)
        if not path.is_file():
            raise RunError(f"part {path} is missing; resume the run to make it again")
        if path.stat().st_size == part.size_bytes:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == part.digest:
                    return unpack_file(path)
        raise RunError(f"part {path} was changed on disk; remove it and resume the run")

    def keep(self, digests: Collection[str]) -> None:
        """Delete every part whose digest is not among these."""
        for path in list(self.folder.glob("*")):
            if path.name not in digests:
                path.unlink()


def checked_digest(part: Part) -> str:
    """Return a part's digest.

    RunError unless it is 64 lowercase hexadecimal digits and the size is a whole number from 1 up.
    """
    digest, size = part.digest, part.size_bytes
    if type(digest) is not str or not re.fullmatch("[0-9a-f]{64}", digest):
        raise RunError(
            f"a part's digest must be 64 lowercase hexadecimal digits, got {shown(digest)}"
        )
    if type(size) is not int or size < 1:
        raise RunError(f"the size of part {digest} must be a whole number, got {shown(size)}")
    return digest
