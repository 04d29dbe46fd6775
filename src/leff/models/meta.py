"""Models without weights: real modules and buffers, and parameters on the meta device.

    empty_model(GPT2Config(), "generation")      # 124 million parameters, no bytes

`torch.device("meta")` would also move the buffers (`inv_freq`, `position_ids`), which are in no
checkpoint.  Patching `nn.Module` would affect other threads.  Only weights are made with
`torch.empty`, so this function alone is redirected, and in this thread alone.
"""

import copy
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import PretrainedConfig, PreTrainedModel

from leff.models.kinds import model_class, name_loss

# Those of transformers stand in the place of torch's while a model's weights are initialised.
INITIALISERS = ("torch.nn.init", "transformers.initialization")


class _EmptyOnMeta(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty:
            kwargs = {**kwargs, "device": "meta"}
        tensor = kwargs.get("tensor", args[0] if args else None)
        if getattr(func, "__module__", "") in INITIALISERS and tensor.is_meta:
            return tensor  # there is nothing to fill, and torch takes long to see it
        return func(*args, **kwargs)


def empty_model(
    config: PretrainedConfig, kind: str, attn_implementation: str | None = None
) -> PreTrainedModel:
    """Return the config's model for a kind of task, with every parameter on the meta device.

    The config is copied.  ModelError if the architecture cannot do this kind of task.
    """
    options: dict[str, Any] = {"trust_remote_code": False}
    if attn_implementation:
        options["attn_implementation"] = attn_implementation
    auto = model_class(config, kind)
    with _EmptyOnMeta():
        model = auto.from_config(copy.deepcopy(config), dtype=torch.float32, **options)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and not parameter.is_meta:  # a norm's torch.ones
                module._parameters[name] = nn.Parameter(parameter.to("meta"))
    model.tie_weights()
    name_loss(model, kind)
    return model
