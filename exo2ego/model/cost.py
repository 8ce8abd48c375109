"""What a training step costs, counted from a forward pass on the meta device: seconds for 8 B parameters, no memory.

The real forward of a model runs on tensors that have shapes and no content. Every matrix product is counted where it is
called, where it is still known which of its inputs need a gradient: a product costs its forward pass once, once more
for the gradient of each such input. Attention counts in full (no causal halving), element-wise work not at all: the
convention of PaLM and llm-foundry. Bytes are those that autograd keeps, each storage once.
"""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from exo2ego.model.operations import ATTENTION, COUNTED, IN_FLOAT32, factors, flops_of

LOSSES = "losses"
"""Part of everything outside the named modules."""
ADAPTERS = "lora"
"""Part of the low-rank adapters, wherever they sit."""


@dataclass
class PartCost:
    """Cost of one part for the traced micro-batch."""

    forward_flops: float = 0.0
    model_flops: float = 0.0
    """Forward and backward without recomputation."""
    recomputed_flops: float = 0.0
    """Forward work that checkpointing does a second time."""
    kept_bytes: int = 0
    """Activations that live from the forward to the backward pass."""


@dataclass
class Trace:
    """What one forward pass of a micro-batch costs, by part, and the most memory that it and its backward pass hold."""

    parts: dict[str, PartCost]
    input_bytes: int
    """Pixels of the micro-batch."""
    weight_copies_bytes: int
    """Low-precision copies of trained weights, alive together at the end of the forward pass (autocast's cache)."""
    unit_bytes: int
    """Largest recomputed unit: its activations and weight copies, while the backward pass is in it."""
    gradient_bytes: int
    """Largest set of activation gradients that one operation's backward pass holds."""
    peak_bytes: int
    """Inputs, activations, copies and activation gradients at the worst moment of both passes."""

    @property
    def kept_bytes(self) -> int:
        """Returns all activations kept for the backward pass."""
        return sum(part.kept_bytes for part in self.parts.values())

    def flops(self, kind: str) -> float:
        """Returns the sum over the parts of `forward_flops`, `model_flops` or `recomputed_flops`."""
        return float(sum(getattr(part, kind) for part in self.parts.values()))


def trace_cost(
    model: nn.Module,
    run: Callable[[], Any],
    *,
    part_of: dict[str, str],
    inputs: Sequence[Tensor] = (),
    precision: str = "fp32",
) -> Trace:
    """Calls `run`, one forward pass of `model` on the meta device, and returns its cost by part.

    `part_of` names the modules that make a part; checkpointing is taken as the model is set. With `precision` bf16 the
    casts are those of `torch.autocast` on CUDA. Index tensors (ids, labels, masks) stay on the CPU with real content.
    """
    tracer = _Tracer(model, inputs, precision)
    with tracer.on(part_of), tracer:
        kept = run()  # the graph lives as long as its outputs
        trace = tracer.result()
    del kept
    return trace


class _Kept(NamedTuple):
    """A storage that waits for the backward pass, from a moment of the forward pass on."""

    moment: int
    identity: int
    part: str


