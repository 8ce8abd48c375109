"""An Exo2Ego model as a model of lmms-eval: `--model exo2ego --model_args pretrained=FOLDER` (lmms-eval 0.7.3).

A question of EgoBench is shown the very frames that `eval.egobench` shows; a video of another task is shown whole, by
the same rule. All questions about a clip are answered from one reading of it, with the evaluator's own scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from lmms_eval.api.instance import Instance  # type: ignore[import-not-found]
from lmms_eval.api.model import lmms  # type: ignore[import-not-found]
from lmms_eval.models.registry_v2 import ModelManifest  # type: ignore[import-not-found]

from eval.answer_plan import AnswerPlan, AskedClip
from eval.answerers.exo2ego import Exo2EgoAnswerer, ReadVideo
from eval.answerers.protocol import ScoreRequest
from eval.lmms_eval_plugin.questions import RECORD, Document, Places, question_of
from eval.prompts import PROMPTS
from eval.questions import by_clip
from eval.shown_clips import encode, read_ahead, require_exo_videos
from exo2ego.data.prompting import LETTERS
from exo2ego.errors import EvaluationError, VideoError
from exo2ego.records import Question

FILE_SYSTEM = Path("/")
"""The root of videos that are given by their whole path."""


def manifest() -> ModelManifest:
    """Returns what lmms-eval must know to find the model (entry point `lmms_eval.models`)."""
    return ModelManifest(model_id="exo2ego", simple_class_path=f"{__name__}.Exo2Ego")


@dataclass
class AskedQuestion:
    """One document of a task and everything that lmms-eval wants to know of it."""

    question: Question
    root: Path
    """What its video's path is relative to."""
    prompt: str
    generation: dict[str, Any]
    """How to generate; empty where options are scored."""
    options: list[str]
    """Continuations to score, in the order in which they come first."""
    places: list[tuple[int, str]]
    """Where each answer belongs among the requests, and the continuation that it is about."""


