"""The page of a report: self-contained, escaped, and in a real browser at both widths."""

from __future__ import annotations

import re
from pathlib import Path

import numpy
import pytest
from numpy.typing import NDArray

from eval import report
from eval.reporting.charts import Bar, interval_bar, radar_chart
from eval.reporting.examples import FrameReader, choose_examples
from eval.reporting.results import read_results
from eval.reporting.run_folder import read_run
from exo2ego.intervals import Interval
from exo2ego.records import Question
from exo2ego.storage import read_jsonl, write_jsonl
from tests.browser import run_browser, screenshot
from tests.eval.evaluation_setup import question_row, write_video
from tests.eval.lmms_eval_setup import write_pictures
from tests.eval.result_folder import question, write_run

ATTACK = "<script>document.title = 'ran'</script><img src=x onerror=\"document.title = 'ran'\">"
OURS_COLOUR = (0xEA, 0xF2, 0xFB)
RIGHT_COLOUR = (0xDF, 0xF3, 0xE6)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    for number in range(4):
        write_video(folder / "videos" / "egoplan" / f"{number}.mp4", seed=number)
    asked = [question(task, n, start=0, end=1) for task in ("egoplan", "vlnqa") for n in range(20)]
    asked = [
        {**row, "question": f"{row['question']} {ATTACK}", "options": [ATTACK, *row["options"][1:]]} for row in asked
    ]
    modes = ("likelihood", "generate")
    write_run(folder / "run", questions=asked, modes=modes)
    write_run(folder / "blind", questions=asked, modes=modes, skill=0, blind=True)
    write_run(folder / "long", questions=asked, model=f"qwen_vl:/models/{'long_name_' * 12}", seed=3)
    rows = list(read_jsonl(folder / "run" / "predictions.jsonl"))
    rows = [{**row, "raw_output": row.get("raw_output") and f"{row['raw_output']} {ATTACK}"} for row in rows]
    write_jsonl(folder / "run" / "predictions.jsonl", rows)
    arguments = ["--out", str(folder / "out"), "--data-root", str(folder / "videos"), "--examples", "6"]
    assert report.main([*(str(folder / name) for name in ("run", "blind", "long")), *arguments]) == 0
    return folder / "out" / "report.html"


def shown_ids(dom: str) -> list[str]:
    articles = re.findall(r"<article([^>]*)>\s*<h3>.*?<code>(.*?)</code>", dom, re.DOTALL)
    return [name for attributes, name in articles if not re.search(r'\shidden=""', attributes)]


