"""Which family a model belongs to, and its answerer; importing this costs no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from eval.answerers.protocol import Answerer, PromptForm
from exo2ego.errors import EvaluationError
from exo2ego.model.options import View


@dataclass(frozen=True)
class AnswererOptions:
    """What every family gets of the configuration; each refuses what it cannot do."""

    form: PromptForm
    view: View | None
    max_new_tokens: int
    num_frames: int | None
    """Frames per clip; None: what the model was trained with."""


Loader = Callable[[str, AnswererOptions], Answerer]


def _exo2ego(source: str, options: AnswererOptions) -> Answerer:
    from eval.answerers.exo2ego import Exo2EgoAnswerer

    if options.num_frames is not None:
        raise EvaluationError("num_frames: an Exo2Ego model sees the frames that it was trained with; leave it out")
    return Exo2EgoAnswerer.load(
        Path(source), form=options.form, view=options.view, max_new_tokens=options.max_new_tokens
    )


FAMILIES: dict[str, Loader] = {"exo2ego": _exo2ego}
"""By the word before the colon of `model=FAMILY:SOURCE`; without one the model is an Exo2Ego run or export."""


def load_answerer(model: str, options: AnswererOptions) -> Answerer:
    """Loads `FAMILY:SOURCE`, or an Exo2Ego model; raises `EvaluationError` for an unknown family."""
    family, separator, source = model.partition(":")
    if not separator or "/" in family:
        family, source = "exo2ego", model
    if family not in FAMILIES:
        raise EvaluationError(f"model={model}: family `{family}` is unknown; known: {', '.join(FAMILIES)}")
    return FAMILIES[family](source, options)
