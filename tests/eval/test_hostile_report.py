"""Texts of questions, answers, names and failures are data in every file of a report, and cannot act in the page."""

from __future__ import annotations

import csv
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from eval import report
from exo2ego.storage import read_json, read_jsonl, write_json, write_jsonl
from tests.eval.result_folder import question, write_run
from tests.eval.test_report_page import run_browser

ATTACKS = (
    "<script>document.title='ran'</script>",
    "</script><script>document.title='ran'</script>",
    '"><img src=x onerror="document.title=\'ran\'">',
    "' onmouseover='document.title=1' x='",
    "<a href=\"javascript:document.title='ran'\">x</a>",
    "javascript:document.title='ran'",
    "--><svg/onload=document.title='ran'>",
    "{{ 7 * 7 }}{% raw %}",
    "</title></style><base href=https://elsewhere.example>",
    "&lt;script&gt; &#x3c;script&#x3e;",
    "\u202ereversed\u202c \x1b[31mred\x07 \x00",
    "=cmd|' /C calc'!A0",
    "| a | b |\n| --- |",
    "\\input{/etc/passwd} $x^2$ 100 % & # _ { }",
)


class Elements(HTMLParser):
    """Notes every element and every attribute that could act or load."""

    def __init__(self) -> None:
        super().__init__()
        self.acting: list[tuple[str, str, str]] = []
        self.counts: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes an element."""
        self.counts[tag] = self.counts.get(tag, 0) + 1
        for name, value in attrs:
            loads = name in ("src", "href", "action", "formaction", "srcdoc", "data", "xlink:href")
            is_local = (value or "").startswith(("#", "data:image/"))
            if name.startswith("on") or (loads and not is_local):
                self.acting.append((tag, name, value or ""))


def write_hostile(folder: Path, attack: str) -> Path:
    """Writes a run in which every text that somebody else chose is an attack."""
    asked: list[dict[str, Any]] = []
    for number in range(6):
        row = question("egotaskqa_direct", number)
        reasoning = {"reasoning_type": f"{attack}$world", "answer_form": attack}
        asked.append(
            {
                **row,
                "id": f"{attack}/{number}",
                "video": f"{attack}/{number}.mp4",
                "question": f"{attack} {number}?",
                "options": [f"{attack} {place}" for place in range(5)],
                "answer_text": attack,
                "meta": {**row["meta"], **reasoning, "note": attack},
            }
        )
    asked.append({**question("egoplan", 0), "id": "other", "task": attack})
    write_run(folder, questions=asked, modes=("likelihood", "generate"), skill=0.3)
    rows = [
        {**row, "raw_output": attack} if row["mode"] == "generate" else row
        for row in read_jsonl(folder / "predictions.jsonl")
    ]
    failed = rows.pop(0)
    write_jsonl(folder / "predictions.jsonl", rows)
    failure = {name: failed[name] for name in ("id", "task", "mode", "video")}
    write_jsonl(folder / "failures.jsonl", [{**failure, "reason": attack, "detail": attack}])
    described = read_json(folder / "run.json")
    described["provenance"]["model"] = {"encoder": attack, "language_model": attack}
    described["provenance"]["config"]["model"] = f"stub:{attack}"
    described["provenance"]["packages"] = {attack: attack}
    described["provenance"]["inputs"] = {f"/somewhere/{attack.replace('/', '')}": attack}
    write_json(folder / "run.json", described)
    return folder


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_of_the_data_acts(tmp_path: Path, attack: str) -> None:
    run = write_hostile(tmp_path / "run", attack)
    plain = write_hostile(tmp_path / "plain", "a plain word")
    name = attack.replace(",", "")
    pages = []
    for folder, title in ((run, name), (plain, "a plain word")):
        out = folder / "report"
        assert report.main([str(folder), "--out", str(out), f"--names={title}"]) == 0
        pages.append(Elements())
        pages[-1].feed((out / "report.html").read_text(encoding="utf-8"))
    assert pages[0].acting == []
    for tag in ("script", "style", "base", "iframe", "object", "form", "img", "meta", "title"):
        assert pages[0].counts.get(tag, 0) == pages[1].counts.get(tag, 0), f"the data made a <{tag}>"
    assert read_json(tmp_path / "run" / "report" / "results.json")["runs"][0]["name"] == name
    with (tmp_path / "run" / "report" / "results.csv").open(encoding="utf-8", newline="") as stream:
        widths = {len(row) for row in csv.reader(stream)}
    assert len(widths) == 1, "a text broke out of its cell"


def test_nothing_runs_in_a_browser(tmp_path: Path) -> None:
    run = write_hostile(tmp_path / "run", " ".join(ATTACKS))
    assert report.main([str(run), "--out", str(tmp_path / "out")]) == 0
    page = tmp_path / "out" / "report.html"
    dom = run_browser(tmp_path / "profile", "--dump-dom", page.as_uri())
    assert "<title>ran</title>" not in dom
    assert " shown</output>" in dom, "the page's own script did run"
