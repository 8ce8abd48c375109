"""Zero-shot evaluation of a model on question files in the EgoBench record format: `python -m eval.egobench`."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator

import exo2ego
from eval.answer_plan import AnswerPlan
from eval.answerers.loading import AnswererOptions, EndpointOptions, load_answerer
from eval.answerers.protocol import Answerer, DescribedAnswerer, LimitedAnswerer, PromptForm
from eval.answering import answer_all, answer_first, hash_of_prompts
from eval.parsing import PARSER
from eval.predictions import RUN_FILE, PredictionStore, claim, merge_parts
from eval.processes import join_processes
from eval.prompts import PROMPTS
from eval.questions import DataOptions, question_files, read_questions
from eval.report import write_report
from eval.reporting.text import markdown
from exo2ego.command_line import RunOptions, run_configured
from exo2ego.config import Config
from exo2ego.console import console
from exo2ego.errors import DataError, EvaluationError
from exo2ego.model.options import View
from exo2ego.provenance import provenance
from exo2ego.records import AnswerMode, Question
from exo2ego.storage import hash_file, hash_text

if TYPE_CHECKING:
    from exo2ego.data.clip_store import ClipStore

DESCRIPTION = """\
Puts questions about videos to a model and writes predictions.jsonl (one line per question and mode) and a report of
them (results.json, .csv, .md, .tex, report.html) to the output folder. The same command continues where a run was
stopped; --resume DIR continues a run in another folder than `output`."""


class EgoBenchConfig(Config):
    """What to ask, whom, and how."""

    model: str
    """Run folder, checkpoint or exported model; or FAMILY:SOURCE for another model (docs/evaluation_models.md)."""
    tasks: list[str] | None = Field(default=None, min_length=1)
    """Tables of questions, or all of a dataset: egoschema, qaego4d, egotaskqa, charades, ek100, egoplan, vlnqa, egomcq,
    …, or a table of your own; null: all of EgoBench's that `data` has."""
    data: DataOptions
    """Where videos and questions lie."""
    output: Path
    """Folder for predictions and results."""
    modes: list[AnswerMode] = Field(default=["likelihood"], min_length=1)
    """likelihood: mean token log-probability of each option's text (EgoPlan); letter: log-probability of each option's
    letter; generate: generated text, parsed strictly."""
    form: PromptForm = "chat"
    """chat: the language model's template, for models after stage 3; plain: the option follows the video directly, as
    narrations do in training before stage 3 (likelihood only)."""
    prompt: str = "first_person@1"
    """Prompt of letter and generate: name@version in eval/prompts.py (Exo2Ego Table 16, row 3)."""
    likelihood_prompt: str = "question_only@1"
    """Prompt of likelihood in chat form: name@version in eval/prompts.py."""
    open_prompt: str = "short_answer@1"
    """Prompt of questions without options (QAEgo4D open): name@version in eval/prompts.py."""
    view: View | None = None
    """ego: x and F(x); ego_only: x; exo: the teacher, on one of the question's exo videos; null: what was trained."""
    seed: int = 0
    """Chooses the exo video of each clip when view is exo, and the order of shuffle_frames."""
    num_frames: int | None = Field(default=None, ge=1)
    """Frames per clip for other models; null: the family's own number. An Exo2Ego model brings its own."""
    endpoint: EndpointOptions = EndpointOptions()
    """For model=endpoint:NAME: where it is and how it is asked."""
    max_new_tokens: int = Field(default=32, ge=1)
    """Tokens at most in generate mode (of an endpoint: endpoint.max_answer_tokens)."""
    blind: bool = False
    """Control: show grey pictures instead of the video, to see how much is answered without looking."""
    shuffle_frames: bool = False
    """Control: show the frames of a clip in another order, to see how much is answered without time."""
    num_workers: int = Field(default=2, ge=0)
    """Threads that decode clips ahead of the model, in every process."""
    max_failure_rate: float = Field(default=0.01, ge=0, le=1)
    """Share of questions that may be unanswered (unreadable video, failing model or endpoint) before the run stops."""

    @field_validator("model", mode="before")
    @classmethod
    def _colon_makes_no_section(cls, value: Any) -> Any:
        """Returns `FAMILY:`, which YAML reads as a section, as it was written: what is missing is said on loading."""
        return f"{next(iter(value))}:" if isinstance(value, dict) and list(value.values()) == [None] else value

    @field_validator("tasks", "modes", mode="before")
    @classmethod
    def _commas_make_a_list(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("prompt", "likelihood_prompt", "open_prompt")
    @classmethod
    def _prompt_is_known(cls, value: str) -> str:
        if value not in PROMPTS:
            raise ValueError(f"is not a prompt; known: {', '.join(PROMPTS)}")
        return value

    @model_validator(mode="after")
    def _plain_form_has_no_letters(self) -> EgoBenchConfig:
        if self.form == "plain" and set(self.modes) != {"likelihood"}:
            raise ValueError("modes: the plain form can only score options: set modes=[likelihood] or form=chat")
        return self


def run_key(
    config: EgoBenchConfig, questions: Sequence[Question], answerer: Answerer, plan: AnswerPlan
) -> dict[str, Any]:
    """Returns what must be equal for two runs' predictions to belong together."""
    return {
        "exo2ego": exo2ego.__version__,
        **{name: version(name).partition("+")[0] for name in ("torch", "transformers")},  # they decide the last digits
        "model": answerer.identity,
        "clip_store": plan.clip_store.identity if plan.clip_store is not None else None,
        "data_root": None if plan.clip_store is not None else str(plan.data_root.resolve()),
        "questions": hash_text("\n".join(sorted(question.model_dump_json(by_alias=True) for question in questions))),
        "form": config.form,
        "prompt": config.prompt,
        "likelihood_prompt": config.likelihood_prompt,
        "open_prompt": config.open_prompt,
        "blind": config.blind,
        "shuffle_frames": config.shuffle_frames,
        "prompt_texts": hash_of_prompts(questions, answerer, plan),
        "view": answerer.view,
        "seed": config.seed,
        "max_new_tokens": config.max_new_tokens,
        "parser": PARSER,
        "num_frames": answerer.num_frames,
    }


def evaluate(config: EgoBenchConfig, options: RunOptions) -> int:
    """Answers every question, or the first one in a dry run, and writes the report."""
    files = question_files(config.data, config.tasks)
    questions = read_questions(files, config.tasks)
    clip_store = _open_store(config)
    root = config.data.root
    if clip_store is None and not root.is_dir():
        raise DataError(f"data.root {root} is not a folder; give the one the video paths are relative to")
    processes = join_processes()
    answerer = _load(config, clip_store)
    questions = answerable(questions, answerer, config)
    plan = AnswerPlan(
        modes=tuple(dict.fromkeys(config.modes)),
        choice_prompt=PROMPTS[config.prompt],
        likelihood_prompt=PROMPTS[config.likelihood_prompt],
        open_prompt=PROMPTS[config.open_prompt],
        data_root=root,
        seed=config.seed,
        max_failures=math.floor(config.max_failure_rate * len(questions) + 1e-9),  # .29 of 100 are 29
        clip_store=clip_store,
        blind=config.blind,
        shuffle_frames=config.shuffle_frames,
        num_workers=config.num_workers,
        process_index=processes.index,
        num_processes=processes.count,
    )
    if options.dry_run:
        _show(questions, answer_first(questions, answerer, plan))
        return 0
    key = run_key(config, questions, answerer, plan)
    made_by = provenance(config.model_dump(mode="json"), config.seed, {str(p): hash_file(p) for p in files})
    if isinstance(answerer, DescribedAnswerer):
        made_by["model"] = answerer.description
    folder = _output(config, options)
    if processes.count == 1:
        with PredictionStore(folder, key, made_by, questions) as store:
            answer_all(questions, answerer, plan, store)
    else:
        if processes.index == 0:
            claim(folder, key, made_by, questions)
        processes.wait()
        with PredictionStore(folder, key, made_by, part=processes.index) as store:
            answer_all(questions, answerer, plan, store)
        processes.wait()
        if processes.index > 0:
            return 0
        merge_parts(folder)
    console.print(markdown(write_report(folder)), markup=False)
    return 0


def _output(config: EgoBenchConfig, options: RunOptions) -> Path:
    """Returns the folder to write; raises `EvaluationError` for `--resume DIR` without a run in it."""
    if options.resume in (None, "auto"):
        # a folder without a name of its own (`.`) could not be moved aside
        return config.output if config.output.name not in ("", "..") else config.output.resolve()
    if not (Path(options.resume) / RUN_FILE).is_file():
        raise EvaluationError(f"--resume {options.resume}: holds no {RUN_FILE}; give the output folder of a run")
    return Path(options.resume)


def answerable(questions: Sequence[Question], answerer: Answerer, config: EgoBenchConfig) -> list[Question]:
    """Returns the questions that the model can answer; open ones are left out, and said, for one that cannot write.

    Raises `EvaluationError` for a mode in which it cannot answer, before anything is decoded or paid for.
    """
    if not isinstance(answerer, LimitedAnswerer):
        return list(questions)
    able, unfit = answerer.modes, [mode for mode in config.modes if mode not in answerer.modes]
    if unfit:
        raise EvaluationError(f"{config.model} cannot answer by {', '.join(unfit)}; set modes=[{','.join(able)}]")
    kept = [question for question in questions if question.options or "generate" in able]
    if not kept:
        raise EvaluationError(f"all {len(questions)} questions are open, and {config.model} cannot write an answer")
    if len(kept) < len(questions):
        console.print(
            f"{len(questions) - len(kept)} open questions are left out: {config.model} can only compare options",
            markup=False,
        )
    return kept


def _open_store(config: EgoBenchConfig) -> ClipStore | None:
    if config.data.clip_store is None:
        return None
    from exo2ego.data.clip_store import ClipStore  # imports pyarrow

    return ClipStore(config.data.clip_store)


def _load(config: EgoBenchConfig, store: ClipStore | None) -> Answerer:
    answerer = load_answerer(
        config.model,
        AnswererOptions(
            form=config.form,
            view=config.view,
            max_new_tokens=config.max_new_tokens,
            num_frames=config.num_frames,
            endpoint=config.endpoint,
        ),
    )
    if store is not None:
        processor = getattr(answerer, "processor", None)
        if processor is None:
            raise EvaluationError("data.clip_store: only an Exo2Ego model reads one; leave it out and give data.root")
        store.require_fits(processor.pictures(answerer.view))
    return answerer


def _show(questions: Sequence[Question], asked: Sequence[tuple[str, Any]]) -> None:
    tasks = sorted({question.task for question in questions})
    console.print(f"{len(questions)} questions of {len(tasks)} tasks: {', '.join(tasks)}", markup=False)
    for prompt, prediction in asked:
        console.print(f"\n--- {prediction.mode} ---\n{prompt}\n--- answer ---", markup=False)
        console.print(prediction.to_row(), markup=False)


CONFIG = EgoBenchConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m eval.egobench`."""
    return run_configured("eval.egobench", DESCRIPTION, EgoBenchConfig, evaluate, argv)


if __name__ == "__main__":
    sys.exit(main())
