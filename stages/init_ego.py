"""Initialisation of the egocentric branch (Exo2Ego §4.1).

The ego encoder learns first-person video from EgoClip narrations while the language model stays frozen.
The loss is next-token prediction of the narration (VTG).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exo2ego.data.pairing import Pairing
from exo2ego.model.parts import ModelParts
from exo2ego.train.options import StageConfig
from exo2ego.train.stage import Stage
from stages.common import FROZEN_LANGUAGE_MODEL, run_as_command, text_only

if TYPE_CHECKING:
    from torch import nn

    from exo2ego.data.batch import Batch
    from exo2ego.train.objective import Terms
    from exo2ego.train.parameters import FreezeTable


class InitEgoConfig(StageConfig):
    """Initialisation of the ego tower and the connector."""

    train_connector: bool = True
    """The connector is part of the visual encoder and trains with it (not stated in the paper: A2)."""


class InitEgo(Stage[InitEgoConfig]):
    """Trains the ego tower and the connector on narrated first-person clips."""

    name = "init_ego"
    title = "Initialisation, egocentric branch"
    view = "ego_only"
    parents = (None, "init_ego")
    parts = ModelParts()
    pairing: Pairing = "ego"

    def freeze_table(self) -> FreezeTable:
        """Ego tower and connector train; the language model is frozen (Exo2Ego §4.1)."""
        return {
            "model.vision_tower.*": self.config.optim.tower_multiplier,
            "model.connector.*": 1.0 if self.config.train_connector else None,
            "model.fusion.*": None,
            **FROZEN_LANGUAGE_MODEL,
        }

    def losses(self, model: nn.Module, batch: Batch) -> Terms:
        """VTG on x alone."""
        return text_only(model, batch, self.view)


CONFIG = InitEgoConfig

if __name__ == "__main__":
    run_as_command(InitEgo, InitEgoConfig, "stages.init_ego")
