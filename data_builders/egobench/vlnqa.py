"""VLN-QA: 200 multiple-choice questions about navigation, task "Egocentric Navigation" of MVBench.

Source: huggingface.co/datasets/OpenGVLab/MVBench. Licence: MIT. Version: `egocentric_navigation.json`, in the folder
`json` of the download or directly; MVBench replaced some questions in 2024, so versions differ in a few rows.

Every question is about a whole video. The options keep the order of the source, as in MVBench's own evaluation.

Traps: the answer is given as a text, to be found among the candidates; older versions hold the same question twice.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from pydantic import Field

from data_builders.distractors.quality import report_quality
from data_builders.egobench.clip_lengths import ClipLengths
from data_builders.egobench.options import EgoBenchOptions, has_repeated_options, option_text, repeated_truths
from data_builders.media import MediaFolder
from data_builders.paper_counts import PaperCount
from data_builders.source import Account, Source, Tables, run_source
from exo2ego.data.prompting import LETTERS
from exo2ego.errors import DataError
from exo2ego.raw.files import RawFiles
from exo2ego.raw.rows import RawRow, RelativePath, Text
from exo2ego.records import Question

LAYOUTS = ("video/vlnqa/{video}", "vlnqa/{video}", "vlnqa/vlnqa/{video}", "video/vlnqa/vlnqa/{video}", "{video}")
"""MVBench's folder, with and without the level that unpacking `vlnqa.zip` may add."""


class QuestionRow(RawRow):
    """A row of `egocentric_navigation.json`."""

    video: RelativePath
    question: Text
    candidates: list[Text] = Field(min_length=2, max_length=len(LETTERS))
    answer: Text

    @property
    def answer_index(self) -> int | None:
        """The first candidate that equals the answer; None: there is none."""
        return self.candidates.index(self.answer) if self.answer in self.candidates else None


def read(options: EgoBenchOptions, account: Account) -> Tables[Question]:
    """Returns the questions in the order of the file."""
    files = RawFiles(options.root, "VLN-QA (MVBench)")
    path = files.find(
        "json/egocentric_navigation.json", "egocentric_navigation.json", "vlnqa.json", what="navigation questions"
    )
    account.inputs = files.hashes()
    media = MediaFolder(options, LAYOUTS, account)

    def questions() -> Iterator[Question]:
        lengths = ClipLengths()
        seen: Counter[str] = Counter()
        for where, row in files.json_rows(path, QuestionRow, "navigation questions"):
            answer_index = row.answer_index
            if answer_index is None:
                raise DataError(f"{where}: the answer {row.answer[:80]!a} is none of the candidates")
            video = media.find(where, video=row.video)
            if video is None:
                continue
            if has_repeated_options(row.candidates):
                account.note("two options are the same text", where)
            name = str(PurePosixPath(row.video).with_suffix(""))
            seen[name] += 1
            if seen[name] > 1:
                account.note("further question about the same video", where)
                name = f"{name}#{seen[name]}"
            lengths.videos.add(video)
            others = repeated_truths(row.candidates, answer_index)
            yield Question(
                id=f"vlnqa/{name}",
                task="vlnqa",
                source="vlnqa",
                split="test",
                video=video,
                question=row.question,
                options=[option_text(text, options.option_style) for text in row.candidates],
                answer_index=answer_index,
                answer_text=row.answer,
                meta={"same_as_truth": others} if others else {},
            )
        lengths.tell(account, "vlnqa", paper_mean_s=7.5)

    return {"vlnqa": questions()}


SOURCE = Source(
    name="vlnqa",
    kind="egobench",
    options=EgoBenchOptions,
    read=read,
    tables=("vlnqa",),
    paper={"vlnqa": PaperCount(200, "Table 2")},
    finish=report_quality,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m data_builders.egobench.vlnqa`."""
    return run_source(SOURCE, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
