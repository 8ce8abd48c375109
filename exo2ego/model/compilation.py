"""torch.compile block by block, in place: names of parameters, checkpoints and hooks stay what they are."""

from __future__ import annotations

from collections.abc import Iterator

from timm.models.regnet import RegStage
from torch import nn

from exo2ego.model.recomputation import Recomputing


def compile_blocks(module: nn.Module, backend: str = "inductor") -> int:
    """Compiles the repeated blocks of a tower, connector, mapper or language model; returns how many there are."""
    blocks = list(blocks_of(module))
    for block in blocks:
        block.compile(backend=backend)
    return len(blocks)


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """Yields the outermost layers of transformers' models, and the units of recomputation of our own modules."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        elif isinstance(child, RegStage):
            yield from child.children()
        elif isinstance(module, Recomputing) and next(child.parameters(), None) is not None:
            yield child
        elif not isinstance(module, Recomputing):
            yield from blocks_of(child)
