"""Stage 1: Teacher Self-Preparation (Exo2Ego §4.2).

The exocentric encoder (the teacher) adapts to Ego-ExoClip: the language model is frozen, the exo encoder is
fine-tuned with next-token prediction (VTG) on every exocentric view of every narrated clip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

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


class Stage1Config(StageConfig):
    """Teacher Self-Preparation."""

    pairing: Literal["all_pairs", "one_view"] = "all_pairs"
    """all_pairs: every exo view of every clip, 1.1M samples (Exo2Ego Table 1); one_view: one per clip and epoch."""
    train_connector: bool = True
    """The connector follows the encoder that trains (not stated in the paper: A2)."""

    @model_validator(mode="after")
    def _own_connector_trains(self) -> Stage1Config:
        if self.model.connector.sharing == "per_branch" and not self.train_connector:
            raise ValueError("a connector of its own for exo video must train here: set train_connector=true")
        return self


class Stage1(Stage[Stage1Config]):
    """Trains the exo tower and its connector on exocentric clips."""

    name = "stage1"
    title = "Teacher Self-Preparation"
    view = "exo"
    parents = ("init_ego",)
    parts = ModelParts(teacher=True)

    @property
    def pairing(self) -> Pairing:
        """Returns the configured pairing."""
        return self.config.pairing

    def freeze_table(self) -> FreezeTable:
        """Exo tower and its connector train; the ego tower waits, the language model is frozen (Exo2Ego §4.2)."""
        trains = 1.0 if self.config.train_connector else None
        shared = self.config.model.connector.sharing == "shared"
        return {
            "model.teacher_tower.*": self.config.optim.tower_multiplier,
            "model.connector_exo.*": trains,
            "model.connector.*": trains if shared else None,
            "model.vision_tower.*": None,
            "model.fusion.*": None,
            **FROZEN_LANGUAGE_MODEL,
        }

    def losses(self, model: nn.Module, batch: Batch) -> Terms:
        """VTG on y."""
        return text_only(model, batch, self.view)


CONFIG = Stage1Config

if __name__ == "__main__":
    run_as_command(Stage1, Stage1Config, "stages.stage1")
