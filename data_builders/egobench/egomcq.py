"""EgoMCQ as two EgoBench tables of ten-option questions: egomcq_inter and egomcq_intra.

Source: `egomcq.json` of EgoVLP (github.com/showlab/EgoVLP; the same file serves LaViLa), made from Ego4D. Licence: that
of Ego4D for videos and narrations.

The published question asks for the clip of a narration among five; here the clip is shown and its narration is found
among ten: the five published ones and the five most similar to the truth, for inter from other videos, for intra from
the same video first and then from the whole file (Exo2Ego Supplement C.1.8 says "adding similar text", not from where).
Narrations are told in the first person, as in Table 12.

Traps: `types` is read in both ways by public code, so the videos of the choices decide: all equal is intra; texts can
coincide, and then further ones are added; a clip can cross the border of the chunks that videos are cut into; clips of
one video overlap, and `meta.also_correct` tells what else is narrated within the clip.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import cached_property, partial

from pydantic import Field

from data_builders.distractors.options import DistractorOptions, open_pool
from data_builders.distractors.pool import Neighbour, TextPool
from data_builders.distractors.quality import report_quality
from data_builders.egobench.choices import arrange
from data_builders.egobench.clip_lengths import ClipLengths
from data_builders.egobench.egomcq_corpus import Asked, Corpus, read_corpus
from data_builders.egobench.egomcq_videos import EgoMCQVideos
from data_builders.egobench.first_person import Person, tell_in_first_person
from data_builders.paper_counts import PaperCount
from data_builders.source import Account, Source, Tables, run_source
from exo2ego.raw.files import RawFiles
from exo2ego.records import Question

INTER, INTRA = "egomcq_inter", "egomcq_intra"
QUESTION = "Which description accurately reflects the human behavior in the video?"
"""Exo2Ego Table 12."""
NUM_OPTIONS = 10
QUESTIONS_PER_SEARCH = 4096


class EgoMCQOptions(DistractorOptions):
    """Options of `python -m data_builders.egobench.egomcq`."""

    person: Person = "first"
    """first: `#C C picks his cup` becomes `I pick my cup`; subject: `#C C` alone becomes `I`; raw: as published."""
    chunk_s: float | None = Field(default=None, gt=0)
    """Seconds per file where videos are cut into folders (default: 600 in `<uid>/`, 300 in `<uid>.mp4/`)."""


def read(options: EgoMCQOptions, account: Account) -> Tables[Question]:
    """Returns the questions of both kinds, in the order of the file."""
    files = RawFiles(options.root, "EgoMCQ")
    path = files.find("egomcq.json", "EgoClip/egomcq.json", "annotations/egomcq.json", what="the questions")
    corpus = read_corpus(files, path, partial(tell_in_first_person, person=options.person), account)
    account.inputs = files.hashes()
    builder = _Builder(corpus, f"{path}", options, account)
    return {INTER: builder.questions(INTER), INTRA: builder.questions(INTRA)}


class _Builder:
    """Makes the tables of a corpus."""

    def __init__(self, corpus: Corpus, path: str, options: EgoMCQOptions, account: Account) -> None:
        self._corpus = corpus
        self._path = path
        self._options = options
        self._account = account
        self._videos = EgoMCQVideos(options, account, options.chunk_s)
        self._filled: set[str] = set()
        """Keys of the questions whose own video has too few texts."""

    @cached_property
    def _pool(self) -> TextPool:
        return open_pool(self._corpus.texts, self._options)

    def questions(self, table: str) -> Iterator[Question]:
        """Yields the questions of one table."""
        asked = [question for question in self._corpus.questions if question.is_intra == (table == INTRA)]
        lengths = ClipLengths()
        for start in range(0, len(asked), QUESTIONS_PER_SEARCH):
            part = asked[start : start + QUESTIONS_PER_SEARCH]
            added = self._from_same_video(part) if table == INTRA else self._from_other_videos(part)
            originals = self._originals(part)
            for question, old, new in zip(part, originals, added, strict=True):
                record = self._record(table, question, old, new)
                if record is not None:
                    lengths.add(self._corpus.videos[question.video], question.end_s - question.start_s)
                    yield record
        lengths.tell(self._account, table, paper_mean_s=0.8)

    def _originals(self, part: Sequence[Asked]) -> list[list[Neighbour]]:
        """Returns the published wrong texts of each question with their similarity to the truth."""
        texts = self._corpus.texts
        pairs = [(texts[question.truth], texts[other]) for question in part for other in question.others]
        similarity = iter(self._pool.similarities(pairs))
        return [[Neighbour(texts[other], next(similarity)) for other in question.others] for question in part]

    def _from_other_videos(self, part: Sequence[Asked]) -> list[list[Neighbour]]:
        only_in = {video: self._corpus.only_in(video) for video in {question.video for question in part}}
        truths = [self._corpus.texts[question.truth] for question in part]
        # One collection per video, not per question, which the pool looks up once: the originals are left out after.
        found = self._pool.nearest(truths, NUM_OPTIONS, excluded=[only_in[question.video] for question in part])
        return [self._fitting(question, neighbours) for question, neighbours in zip(part, found, strict=True)]

    def _from_same_video(self, part: Sequence[Asked]) -> list[list[Neighbour]]:
        texts = self._corpus.texts
        found: dict[str, list[Neighbour]] = {}
        for video in dict.fromkeys(question.video for question in part):
            of_video = [question for question in part if question.video == video]
            allowed = [texts[number] for number in self._corpus.texts_of_video[video]]
            truths = [texts[question.truth] for question in of_video]
            nearest = self._pool.nearest(truths, NUM_OPTIONS, allowed=allowed)
            for question, neighbours in zip(of_video, nearest, strict=True):
                found[question.key] = self._fitting(question, neighbours)
        short = [question for question in part if len(found[question.key]) < _num_added(question)]
        nearest = self._pool.nearest([texts[question.truth] for question in short], 2 * NUM_OPTIONS)
        for question, neighbours in zip(short, nearest, strict=True):
            self._filled.add(question.key)
            found[question.key] = self._fitting(question, [*found[question.key], *neighbours])
        return [found[question.key] for question in part]

    def _fitting(self, question: Asked, neighbours: Sequence[Neighbour]) -> list[Neighbour]:
        """Returns the first neighbours that are no original text, none twice, as many as are added."""
        taken = {self._corpus.texts[other] for other in question.others}
        fresh = {neighbour.text: neighbour for neighbour in neighbours if neighbour.text not in taken}
        return list(fresh.values())[: _num_added(question)]

    def _record(
        self, table: str, question: Asked, originals: Sequence[Neighbour], added: Sequence[Neighbour]
    ) -> Question | None:
        where = self._where(question)
        if not (originals or added):
            self._account.drop("no other text to choose from", where)
            return None
        uid = self._corpus.videos[question.video]
        span = self._videos.find(where, uid, question.start_s, question.end_s)
        if span is None:
            return None
        for reason in question.oddities:
            self._account.note(reason, where)
        if question.key in self._filled:
            self._account.note("too few texts in the same video: filled from the whole file", where)
        if len(added) < _num_added(question):
            self._account.note(f"fewer than {NUM_OPTIONS} options", where)
        truth = self._corpus.texts[question.truth]
        question_id = f"egomcq/{question.key}"
        distractors = [*originals, *added]
        choices = arrange(truth, distractors, task=table, question_id=question_id, seed=self._options.seed)
        published = {truth, *(neighbour.text for neighbour in originals)}
        return Question(
            id=question_id,
            task=table,
            source="egomcq",
            split="test",
            video=span.video,
            start=span.start_s,
            end=span.end_s,
            question=QUESTION,
            options=choices.printed(self._options.option_style),
            answer_index=choices.answer_index,
            answer_text=truth,
            meta={
                "video_uid": uid,
                "published_options": [index for index, text in enumerate(choices.texts) if text in published],
                "also_correct": choices.also_correct(self._corpus.told_within(question).__contains__),
                "similarities": choices.similarities,
            },
        )

    def _where(self, question: Asked) -> str:
        return f"{self._path}: entry {question.key!a}"


def _num_added(question: Asked) -> int:
    return NUM_OPTIONS - 1 - len(question.others)


SOURCE = Source(
    name="egomcq",
    kind="egobench",
    options=EgoMCQOptions,
    read=read,
    tables=(INTER, INTRA),
    paper={f"{INTER}+{INTRA}": PaperCount(39_716, "Table 2")},
    finish=report_quality,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m data_builders.egobench.egomcq`."""
    return run_source(SOURCE, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
