"""A client's job at a model's real size, with random weights, in a folder.

    write(Path("/tmp/side"), config, "generation", spec, setup, layout, steps=3)

Every layer has the same random weights, so that neither this process nor the disk holds more than
one of them; a client fetches each anew, and cannot tell.
"""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from leff.capacity.rehearsal import examples_of, training_of
from leff.methods.jobs import JobWriter, layout_job
from leff.methods.registry import MethodSpec
from leff.methods.setup import ClientSetup, Layout
from leff.models import blocks, empty_model, short_config
from leff.wire.messages import Job
from leff.wire.parts import PartStore

TINY = 64  # width of the model that a side trains first
DRAWN = 2**20 + 7  # weights that are drawn, and repeated: to draw 10⁹ takes longer than the steps


def write(
    folder: Path,
    config: PretrainedConfig,
    kind: str,
    spec: MethodSpec,
    setup: ClientSetup,
    layout: Layout,
    steps: int,
) -> Job:
    """Write parts and `job.pickle`: a tiny job, the job, and `steps` batches of examples.

    Return the job, which is of this layout.  The tiny one is of the method's first.
    """
    store = PartStore(folder / "parts")
    step = replace(setup.step, batch_size=2, accumulation=1)
    small_setup = replace(setup, rank=1, layers=1, step=step, length=8)
    tiny = tiny_config(config)
    small = spec.stages(empty_model(tiny, kind), small_setup)[0][0]
    jobs = [
        layout_job(
            JobWriter(store, kind, pad_id=0, shell_bits=each.shell_bits),
            random_model(shape, kind),
            each,
            training_of(asked.step),
        )
        for shape, each, asked in ((tiny, small, small_setup), (config, layout, setup))
    ]
    with (folder / "job.pickle").open("wb") as file:
        pickle.dump((*jobs, examples_of(setup, kind, steps)), file)
    return jobs[1]


def tiny_config(config: PretrainedConfig) -> Any:
    """Return the same architecture with two layers of width 64."""
    small: Any = short_config(config, [0, 1])
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    sizes = {"hidden_size": TINY, "intermediate_size": 2 * TINY, "pooler_hidden_size": TINY}
    for name, value in {**sizes, **heads, "vocab_size": 256, "head_dim": TINY // 2}.items():
        if getattr(small, name, None) is not None:
            setattr(small, name, value)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(small, name, 0)
    if getattr(small, "n_inner", None) is not None:
        small.n_inner = 2 * TINY
    return small


@torch.no_grad()
def random_model(config: PretrainedConfig, kind: str) -> Any:
    """Return the config's model with random weights, the same in all of its layers."""
    model: Any = empty_model(config, kind)
    first = blocks(model)[0]
    drawn = torch.randn(DRAWN, generator=torch.Generator().manual_seed(0)) * 0.02
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and not _in_later_layer(model, parameter):
                module._parameters[name] = nn.Parameter(_repeated(drawn, parameter.shape))
    own = dict(first.named_parameters())
    for layer in blocks(model)[1:]:
        for name, _ in list(layer.named_parameters()):
            parent, _, child = name.rpartition(".")
            layer.get_submodule(parent)._parameters[child] = own[name]
    model.tie_weights()
    return model


def _repeated(drawn: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    times = -(-shape.numel() // len(drawn))
    return drawn.repeat(times)[: shape.numel()].reshape(shape)


def _in_later_layer(model: Any, parameter: nn.Parameter) -> bool:
    later = (p for layer in blocks(model)[1:] for p in layer.parameters())
    return any(parameter is each for each in later)