def test_the_page_holds_all_it_needs_and_data_is_text(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("<script>") == 1
    assert "<img src=x" not in text
    assert not re.search(r'(?:src|href)="(?!data:image/jpeg;base64,|#)', text)
    assert text.count("data:image/jpeg;base64,") == 4 * 6, "four frames of the six questions whose video is there"
    assert "vlnqa/0.mp4 cannot be read: missing" in text
    assert "stage3 (blind)" in text
    for section in re.findall(r'href="#([^"]+)"', text):
        assert f'<section id="{section}">' in text, "every entry of the navigation leads somewhere"
    assert text.count('class="scroll" tabindex="0" role="region" aria-label=') == text.count('class="scroll"')
    assert "Table 5 of the paper" in text
    assert "Table 6 of the paper" not in text, "nothing of it was asked"


def test_frames_of_numbered_pictures_get_no_invented_seconds(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures")
    asked = question_row(0, video="pictures", start=None, end=None)
    frames, fault = FrameReader(tmp_path, 2).read(Question.model_validate(asked))
    assert not fault
    assert [frame.time for frame in frames] == ["picture 5", "picture 14"]


def test_the_worst_mistakes_come_first(page: Path) -> None:
    folder = page.parent.parent / "run"
    read, results = [read_run(folder)], read_results([folder])
    examples = choose_examples(read, results.runs, 6, FrameReader(None))
    assert [example.question.task for example in examples] == ["egoplan"] * 6 + ["vlnqa"] * 6
    for start in (0, 6):
        answers = [example.answers[0] for example in examples[start : start + 6]]
        wrong = [answer.confidence for answer in answers if answer.outcome == "wrong"]
        right = [answer.confidence for answer in answers if answer.outcome == "right"]
        assert [answer.outcome for answer in answers] == ["wrong"] * len(wrong) + ["right"] * len(right)
        assert wrong == sorted(wrong, key=lambda value: -(value or 0))
        assert right == sorted(right, key=lambda value: value or 0)
        assert len(wrong) >= 4
    most = max(
        max(numpy.exp(row.option_scores) / numpy.exp(row.option_scores).sum())
        for row in read[0].predictions
        if row.task == "egoplan" and row.option_scores and row.predicted_index != row.answer_index
    )
    assert examples[0].answers[0].confidence == pytest.approx(most)
    assert [answer.mode for answer in examples[0].answers] == ["likelihood", "generate"]
    assert examples[0].answers[0].prompt.startswith(examples[0].question.question[:20])
    assert "(A) " in examples[0].answers[1].prompt


@pytest.mark.parametrize(
    ("fragment", "num_shown"),
    [("", 12), ("#task=egoplan", 6), ("#task=unknown", 12), ("#q=nothing+such", 0), ("#examples", 12)],
)
def test_the_address_sets_the_filters(tmp_path: Path, page: Path, fragment: str, num_shown: int) -> None:
    dom = run_browser(tmp_path / "profile", "--dump-dom", page.as_uri() + fragment)
    assert len(shown_ids(dom)) == num_shown
    assert f"<output>{num_shown} of 12 shown</output>" in dom
    assert "<title>ran</title>" not in dom


def test_outcomes_can_be_chosen(tmp_path: Path, page: Path) -> None:
    counts = [
        len(shown_ids(run_browser(tmp_path / "profile", "--dump-dom", f"{page.as_uri()}#outcome={outcome}")))
        for outcome in ("wrong", "right")
    ]
    assert sum(counts) == 12
    assert counts[0] >= 8


def num_pixels(picture: NDArray[numpy.uint8], colour: tuple[int, int, int]) -> int:
    return int((picture == numpy.array(colour, dtype=numpy.uint8)).all(axis=2).sum())


@pytest.mark.parametrize("width", [1280, 390])
def test_it_looks_like_something_at_both_widths(tmp_path: Path, page: Path, width: int) -> None:
    picture = screenshot(tmp_path / "profile", page, f"{width},7000")
    assert picture.shape == (7000, width, 3)
    assert num_pixels(picture, OURS_COLOUR) > 5000, "our rows stand out"
    assert num_pixels(picture, RIGHT_COLOUR) > 5000, "truths stand out"
    margin = picture[:, -6:].reshape(-1, 3)
    assert (margin == margin[-1]).all(axis=1).mean() > 0.97, "nothing runs over the edge"


def test_dark_is_dark(tmp_path: Path, page: Path) -> None:
    picture = screenshot(tmp_path / "profile", page, "800,1500", "--blink-settings=preferredColorScheme=0")
    assert num_pixels(picture, (0x14, 0x16, 0x18)) > 100_000
    assert num_pixels(picture, (255, 255, 255)) < 2000


def test_drawings_escape_names_and_draw_what_is_there() -> None:
    axes = {"EgoSchema": 0.5, "EgoPlan": 1.0, "VLN-QA": 0.0}
    drawing = radar_chart({ATTACK: axes, "half": {**axes, "EgoPlan": None}})
    assert "<script" not in drawing
    assert drawing.count("<polygon") == 4 + 1, "four rings; the run without an axis has dots alone"
    assert drawing.count("<path") == 3 + 2
    shapes = re.findall(r'<path class="line(\d)" [^>]* d="([^"]+)"', drawing)
    assert len({shape for _, shape in shapes}) == 2, "lines differ in more than colour"
    assert 'points="0.0,-75.0 ' in drawing
    bar = interval_bar(Bar(0.25, Interval(0.0, 1.0), None))
    assert 'x1="0.0" y1="7.0" x2="160.0"' in bar
    assert 'cx="40.0"' in bar
    assert "chance" not in bar
    beside = interval_bar(Bar(0.5, None, 0.2, blind=0.25, shuffled=0.5))
    assert '<circle class="blind" cx="40.0"' in beside
    assert '<line class="range" x1="40.0" y1="7.0" x2="80.0"' in beside
    assert '<rect class="shuffled" x="77.5"' in beside
