"""Run a segment of layers alone, with the arguments that the full model gave them (Sec. 3.3).

    trace = capture(model, batch)
    hidden, _ = run_blocks(blocks(model)[2:5], trace.hidden[2], trace, sources=range(2, 5))

Masks, positions and rotary tables belong to a batch, and in some families to a layer.  So each
layer runs with the arguments of its own source layer.  Shapes: B batch, T tokens, D width, H heads.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
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

Arguments = tuple[tuple[Any, ...], dict[str, Any]]  # of a layer, by place and by name
Output = torch.Tensor | tuple[Any, ...]  # the hidden state (B, T, D), alone or first


@dataclass
class Trace:
    """What a forward pass gave each layer.

    `hidden[l]` (B, T, D) is the input of layer l, and `hidden[L]` the output of the last layer.
    `maps[l]` (B, H, T, T) is layer l's attention map, if asked for.
    """

    family: Family
    hidden: list[torch.Tensor] = field(default_factory=list[torch.Tensor])
    arguments: list[Arguments] = field(default_factory=list[Arguments])
    maps: list[torch.Tensor] = field(default_factory=list[torch.Tensor])
    after_first: Callable[[torch.Tensor], torch.Tensor] | None = None


@contextmanager
def eager_attention(*modules: nn.Module) -> Generator[None]:
    """Let models, or bare layers, use the attention that returns its maps during the body."""
    owned = (getattr(part, "config", None) for module in modules for part in module.modules())
    configs: dict[int, Any] = {id(c): c for c in owned if hasattr(c, "_attn_implementation")}
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

    Labels are ignored.  The model should be in eval mode, because a replay draws new dropout.
    Attention maps need `eager_attention`.  ModelError if something unknown runs between two layers,
    because a replay would then be wrong.
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
        body(**inputs, **uncached(body))  # a cache among the arguments would break the replay
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

    def after(_: nn.Module, __: Any, output: Output) -> None:
        outputs.append(_hidden_of(output))

    stack.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)
    stack.callback(block.register_forward_hook(after).remove)
    if attention:
        _keep_map(stack, block, trace.family, trace.maps)


def _record_between(stack: ExitStack, module: nn.Module, trace: Trace) -> None:
    def before(_: nn.Module, args: tuple[Any, ...]) -> None:
        first, _hidden, *rest = args  # the first layer's input and output, and anything else
        trace.after_first = lambda hidden: module(first, hidden, *rest)

    stack.callback(module.register_forward_pre_hook(before).remove)


def _keep_map(stack: ExitStack, block: nn.Module, family: Family, maps: list[torch.Tensor]) -> None:
    module = find(block, family.attention) if family.attention else None
    if module is None:
        raise ModelError(f"{family.name} has no known attention module; distil without maps")

    def after(_: nn.Module, __: Any, output: Output) -> None:
        attention_map = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(attention_map, torch.Tensor):
            raise ModelError(
                f"{family.name} returned no attention map; run inside eager_attention(model)"
            )
        maps.append(attention_map)

    stack.callback(module.register_forward_hook(after).remove)


def _asking(family: Family, kwargs: dict[str, Any], attention: bool) -> dict[str, Any]:
    return {**kwargs, "output_attentions": True} if attention and family.attention_flag else kwargs


def _hidden_of(output: Output) -> torch.Tensor:
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

    Returns the last layer's output (B, T, D), and the layers' attention maps (B, H, T, T) if asked
    for, which needs `eager_attention`.  Gradients flow.  `first` means that these layers open the
    model; by default they do if the first source is layer 0.  It matters only to a family that runs
    a module after its first layer.
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
