"""What a stage must say for itself; importing this costs no torch, so that `--help` is quick."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from exo2ego.data.pairing import Pairing
from exo2ego.model.options import View
from exo2ego.model.parts import ModelParts
from exo2ego.train.options import StageConfig

if TYPE_CHECKING:
    from torch import nn

    from exo2ego.data.batch import Batch
    from exo2ego.train.objective import Terms
    from exo2ego.train.parameters import FreezeTable

Config = TypeVar("Config", bound=StageConfig)


class Stage(ABC, Generic[Config]):
    """One phase of training: what it builds on, what trains, which data, which losses. The loop is elsewhere."""

    name: ClassVar[str]
    """Name in configurations, records and messages."""
    title: ClassVar[str]
    """Name in the paper."""
    view: ClassVar[View]
    """What the language model sees."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    @abstractmethod
    def parents(self) -> tuple[str | None, ...]:
        """Returns the stages whose checkpoints this one accepts; None where it may start from base weights."""

    @property
    @abstractmethod
    def parts(self) -> ModelParts:
        """Returns the optional parts that the model has in this stage."""

    @property
    @abstractmethod
    def pairing(self) -> Pairing:
        """Returns which (clip, exo view) samples make an epoch."""

    @abstractmethod
    def freeze_table(self) -> FreezeTable:
        """Returns what trains, as ordered patterns with learning rate multipliers; rows of absent parts are ignored."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch) -> Terms:
        """Runs the model on a micro-batch and returns the loss terms."""
