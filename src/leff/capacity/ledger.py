"""Counts the bytes of live tensors while code runs on tensors without storage.

    with Ledger() as ledger:
        weight = ledger.empty((512, 512), torch.float32).requires_grad_()      # no values
        (weight @ weight).sum().backward()
    ledger.peak

The code is the real one: forward, backward and optimizer.  Only the numbers are missing.  PyTorch's
`FakeTensorMode` keeps shapes, types and kernels, but no storage.  Integers and booleans that a
model makes from its inputs (positions, masks, labels) are real, since code branches on them.  A
number read from a tensor without values is 1; a boolean is False.
"""

import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READ = torch.ops.aten._local_scalar_dense.default
DEVICE = torch.ops.prim.device.default  # more than half of all dispatched calls
NEW = ("empty", "zeros", "ones", "full", "empty_strided", "rand", "randn")
PYTHON_KERNELS = {  # on the CPU these are Python functions, and their own tensors count
    "bitsandbytes.optimizer_update_8bit_blockwise.default": "_optimizer_update_8bit_blockwise_cpu",
    "bitsandbytes.optimizer_update_32bit.default": "_optimizer_update_32bit_cpu",
}


class Ledger(TorchDispatchMode):
    """Counts each storage's bytes from the operation that makes it until it is freed."""

    def __init__(self) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]  # torch's own
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.held = 0
        self.peak = 0
        self.before_backward: int | None = None  # held when the first backward pass began
        self._known: dict[int, int] = {}  # storage -> its bytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is DEVICE and isinstance(args[0], FakeTensor):
            return args[0].fake_device
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if self.before_backward is None and torch._C._current_graph_task_id() != -1:  # pyright: ignore[reportPrivateUsage]
            self.before_backward = self.held
        valueless = any(isinstance(each, FakeTensor) for each in given)
        if valueless and func is READ:
            return args[0].dtype != torch.bool and args[0].dtype.is_floating_point
        if valueless and str(func) in PYTHON_KERNELS:
            with self:
                return _python_kernel(str(func))(*args, **kwargs)
        with self.fake if valueless or _new_floats(func, given, kwargs) else nullcontext():
            out = func(*args, **kwargs)
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.device.type != "meta":
                self.note(leaf)
        return out

    def note(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage until it is freed.  A known storage is not counted again."""
        storage = tensor.untyped_storage()
        key = storage._cdata  # pyright: ignore[reportPrivateUsage]
        if key in self._known:
            return
        self._known[key] = storage.nbytes()
        self.held += storage.nbytes()
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.held -= self._known.pop(key, 0)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor without values, and count it."""
        with self.fake:
            tensor = torch.empty(tuple(shape), dtype=dtype)
        self.note(tensor)
        return tensor


def _new_floats(func: Any, given: list[torch.Tensor], kwargs: dict[str, Any]) -> bool:
    """Return whether an operation makes a tensor of floats, or a large one, from no tensor."""
    device = kwargs.get("device") or "cpu"
    if given or func.namespace != "aten" or torch.device(device).type == "meta":
        return False
    name, dtype = func.overloadpacket.__name__, kwargs.get("dtype") or torch.get_default_dtype()
    return name == "randperm" or (name in NEW and dtype.is_floating_point)


def _python_kernel(name: str) -> Any:
    from bitsandbytes.backends.cpu import ops

    return getattr(ops, PYTHON_KERNELS[name])
