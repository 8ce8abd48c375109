"""The page of records in a real browser: it looks like something, its filters work, data cannot act in it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy
import pytest
from numpy.typing import NDArray

from exo2ego.data.processor import Exo2EgoProcessor
from scripts import show
from tests.browser import browser, run_browser, screenshot
from tests.record_examples import conversation, question, write_pictures, write_records
from tests.tiny_models import tiny_tokenizer

RED = (200, 30, 40)
TARGET_COLOURS = ((0xFF, 0xD2, 0x7A), (0xFF, 0xE3, 0xAD))
TRUTH_COLOUR = (0xDF, 0xF3, 0xE6)
VIDEO_COLOUR = (0x0B, 0x6B, 0x53)
DARK_PAGE = (0x14, 0x16, 0x18)


def num_pixels(picture: NDArray[numpy.int64], colour: tuple[int, int, int], tolerance: int = 0) -> int:
    return int((numpy.abs(picture - numpy.array(colour)).max(axis=2) <= tolerance).sum())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    browser()
    folder = tmp_path_factory.mktemp("page")
    write_pictures(folder / "media" / "pictures", RED)
    processor = Exo2EgoProcessor(tiny_tokenizer(), {"ego": 24}, num_frames=4)
    processor.save_pretrained(folder / "model")
    attack = "<script>document.title = 'ran'</script><img src=x onerror=\"document.title = 'ran'\">"
    rows = [
        conversation(id=f"row/{number}", source=("egtea", "ssv2")[number % 2], type=("what", "a&b=c")[number // 3])
        for number in range(5)
    ]
    rows = [row.model_copy(update={"video": "pictures", "instruction": attack}) for row in rows]
    rows.append(rows[0].model_copy(update={"conversation_id": "row/lamp", "answer": "Switching on the LAMP."}))
    path = write_records(folder / "rows.jsonl", rows)
    arguments = ["--media-root", str(folder / "media"), "--model", str(folder / "model")]
    assert show.main([str(path), "--out", str(folder / "page.html"), *arguments]) == 0
    return folder / "page.html"


def visible_ids(dom: str) -> list[str]:
    articles = re.findall(r"<article([^>]*)>\s*<h2>.*?<code>(.*?)</code>", dom, re.DOTALL)
    return [record_id for attributes, record_id in articles if not re.search(r'\shidden=""', attributes)]


@pytest.mark.parametrize(
    ("fragment", "expected"),
    [
        ("", ["row/0", "row/1", "row/2", "row/3", "row/4", "row/lamp"]),
        ("#source=ssv2", ["row/1", "row/3"]),
        ("#source=egtea&type=what", ["row/0", "row/2", "row/lamp"]),
        ("#type=a%26b%3Dc", ["row/3", "row/4"]),
        ("#q=lamp%20switching", ["row/lamp"]),
        ("#source=ssv2&q=lamp", []),
        ("#source=unknown", ["row/0", "row/1", "row/2", "row/3", "row/4", "row/lamp"]),
    ],
)
def test_the_address_sets_the_filters(tmp_path: Path, page: Path, fragment: str, expected: list[str]) -> None:
    dom = run_browser(tmp_path / "profile", "--dump-dom", page.as_uri() + fragment)
    assert visible_ids(dom) == expected
    assert f"<output>{len(expected)} of 6 shown</output>" in dom
    assert ('class="nothing" hidden' in dom) == bool(expected)
    assert "<title>rows.jsonl · conversations</title>" in dom  # the script in the data did not run


def test_a_script_that_slipped_into_the_page_would_be_refused(tmp_path: Path, page: Path) -> None:
    broken = tmp_path / "broken.html"
    attack = "<img src=x onerror=\"document.title='ran'\"><script>document.title='ran'</script>"
    broken.write_text(page.read_text(encoding="utf-8").replace("</main>", f"{attack}</main>"), encoding="utf-8")
    dom = run_browser(tmp_path / "profile", "--dump-dom", broken.as_uri())
    assert "<title>rows.jsonl · conversations</title>" in dom
    assert visible_ids(dom)  # and ours still runs


def test_the_page_shows_frames_and_coloured_tokens(tmp_path: Path, page: Path) -> None:
    picture = screenshot(tmp_path / "profile", page, "1200,900")
    assert picture.shape == (900, 1200, 3)
    assert num_pixels(picture, RED, tolerance=12) > 4 * 6000  # four frames of one record at least
    targets = [num_pixels(picture, colour) for colour in TARGET_COLOURS]
    assert min(targets) > 300, "neighbouring target tokens have two shades"
    assert num_pixels(picture, VIDEO_COLOUR) > 500
    assert num_pixels(picture, (255, 255, 255)) > 100_000


def test_a_narrow_window_holds_everything_and_dark_is_dark(tmp_path: Path, page: Path) -> None:
    picture = screenshot(tmp_path / "profile", page, "500,1400", "--blink-settings=preferredColorScheme=0")
    assert picture.shape == (1400, 500, 3)
    assert num_pixels(picture, DARK_PAGE) > 10_000
    assert num_pixels(picture, (255, 255, 255)) < 2000
    frames = (numpy.abs(picture - numpy.array(RED)).max(axis=2) <= 12).any(axis=0).nonzero()[0]
    assert frames.min() > 5
    assert frames.max() < 495, "the frames fit into the width of the window"


def test_the_truth_stands_out(tmp_path: Path) -> None:
    browser()
    path = write_records(tmp_path / "questions.jsonl", [question()])
    assert show.main([str(path), "--out", str(tmp_path / "page.html")]) == 0
    picture = screenshot(tmp_path / "profile", tmp_path / "page.html", "1000,700")
    assert num_pixels(picture, TRUTH_COLOUR) > 3000
