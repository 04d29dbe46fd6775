"""A run's whole model as a folder, and what the run changed as a file.

write_merged(opened, Path("model"), "bfloat16")
write_difference(opened, Path("change.safetensors"))
"""

import shutil
from pathlib import Path
from typing import Literal

import torch

from leff.exports.opened import FinishedRun
from leff.files import whole_file, whole_folder
from leff.models import full_state
from leff.runs.trained import save_model
from leff.wire.tensors import pack_file

Dtype = Literal["float32", "float16", "bfloat16"]


def write_merged(opened: FinishedRun, out: Path, dtype: Dtype = "float32") -> None:
    """Write a run's model, tokenizer and card to the folder `out`, with weights of this type."""
    if dtype == "float32":
        with whole_folder(out) as unfinished:
            shutil.copytree(opened.model_folder, unfinished, dirs_exist_ok=True)
        return
    model, tokenizer = opened.trained()
    card = (opened.model_folder / "README.md").read_text(encoding="utf-8")
    save_model(model.to(getattr(torch, dtype)), tokenizer, card, out)


def write_difference(opened: FinishedRun, out: Path) -> int:
    """Write W after the run less W before it, of every tensor that changed; return their number.

    The file is in the safetensors format.  Added to the base model's tensors of the same names it
    gives the run's model.
    """
    before, after = full_state(opened.start()), full_state(opened.trained()[0])
    changed = {n: t - before[n] for n, t in after.items() if not torch.equal(t, before[n])}
    with whole_file(out) as unfinished:
        pack_file(changed, unfinished)
    return len(changed)