class Exo2Ego(lmms):
    """A run folder, checkpoint or exported model; `view` as in `eval.egobench`."""

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        view: Any = None,
        seed: int = 0,
        num_workers: int = 2,
        batch_size: int | str = 1,
        device: str | None = None,
    ) -> None:
        super().__init__()
        if str(batch_size) != "1":
            raise EvaluationError(f"batch_size={batch_size}: the questions about a clip are one batch; leave it at 1")
        self.accelerator = Accelerator()
        self.device = self.accelerator.device if device is None else device
        self._answerer = Exo2EgoAnswerer.load(Path(pretrained), form="chat", view=view, max_new_tokens=32)
        self._answerer.model.to(self.device)
        self._seed = seed
        self._num_workers = num_workers

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Returns for every option the negative of the evaluator's score, as a loss, and False.

        Letters A, B, … in this order are scored by their first token, texts by the mean of their tokens and the end
        token. lmms-eval's own models return losses too. Whether an option is the greedy continuation is not computed.
        """
        losses: dict[int, float] = {}
        asked = list(self._asked(requests, _scoring_request))
        for video, about in self._read_clips(asked):
            for kind in ("options", "letters"):
                alike = [one for one in about if _kind(one.options) == kind]
                scores = self._answerer.score(video, [ScoreRequest(o.prompt, tuple(o.options), kind) for o in alike])
                for one, own in zip(alike, scores, strict=True):
                    by_option = dict(zip(one.options, own, strict=True))
                    losses |= {place: -by_option[option] for place, option in one.places}
        return [(losses[place], False) for place in range(len(requests))]

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Returns the greedy answers, cut before the first of the texts in `until`."""
        outputs: dict[int, str] = {}
        for video, about in self._read_clips(list(self._asked(requests, _generation_request))):
            for one in about:
                self._answerer.max_new_tokens = int(one.generation.get("max_new_tokens", 32))
                output = self._answerer.generate(video, one.prompt)
                for end in one.generation.get("until") or ():
                    output = output.split(end, 1)[0] if end else output
                outputs |= {place: output for place, _ in one.places}
        return [outputs[place] for place in range(len(requests))]

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Raises `EvaluationError`: the model answers one question."""
        raise EvaluationError("an Exo2Ego model answers single questions; leave out tasks of several rounds")

    def _asked(
        self, requests: Sequence[Instance], unpack: Callable[[Instance], tuple[str, dict[str, Any], Any]]
    ) -> Iterator[AskedQuestion]:
        """Yields every document once, with all that is asked of it."""
        asked: dict[tuple[str, str, int, str], AskedQuestion] = {}
        for place, request in enumerate(requests):
            option, generation, show = unpack(request)
            context, (doc_id, task, split) = request.args[0], request.args[-3:]
            key = task, split, doc_id, context
            if key not in asked:
                question, root = self._question(self.task_dict[task][split][doc_id], show, f"{task}/{split}/{doc_id}")
                asked[key] = AskedQuestion(question, root, self._answerer.render(context), generation, [], [])
            if option not in asked[key].options:
                asked[key].options.append(option)
            asked[key].places.append((place, option))
        yield from asked.values()

    def _question(self, doc: Document, show: Callable[[Document], Any], name: str) -> tuple[Question, Path]:
        """Returns what a document asks about which video, and the folder of the videos."""
        if RECORD in doc:
            return question_of(doc), Places.of_environment().root
        visuals = show(doc)
        if not (isinstance(visuals, list) and len(visuals) == 1 and isinstance(visuals[0], str)):
            raise EvaluationError(
                f"{name}: an Exo2Ego model looks at one video file per question; this one shows {visuals!r:.200}"
            )
        video = str(Path(visuals[0]).absolute())
        return Question(id=name, task=name, source="lmms-eval", video=video, question="", options=[]), FILE_SYSTEM

    def _read_clips(self, asked: Sequence[AskedQuestion]) -> Iterator[tuple[ReadVideo, list[AskedQuestion]]]:
        """Yields every clip, encoded once, with the questions about it in the evaluator's order.

        Raises `VideoError` at a clip that cannot be read.
        """
        for root in dict.fromkeys(one.root for one in asked):
            by_id: dict[str, list[AskedQuestion]] = {}
            for one in asked:
                if one.root == root:
                    by_id.setdefault(one.question.question_id, []).append(one)
            clips = [AskedClip(clip, []) for clip in by_clip([members[0].question for members in by_id.values()])]
            if self._answerer.view == "exo":
                require_exo_videos([clip.questions for clip in clips])
            for clip, shown in read_ahead(clips, self._answerer, self._plan(root)):
                if isinstance(shown, VideoError):
                    raise VideoError(
                        shown.path, shown.reason, f"{shown.detail}; python -m eval.clip_files finds all such videos"
                    )
                ids = sorted(question.question_id for question in clip.questions)
                yield encode(shown, self._answerer), [one for name in ids for one in by_id[name]]

    def _plan(self, root: Path) -> AnswerPlan:
        prompt = PROMPTS["question_only@1"]  # not used: prompts come from the tasks
        return AnswerPlan(
            modes=(),
            choice_prompt=prompt,
            likelihood_prompt=prompt,
            open_prompt=prompt,
            data_root=root,
            seed=self._seed,
            max_failures=0,
            num_workers=self._num_workers,
        )


def _kind(options: Sequence[str]) -> Any:
    return "letters" if "".join(options) == LETTERS[: len(options)] else "options"


def _scoring_request(request: Instance) -> tuple[str, dict[str, Any], Any]:
    option, show = request.args[1:3]
    if not isinstance(option, str):
        raise EvaluationError("output_type loglikelihood is not supported: use multiple_choice, which names options")
    return option, {}, show


def _generation_request(request: Instance) -> tuple[str, dict[str, Any], Any]:
    generation, show = request.args[1:3]
    if generation.get("do_sample") or float(generation.get("temperature") or 0) > 0:
        raise EvaluationError(f"{request.task_name}: the model answers greedily; leave do_sample and temperature out")
    return "", dict(generation), show
