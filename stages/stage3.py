"""Stage 3: Student Self-Practice (Exo2Ego §4.4).

The teacher is gone. From x and F(x) the model learns to follow the instructions of EgoIT: LoRA adapters in the
language model, the ego encoder and F train with next-token prediction of the answer (VTG).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exo2ego.data.pairing import Pairing
from exo2ego.model.options import View
from exo2ego.model.parts import LoraOptions, ModelParts
from exo2ego.train.options import StageConfig
from exo2ego.train.stage import Stage
from stages.common import FROZEN_LANGUAGE_MODEL, run_as_command, text_only

if TYPE_CHECKING:
    from torch import nn

    from exo2ego.data.batch import Batch
    from exo2ego.train.objective import Terms
    from exo2ego.train.parameters import FreezeTable


class Stage3Config(StageConfig):
    """Student Self-Practice."""

    lora: LoraOptions | None = LoraOptions()
    """Adapters on the language model; null freezes it (Exo2Ego Table 7, row 2)."""
    train_connector: bool = True
    """The connector trains with the ego encoder (not stated in the paper: A2)."""
    train_ego_tower: bool = True
    """False freezes the ego tower (Exo2Ego Table 8, row 3)."""


class Stage3(Stage[Stage3Config]):
    """Trains LoRA, the ego tower, the connector and F on instructions."""

    name = "stage3"
    title = "Student Self-Practice"
    pairing: Pairing = "ego"

    @property
    def view(self) -> View:  # type: ignore[override]
        """x and F(x); x alone for the single-tower baseline without a mapper."""
        return "ego" if self.parts.mapper else "ego_only"

    @property
    def parents(self) -> tuple[str | None, ...]:
        """Stage 2; the baseline without a mapper has no stage 2 and starts from the initialised ego branch."""
        return ("stage2",) if self.parts.mapper else ("init_ego",)

    @property
    def parts(self) -> ModelParts:
        """F and the adapters; teacher and G stay behind (A19)."""
        return ModelParts(mapper=self.config.model.mapper.kind != "none", lora=self.config.lora)

    def freeze_table(self) -> FreezeTable:
        """Adapters, ego tower, connector and F train; the language model's own weights are frozen (Exo2Ego §4.4)."""
        adapters: dict[str, float | None] = {"model.language_model.*lora_*": 1.0} if self.config.lora else {}
        return {
            **adapters,
            "model.vision_tower.*": self.config.optim.tower_multiplier if self.config.train_ego_tower else None,
            "model.connector.*": 1.0 if self.config.train_connector else None,
            "model.connector_exo.*": None,
            "model.mapper_f.*": 1.0,
            "model.fusion.*": 1.0,
            **FROZEN_LANGUAGE_MODEL,
        }

    def losses(self, model: nn.Module, batch: Batch) -> Terms:
        """VTG on the answer."""
        return text_only(model, batch, self.view)


CONFIG = Stage3Config

if __name__ == "__main__":
    run_as_command(Stage3, Stage3Config, "stages.stage3")
