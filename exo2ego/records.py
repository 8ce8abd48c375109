"""The records that flow through the system, each defined once; times are seconds from the start of the video file."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Record(BaseModel):
    """Base of every record: closed, frozen, written by alias and read by alias or name."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True)

    def to_row(self) -> dict[str, Any]:
        """Returns the JSON form of the record (aliases as keys)."""
        return self.model_dump(mode="json", by_alias=True)


def _require_forward_span(record_id: str, start_s: float | None, end_s: float | None) -> None:
    first_s, last_s = start_s or 0.0, math.inf if end_s is None else end_s
    if not (0 <= first_s <= last_s and first_s < math.inf):
        raise ValueError(f"{record_id}: expected 0 <= start <= end in seconds, got {start_s} to {end_s}")


class Clip(Record):
    """One Ego-ExoClip row: a narration, its time span, and the videos that show it from every camera (Exo2Ego §3.1)."""

    clip_id: str
    """`<take_name>/<annotation number>/<narration number>`, unique in the table."""
    take_uid: str
    take_name: str
    start_s: float
    end_s: float
    timestamp_s: float
    """The narrated instant from which the span was made (Exo2Ego Eq. 1)."""
    text: str
    annotator: str
    ego_video: str
    """Path relative to the dataset root."""
    exo_videos: list[str]
    """Paths of all frame-aligned exocentric cameras, relative to the dataset root, in camera order."""
    university: str = ""
    scenario: str = ""
    task: str = ""
    subject: str = ""
    """"C" for the camera wearer, "O" for another person, empty where the annotator did not say."""
    ego_visible: bool | None = None
    unsure: bool | None = None
    best_exo: str = ""
    """Camera that the annotator found to show the event best, for example `cam02`; empty where not given."""

    @model_validator(mode="after")
    def _span_is_forward(self) -> Clip:
        _require_forward_span(f"clip {self.clip_id}", self.start_s, self.end_s)
        return self


class Conversation(Record):
    """One EgoIT row: an instruction, a question about a video span, and its answer (Exo2Ego §3.2)."""

    conversation_id: str = Field(alias="id")
    source: str
    video: str
    """Path relative to the data root."""
    start_s: float | None = Field(default=None, alias="start")
    end_s: float | None = Field(default=None, alias="end")
    instruction: str = ""
    question: str = ""
    answer: str
    options: list[str] = Field(default_factory=list)
    kind: str = Field(default="", alias="type")
    frame_rate: float | None = Field(default=None, gt=0)
    """Frames per second where `video` is a folder of pictures that is read in spans; None otherwise."""
    schema_version: Literal[1] = Field(default=1, alias="version")

    @model_validator(mode="after")
    def _span_is_forward(self) -> Conversation:
        _require_forward_span(f"conversation {self.conversation_id}", self.start_s, self.end_s)
        return self


class Question(Record):
    """One EgoBench row: a question about a video span with its options (formats as in docs/data.md)."""

    question_id: str = Field(alias="id", min_length=1)
    task: str
    source: str
    split: str = ""
    video: str
    """Path relative to the data root."""
    start_s: float | None = Field(default=None, alias="start")
    end_s: float | None = Field(default=None, alias="end")
    frames: list[str] | None = None
    question: str
    options: list[str]
    """Empty for an open question."""
    answer_index: int | None = Field(default=None, strict=True)
    """0-based; None where the label is not public."""
    answer_text: str | None = None
    observation_s: float | None = Field(default=None, alias="observation", ge=0)
    """The instant, in seconds, that the last frame must show (EgoPlan: what the wearer sees now); None: no such."""
    frame_rate: float | None = Field(default=None, gt=0)
    """Frames per second where `video` is a folder of pictures that is read in spans; None otherwise."""
    meta: dict[str, Any] = Field(default_factory=dict)
    """What the source says beside: flat, one type per key (docs/egobench.md)."""
    schema_version: Literal[1] = Field(default=1, alias="version")

    @model_validator(mode="after")
    def _answer_is_an_option(self) -> Question:
        _require_forward_span(f"question {self.question_id}", self.start_s, self.end_s)
        if self.answer_index is None:
            return self
        if not 0 <= self.answer_index < len(self.options):
            raise ValueError(
                f"question {self.question_id}: answer_index {self.answer_index} is not one of its "
                f"{len(self.options)} options"
            )
        return self


AnswerMode = Literal["likelihood", "letter", "generate"]


class Prediction(Record):
    """What a model answered to one question."""

    question_id: str = Field(alias="id")
    task: str
    mode: AnswerMode
    prompt_hash: str
    """SHA-256 of the rendered prompt with its options; a changed prompt is a changed prediction."""
    raw_output: str | None = None
    """Generated text; None when options were scored."""
    option_scores: list[float] | None = None
    """Mean token log-probability (likelihood) or letter log-probability (letter) per option."""
    predicted_index: int | None = None
    """None when the answer could not be parsed: counted as wrong."""
    answer_index: int | None = None
    num_options: int
    video: str
    """The cluster for confidence intervals."""
    seconds: float
    """Wall-clock time spent on this question."""
