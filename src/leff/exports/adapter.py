"""The change that a run of adapters made, as a folder that `peft.PeftModel` loads.

    write_adapter(opened, Path("adapter"))
    PeftModel.from_pretrained(base, "adapter")          # base: what the run began with

The change of each linear module is W after the run less W before it, for every method in the same
way.  Its factors are those of a singular value decomposition, of the rank that the change has:
fedlora's is R, flexlora's and flora's grow with clients and rounds.  A classifier that trained
whole is in the adapter too.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from leff.errors import ConfigError, RunError
from leff.exports.opened import FinishedRun
from leff.exports.probe import difference
from leff.files import whole_folder
from leff.methods.registry import spec_of
from leff.models import family_of, full_state, lora
from leff.models.families import find
from leff.models.kinds import LANGUAGE_KINDS
from leff.models.quiet import quiet
from leff.runs.card import adapter_card, base_name
from leff.seeds import forked

NOISE = 1e-7  # singular values below this share of the weight's norm are fp32's rounding
PROJECTIONS = 32  # of a first try; adapters seldom have a higher rank
CLOSE = 1e-4  # largest difference of a logit, relative to the largest logit


def write_adapter(opened: FinishedRun, out: Path) -> int:
    """Write a run's adapter, its tokenizer and a model card to the folder `out`; return its rank.

    Raises ConfigError if the run trained more than linear modules and a classifier, or none of
    these modules; RunError if peft's model does not give the run's logits.
    """
    if "method.rank" not in spec_of(opened.config.method.name).options:
        raise _no_adapter(opened)
    trained, tokenizer = opened.trained()
    start = opened.start()
    products = changed_products(opened, start, trained)
    rank = max(a.shape[0] for _, a in products.values())
    with quiet(), catch_warnings(), whole_folder(out) as unfinished:
        simplefilter("ignore", FutureWarning)  # of peft to transformers
        _save(opened, start, trained, products, rank, unfinished)
        tokenizer.save_pretrained(unfinished)
        card = adapter_card(opened.config, opened.kind, opened.result, rank)
        (unfinished / "README.md").write_text(card, encoding="utf-8")
        _compare(opened, trained, unfinished)
    return rank


def changed_products(
    opened: FinishedRun, start: nn.Module, trained: nn.Module
) -> dict[str, lora.Product]:
    """Return B (out, R) and A (R, in) of each module that the run changed: W₁ = W₀ + B · A.

    R is the rank of the module's change.  Raises ConfigError if the run changed anything that is
    neither such a module's weight nor the classifier's.
    """
    before, after = full_state(start), full_state(trained)
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    modules = [m for m in lora.target_shapes(start) if f"{m}.weight" in changed]
    heads = tuple(f"{path}." for path in family_of(start).full_tail)
    kept = {f"{module}.weight" for module in modules}
    if any(not name.startswith(heads) for name in changed - kept):
        raise _no_adapter(opened)
    if not modules:
        raise ConfigError(
            f"{opened.folder.path} changed no linear module, so it has no adapter; see --difference"
        )
    return {module: _factors(start, trained, module) for module in modules}


def _no_adapter(opened: FinishedRun) -> ConfigError:
    return ConfigError(
        f"{opened.folder.path} is a run of {opened.config.method.name}, which trains more than "
        "adapters; --merged exports the whole model, --difference what changed"
    )


def _factors(start: nn.Module, trained: nn.Module, module: str) -> lora.Product:
    after = lora.linear_weight(trained, module).double()
    update = after - lora.linear_weight(start, module).double()
    u, s, vt = _largest(update, NOISE * float(lora.linalg.norm(after)))
    root = s.sqrt()
    return (u * root).float(), (root[:, None] * vt).float()


def _largest(matrix: torch.Tensor, least: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return U (out, R), S (R,) and Vᵀ (R, in) of a matrix: its singular values above `least`.

    R is at least 1.  Random projections (Halko et al. 2011) of growing size find them as soon as
    one value of theirs is below `least`.  Only a matrix of high rank is decomposed as a whole.
    """
    size = PROJECTIONS
    while True:
        if 2 * size >= min(matrix.shape):
            u, s, vt = lora.svd(matrix)
            break
        with forked(0):
            u, s, v = torch.svd_lowrank(matrix, q=size, niter=4)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # untyped
        vt = v.t()
        if s[-1] <= least:
            break
        size *= 4
    rank = max(1, int((s > least).sum()))
    return u[:, :rank], s[:rank], vt[:rank]


def _save(
    opened: FinishedRun,
    start: Any,
    trained: nn.Module,
    products: Mapping[str, lora.Product],
    rank: int,
    folder: Path,
) -> None:
    """Put the adapters and the classifier into peft's model of `start`, and save those."""
    from peft import LoraConfig, get_peft_model

    whole = opened.kind not in LANGUAGE_KINDS
    name, on_hub = base_name(opened.config)
    if on_hub:
        start.name_or_path = name  # wherever it was read
    tail = [path for path in family_of(start).full_tail if find(start, path) is not None]
    config = LoraConfig(
        task_type="SEQ_CLS" if whole else "CAUSAL_LM",
        r=rank,
        lora_alpha=rank,
        target_modules=list(products),
        modules_to_save=list(tail) if whole else None,  # peft adds to it
        fan_in_fan_out=any(isinstance(start.get_submodule(m), Conv1D) for m in products),
        base_model_name_or_path=start.name_or_path,
    )
    wrapped: Any = get_peft_model(start, config)
    for module, (b, a) in products.items():
        layer = wrapped.base_model.model.get_submodule(module)
        layer.lora_A["default"].weight.data = _padded(a, (rank, a.shape[1]))
        layer.lora_B["default"].weight.data = _padded(b, (b.shape[0], rank))
    for path in tail if whole else ():
        kept = wrapped.base_model.model.get_submodule(path).modules_to_save["default"]
        kept.load_state_dict(trained.get_submodule(path).state_dict())
    wrapped.save_pretrained(folder, save_embedding_layers=False)  # else the hub is asked


def _padded(factor: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Return the factor with zeros for the ranks that it lacks."""
    padded = torch.zeros(shape)
    padded[: factor.shape[0], : factor.shape[1]] = factor
    return padded


def _compare(opened: FinishedRun, trained: Any, folder: Path) -> None:
    """Raise RunError unless peft's model, read from the folder, gives the run's logits."""
    from peft import PeftModel

    read: Any = PeftModel.from_pretrained(opened.start(), folder)  # pyright: ignore[reportUnknownMemberType]  # untyped
    if (off := difference(trained, read)) > CLOSE:
        raise RunError(
            f"the adapter's logits differ from the run's by {off:.3g} of the largest; use --merged"
        )
