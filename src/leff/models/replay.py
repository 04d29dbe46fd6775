"""Run a segment of layers alone, with the arguments that the full model gave them (Sec. 3.3).

    trace = capture(model, batch)
    hidden, _ = run_blocks(blocks(model)[2:5], trace.hidden[2], trace, sources=range(2, 5))

Masks, positions and rotary tables belong to a batch, and in some families to a layer, so each
layer is run with what its own source layer got.  Shapes: B batch, T tokens, D width, H heads.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from leff.errors import ModelError
from leff.models.detect import family_of
from leff.models.families import Family, find
from leff.models.forward import uncached
from leff.models.states import blocks


@dataclass
class Trace:
    """What a forward pass gave each layer.

    `hidden[l]` is what layer l read, `hidden[L]` what the last one wrote, each (B, T, D);
    `maps[l]` is layer l's attention map (B, H, T, T), if asked for.
    """

    family: Family
    hidden: list[torch.Tensor] = field(default_factory=list)
    arguments: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    maps: list[torch.Tensor] = field(default_factory=list)
    after_first: Callable[[torch.Tensor], torch.Tensor] | None = None


@contextmanager
def eager_attention(*modules: nn.Module) -> Iterator[None]:
    """Switch models, or bare layers, to the attention that returns its maps, and back after it."""
    found = (getattr(part, "config", None) for module in modules for part in module.modules())
    configs: dict[int, Any] = {id(c): c for c in found if hasattr(c, "_attn_implementation")}
    before = [(config, config._attn_implementation) for config in configs.values()]
    try:
        for config, _ in before:
            config._attn_implementation = "eager"
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation = implementation


def capture(
    model: nn.Module,
    batch: Mapping[str, torch.Tensor],
    attention: bool = False,
    gradients: bool = False,
) -> Trace:
    """Run the model without its head on a batch, and return what each of its layers was given.

    Labels are ignored.  The model should be in eval mode, since a replay draws its own dropout; for
    attention maps it has to be in `eager_attention`.  ModelError if something unknown runs between
    two layers, since a replay would then be wrong.
    """
    trace = Trace(family_of(model))
    body: Any = getattr(model, "base_model", model)
    inputs = {name: value for name, value in batch.items() if name not in ("label", "labels")}
    outputs: list[torch.Tensor] = []
    with ExitStack() as stack:
        stack.enter_context(nullcontext() if gradients else torch.no_grad())
        for block in blocks(model):
            _record(stack, block, trace, outputs, attention)
        if trace.family.after_first and (between := find(model, trace.family.after_first)):
            _record_between(stack, between, trace)
        body(**inputs, **uncached(body))  # a captured cache would break the replay
    trace.hidden.append(outputs[-1])
    for layer, output in enumerate(outputs):
        known = layer == 0 and trace.after_first is not None
        if not known and trace.hidden[layer + 1] is not output:
            raise ModelError(
                f"{trace.family.name} changes the hidden state between layers {layer} and "
                f"{layer + 1}, so its layers cannot be run apart; use a context without distilling"
            )
    return trace


def _record(
    stack: ExitStack,
    block: nn.Module,
    trace: Trace,
    outputs: list[torch.Tensor],
    attention: bool,
) -> None:
    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kwargs = dict(kwargs)
        hidden = args[0] if args else kwargs.pop("hidden_states")
        trace.hidden.append(hidden)
        trace.arguments.append((args[1:], kwargs))
        kwargs = _asking(trace.family, kwargs, attention)
        return (hidden, *args[1:]), kwargs

    def after(_: nn.Module, __: Any, output: Any) -> None:
        outputs.append(_hidden_of(output))

    stack.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)
    stack.callback(block.register_forward_hook(after).remove)
    if attention:
        _keep_map(stack, block, trace.family, trace.maps)


def _record_between(stack: ExitStack, module: nn.Module, trace: Trace) -> None:
    def before(_: nn.Module, args: tuple[Any, ...]) -> None:
        first, _hidden, *rest = args  # the model's first hidden state, the first layer's output
        trace.after_first = lambda hidden: module(first, hidden, *rest)

    stack.callback(module.register_forward_pre_hook(before).remove)


def _keep_map(stack: ExitStack, block: nn.Module, family: Family, maps: list[Any]) -> None:
    module = find(block, family.attention) if family.attention else None
    if module is None:
        raise ModelError(f"{family.name} has no known attention module; distil without maps")

    def after(_: nn.Module, __: Any, output: Any) -> None:
        kept = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(kept, torch.Tensor):
            raise ModelError(
                f"{family.name} returned no attention map; run inside eager_attention(model)"
            )
        maps.append(kept)

    stack.callback(module.register_forward_hook(after).remove)


def _asking(family: Family, kwargs: dict[str, Any], attention: bool) -> dict[str, Any]:
    return {**kwargs, "output_attentions": True} if attention and family.attention_flag else kwargs


def _hidden_of(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def run_blocks(
    layers: Sequence[nn.Module] | nn.ModuleList,
    hidden: torch.Tensor,
    trace: Trace,
    sources: Sequence[int],
    attention: bool = False,
    first: bool | None = None,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Run layers on a hidden state (B, T, D), each with the arguments of its source layer.

    Returns what the last one wrote (B, T, D), and their attention maps (B, H, T, T) if asked for
    (inside `eager_attention`).  Gradients flow.  `first` says that these layers open the model,
    which matters to a family that does something after its first layer; by default they do if
    the first source is layer 0.
    """
    first = sources[0] == 0 if first is None and len(sources) else bool(first)
    maps: list[torch.Tensor] = []
    for index, (layer, source) in enumerate(zip(layers, sources, strict=True)):
        args, kwargs = trace.arguments[source]
        with ExitStack() as stack:
            if attention:
                _keep_map(stack, layer, trace.family, maps)
            hidden = _hidden_of(layer(hidden, *args, **_asking(trace.family, kwargs, attention)))
        if first and index == 0 and trace.after_first is not None:
            hidden = trace.after_first(hidden)
    return hidden, maps