class _Packed:
    """A tensor that the graph keeps; it is gone when the graph is."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@dataclass
class _Unit:
    """One call of a block that is computed again in the backward pass."""

    outside: set[int]
    """Storages that it was given."""
    flops: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    needed: dict[str, float] = field(default_factory=dict)
    """What was computed before the last tensor was saved: recomputation stops there."""
    packs: int = 0
    saved: set[int] = field(default_factory=set)
    saved_bytes: int = 0


class _Attention(torch.autograd.Function):
    """What a fused attention kernel keeps: query, key, value, result and one number per query."""

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        heads, length = query.shape[-3:-1]
        result = query.new_empty((*query.shape[:-3], length, heads, value.shape[-1])).transpose(-3, -2)
        context.save_for_backward(query, key, value, result, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return result

    @staticmethod
    def backward(context: Any, *gradients: Any) -> Any:
        raise NotImplementedError("the cost is counted from a forward pass alone")


class _Tracer(TorchFunctionMode):
    def __init__(self, model: nn.Module, inputs: Sequence[Tensor], precision: str) -> None:
        super().__init__()
        self.model = model
        self.lowers = precision == "bf16"
        self.parts: dict[str, PartCost] = defaultdict(PartCost)
        self.stack = [LOSSES]
        self.moment = 0
        self.unit: _Unit | None = None
        self.storages: dict[int, Any] = {}  # held, so that no identity is used twice
        self.packed: list[tuple[weakref.ref[_Packed], _Kept]] = []
        self.held: list[_Kept] = []  # inputs of units
        self.passing: list[tuple[int, int]] = []  # moment, bytes that its backward pass holds beside what is kept
        self.copies: dict[int, Tensor] = {}
        self.not_activations = {self._identity(tensor) for tensor in (*model.parameters(), *model.buffers(), *inputs)}
        self.input_bytes = sum(tensor.untyped_storage().nbytes() for tensor in inputs)
        self.adapters = {id(weight) for name, weight in model.named_parameters() if "lora_" in name}
        self.unit_bytes = 0
        self.gradient_bytes = 0

    # ---- where we are

    @contextmanager
    def on(self, part_of: dict[str, str]) -> Iterator[None]:
        """Follows the parts and the checkpointed blocks of the model."""
        modules = dict(self.model.named_modules())
        handles = []
        for name, part in part_of.items():
            if name in modules:
                handles += [
                    modules[name].register_forward_pre_hook(partial(self._enter, part)),
                    modules[name].register_forward_hook(self._leave),
                ]
        blocks = [module for module in modules.values() if hasattr(module, "_gradient_checkpointing_func")]
        functions = [vars(module).get("_gradient_checkpointing_func") for module in blocks]
        for module in blocks:
            module._gradient_checkpointing_func = self._run_unit
        try:
            with saved_tensors_hooks(self._pack, _unpack):
                yield
        finally:
            for handle in handles:
                handle.remove()
            for module, function in zip(blocks, functions, strict=True):
                if function is None:
                    del module._gradient_checkpointing_func
                else:
                    module._gradient_checkpointing_func = function

    def _enter(self, part: str, *_: Any) -> None:
        self.stack.append(part)

    def _leave(self, *_: Any) -> None:
        self.stack.pop()

    # ---- what is kept

    def _identity(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        self.storages[storage._cdata] = storage
        return int(storage._cdata)

    def _kept(self, tensor: Tensor, part: str) -> _Kept:
        self.moment += 1
        return _Kept(self.moment, self._identity(tensor), part)

    def _pack(self, tensor: Tensor) -> _Packed:
        packed = _Packed(tensor)
        self.packed.append((weakref.ref(packed), self._kept(tensor, self.stack[-1])))
        return packed

    def _pack_in_unit(self, tensor: Tensor) -> Tensor:
        unit = self.unit
        assert unit is not None
        identity = self._identity(tensor)
        unit.packs += 1
        unit.needed = dict(unit.flops)
        if identity not in unit.saved | unit.outside | self.not_activations:
            unit.saved.add(identity)
            unit.saved_bytes += self.storages[identity].nbytes()
        return tensor

    def _run_unit(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Runs a block as checkpointing does: its inputs are kept, what it saves inside is not."""
        bound = (function.args, function.keywords) if isinstance(function, partial) else ()
        leaves = tree_leaves((arguments, keywords, bound))
        given = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_meta]
        unit = self.unit = _Unit(outside={self._identity(tensor) for tensor in given})
        elsewhere, self.passing = self.passing, []
        with saved_tensors_hooks(self._pack_in_unit, _identity):
            result = function(*arguments, **keywords)
        self.unit = None
        inside, self.passing = self.passing, elsewhere
        if not unit.packs:  # nothing in it needs a gradient
            return result
        self.held += [self._kept(tensor, self.stack[-1]) for tensor in given]
        for part, flops in unit.needed.items():
            self.parts[part].recomputed_flops += flops
        self.unit_bytes = max(self.unit_bytes, unit.saved_bytes)
        self.passing.append((self.moment, max((size for _, size in inside), default=unit.saved_bytes)))
        return result

    def _bytes(self, identities: set[int]) -> int:
        return sum(self.storages[identity].nbytes() for identity in identities)

    # ---- what is computed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.to, Tensor.bool) and not args[0].is_meta and _is_index(args[0]):
            args, kwargs = (args[0], *(a for a in args[1:] if not _is_meta_device(a))), dict(kwargs)
            if _is_meta_device(kwargs.get("device")):
                del kwargs["device"]
            return func(*args, **kwargs)
        args, kwargs = self._on_one_device(func, args, kwargs)
        if self.lowers and func in COUNTED:
            args, kwargs = tree_map_only(Tensor, self._lower, (args, kwargs))
        elif self.lowers and func in IN_FLOAT32:
            args, kwargs = tree_map_only(Tensor, _raise, (args, kwargs))
        operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if func is ATTENTION:
            self._count(func, operands, None)  # before it saves its result: it is always run again as a whole
            result = _Attention.apply(*operands[:3])
        elif func is functional.dropout and args[0].is_meta:
            result = _dropout(*args, **kwargs)
        else:
            result = func(*args, **kwargs)
        if func in COUNTED and func is not ATTENTION:
            self._count(func, operands, result)
        if isinstance(result, Tensor) and result.requires_grad and result.is_meta:
            self._note_gradients(result, operands)
        return result

    def _note_gradients(self, result: Tensor, operands: Sequence[Tensor]) -> None:
        """Notes what an operation's backward pass holds: the gradients of its result and of its inputs."""
        activations = [a for a in operands if a.requires_grad and not isinstance(a, nn.Parameter)]
        if any(a.untyped_storage()._cdata == result.untyped_storage()._cdata for a in activations):
            return  # a view
        held = result.nbytes + sum(a.nbytes for a in activations)
        self.gradient_bytes = max(self.gradient_bytes, held)
        self.passing.append((self.moment, held + (0 if self.unit is None else self.unit.saved_bytes)))

    @staticmethod
    def _on_one_device(func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        mixed = any(t.is_meta for t in tensors) and any(not t.is_meta and t.ndim for t in tensors)
        if not mixed or func in (Tensor.__getitem__, Tensor.__setitem__):
            return args, kwargs
        moved = tree_map_only(Tensor, lambda t: t if t.is_meta else t.to("meta"), (args, kwargs))
        return moved[0], moved[1]

    def _lower(self, tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.float32:
            return tensor
        if not isinstance(tensor, nn.Parameter):
            return tensor.to(torch.bfloat16)
        if id(tensor) not in self.copies:
            self.copies[id(tensor)] = tensor.to(torch.bfloat16)
        return self.copies[id(tensor)]

    def _count(self, func: Any, operands: Sequence[Tensor], result: Tensor | None) -> None:
        flops = flops_of(func, operands, result)
        is_adapter = bool(self.adapters) and any(self._is_adapter(operand) for operand in operands)
        part = ADAPTERS if is_adapter else self.stack[-1]
        factor = 1
        if torch.is_grad_enabled():
            needing = sum(operand.requires_grad for operand in factors(func, operands))
            factor += 2 * bool(needing) if func is ATTENTION else needing
        self.parts[part].forward_flops += flops
        self.parts[part].model_flops += factor * flops
        if self.unit is not None:
            self.unit.flops[part] += flops

    def _is_adapter(self, tensor: Tensor) -> bool:
        return id(tensor) in self.adapters or any(self.copies.get(key) is tensor for key in self.adapters)

    # ---- the sum

    def result(self) -> Trace:
        """Adds up what is still alive."""
        copies = {self._identity(copy) for copy in self.copies.values()}
        waiting = sorted(self.held + [kept for packed, kept in self.packed if packed() is not None])
        first: dict[int, _Kept] = {}
        for kept in waiting:
            if kept.identity not in self.not_activations:
                first.setdefault(kept.identity, kept)
        for identity, kept in first.items():
            if identity not in copies:
                self.parts[kept.part].kept_bytes += self.storages[identity].nbytes()
        copies_bytes = self._bytes(copies)
        kept_bytes = self._bytes(set(first) - copies)
        return Trace(
            parts=dict(self.parts),
            input_bytes=self.input_bytes,
            weight_copies_bytes=copies_bytes,
            unit_bytes=self.unit_bytes,
            gradient_bytes=self.gradient_bytes,
            peak_bytes=self.input_bytes + max(kept_bytes + copies_bytes, self._backward_peak(list(first.values()))),
        )

    def _backward_peak(self, waiting: list[_Kept]) -> int:
        """Returns the most that the backward pass holds: it goes back in time and lets go of what it has passed."""
        moments = [kept.moment for kept in waiting]
        sums = [0, *accumulate(self.storages[kept.identity].nbytes() for kept in waiting)]
        return max((sums[bisect_right(moments, moment)] + size for moment, size in self.passing), default=0)


def _unpack(packed: _Packed) -> Tensor:
    return packed.tensor


def _identity(tensor: Tensor) -> Tensor:
    return tensor


def _is_index(tensor: Tensor) -> bool:
    return not tensor.is_floating_point()


def _is_meta_device(value: Any) -> bool:
    return (isinstance(value, torch.device) and value.type == "meta") or value == "meta"


def _raise(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def _dropout(value: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Drops as CUDA's kernel does: it keeps a mask of one byte per element."""
    if not training or not p:
        return value
    return torch.native_dropout(value, p, True)[0]
