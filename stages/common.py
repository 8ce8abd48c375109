"""What the stage files share: the command line of a stage and the pieces of their freeze tables."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

from exo2ego.command_line import RunOptions, run_configured
from exo2ego.train.options import StageConfig
from exo2ego.train.stage import Stage

if TYPE_CHECKING:
    from torch import nn

    from exo2ego.data.batch import Batch
    from exo2ego.model.modeling import Exo2EgoOutput
    from exo2ego.model.options import View
    from exo2ego.train.objective import Term, Terms

Config = TypeVar("Config", bound=StageConfig)

FROZEN_LANGUAGE_MODEL: dict[str, float | None] = {"model.language_model.*": None, "lm_head.*": None}


def run_as_command(stage: type[Stage[Config]], config_class: type[Config], module: str) -> None:
    """Runs a stage from the command line and exits with its code."""

    def action(config: Config, options: RunOptions) -> int:
        from exo2ego.train.run import run_stage  # torch is imported only when something is to be trained

        return run_stage(stage(config), options)

    description: str = (sys.modules["__main__"].__doc__ or "").strip()
    sys.exit(run_configured(module, description, config_class, action))


def text_term(output: Exo2EgoOutput, weight: float = 1.0) -> Term:
    """Returns the text generation loss of a model output as a term per target token."""
    from exo2ego.losses.text import text_loss
    from exo2ego.train.objective import Term

    assert output.target_logits is not None
    assert output.target_ids is not None
    return Term(text_loss(output.target_logits, output.target_ids), per="target_token", weight=weight)


def text_only(model: nn.Module, batch: Batch, view: View) -> Terms:
    """Runs the model on one view of a micro-batch and returns the text generation loss alone."""
    output = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        labels=batch.labels,
        pixel_values_videos=batch.pixels,
        view=view,
    )
    return {"text": text_term(output)}
