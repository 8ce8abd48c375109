"""Which family a model belongs to, and its answerer; importing this costs no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import Field

from eval.answerers.protocol import Answerer, PromptForm
from exo2ego.errors import CheckpointError, EvaluationError
from exo2ego.language_service import LanguageService, ServiceOptions
from exo2ego.model.options import View


class EndpointOptions(ServiceOptions):
    """The endpoint of `model=endpoint:NAME`."""

    model: str = ""
    """Set from model=endpoint:NAME."""
    max_answer_tokens: int = Field(default=64, ge=1)
    """Longest answer, in tokens."""
    temperature: float | None = Field(default=0, ge=0)
    """Sampling temperature."""


@dataclass(frozen=True)
class AnswererOptions:
    """What every family gets of the configuration; form, view and num_frames are refused by a family without them."""

    form: PromptForm
    view: View | None
    max_new_tokens: int
    num_frames: int | None
    """Frames per clip; None: the family's own number."""
    endpoint: EndpointOptions


Loader = Callable[[str, AnswererOptions], Answerer]


def _exo2ego(source: str, options: AnswererOptions) -> Answerer:
    from eval.answerers.exo2ego import Exo2EgoAnswerer

    if not Path(source).exists():
        raise CheckpointError(
            f"model={source}: does not exist; give the run folder of a finished stage, a checkpoint or an export, or "
            "another model as FAMILY:SOURCE (docs/evaluation_models.md)"
        )
    if Path(source).is_file():
        raise EvaluationError(f"model={source}: is a file; give the run folder, checkpoint or export that it lies in")
    if options.num_frames is not None:
        raise EvaluationError("num_frames: an Exo2Ego model sees the frames that it was trained with; leave it out")
    return Exo2EgoAnswerer.load(
        Path(source), form=options.form, view=options.view, max_new_tokens=options.max_new_tokens
    )


def _endpoint(source: str, options: AnswererOptions) -> Answerer:
    from eval.answerers.endpoint import EndpointAnswerer

    _refuse_form_and_view("an endpoint", options)
    if options.endpoint.model:
        raise EvaluationError(
            f"endpoint.model={options.endpoint.model}: the model is named by model=endpoint:{source}; leave it out"
        )
    service = LanguageService(options.endpoint.model_copy(update={"model": source}))
    return EndpointAnswerer(service, options.num_frames)


def _refuse_form_and_view(what: str, options: AnswererOptions) -> None:
    if options.form != "chat" or options.view is not None:
        raise EvaluationError(f"form and view are for Exo2Ego models; {what} has neither: leave them out")


def _pretrained(family: str, source: str, options: AnswererOptions) -> Answerer:
    """Loads a family of transformers; `transformers` is the one that the source's config.json names."""
    from eval.answerers import pretrained_families

    _refuse_form_and_view("a model of transformers", options)
    answerer_class = pretrained_families.by_name(family) if family != "transformers" else pretrained_families.of(source)
    return answerer_class.load(source, num_frames=options.num_frames, max_new_tokens=options.max_new_tokens)


def _videollama2(source: str, options: AnswererOptions) -> Answerer:
    from eval.answerers.videollama2 import load_videollama2

    _refuse_form_and_view("VideoLLaMA2", options)
    return load_videollama2(Path(source), num_frames=options.num_frames, max_new_tokens=options.max_new_tokens)


def _open_clip(source: str, options: AnswererOptions) -> Answerer:
    from eval.answerers.dual_encoder import DualEncoderAnswerer
    from eval.retrieval.loading import load_dual_encoder

    _refuse_form_and_view("a dual encoder", options)
    return DualEncoderAnswerer(load_dual_encoder(f"open_clip:{source}", options.num_frames))


def _python(source: str, options: AnswererOptions) -> Answerer:
    from eval.answerers.python_function import PythonFunctionAnswerer

    _refuse_form_and_view("a function", options)
    return PythonFunctionAnswerer.load(source, options.num_frames)


PRETRAINED_FAMILIES = ("qwen_vl", "video_llava", "llava_video", "internvl", "videollama3", "transformers")
"""Models of transformers by family; `transformers` finds the family itself."""
FAMILIES: dict[str, Loader] = {
    "exo2ego": _exo2ego,
    "endpoint": _endpoint,
    **{family: partial(_pretrained, family) for family in PRETRAINED_FAMILIES},
    "videollama2": _videollama2,
    "open_clip": _open_clip,
    "python": _python,
}
"""By the word before the colon of `model=FAMILY:SOURCE`; without one the model is an Exo2Ego run or export."""


def load_answerer(model: str, options: AnswererOptions) -> Answerer:
    """Loads `FAMILY:SOURCE`, or an Exo2Ego model; raises `EvaluationError` for an unknown family or no source."""
    family, separator, source = model.partition(":")
    if not separator or "/" in family:
        family, source = "exo2ego", model
    if family not in FAMILIES:
        raise EvaluationError(f"model={model}: family `{family}` is unknown; known: {', '.join(FAMILIES)}")
    if not source:
        names = {"endpoint": "the model's name at the endpoint", "open_clip": "ARCH@FILE", "python": "MODULE:FUNCTION"}
        wanted = names.get(family, "a name or a folder")
        raise EvaluationError(f"model={model}: nothing stands behind the colon; expected {wanted}")
    return FAMILIES[family](source, options)
