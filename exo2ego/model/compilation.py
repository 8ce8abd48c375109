"""torch.compile block by block, in place: names of parameters, checkpoints and hooks stay what they are."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from exo2ego.model.recomputation import Recomputing


def compile_blocks(module: nn.Module, backend: str = "inductor") -> None:
    """Compiles the repeated blocks of a tower, connector, mapper or language model.

    Of our own modules these are the blocks that `Recomputing.run` calls, whatever container holds them: a `Sequential`
    that is iterated over never runs itself.
    """
    if isinstance(module, Recomputing):
        module.compile_backend = backend
        return
    for layer in layers_of(module):
        layer.compile(backend=backend)


def layers_of(module: nn.Module) -> Iterator[nn.Module]:
    """Yields the outermost layers of a model of transformers."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from layers_of(child)
