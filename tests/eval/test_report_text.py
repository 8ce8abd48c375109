"""The same digits in every format, and texts that cannot break a table."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest

from eval.reporting.results import Results, read_results
from eval.reporting.text import CSV_HEADER, csv_text, latex, markdown_document
from tests.eval.result_folder import question, write_run


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "a", modes=("likelihood", "generate"), num_questions=10)
    write_run(folder / "b", num_questions=10, seed=1, shuffle_frames=True)
    return read_results([folder / "a", folder / "b"], ["50 % & _more_", "b|c"])


def test_the_same_digits_everywhere(results: Results) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(results))))
    assert tuple(rows[0]) == CSV_HEADER
    markdown, tex = markdown_document(results).replace("\\|", "|"), latex(results)
    measured = [row for row in rows if row["task"] != "average"]
    assert len(measured) == sum(len(score.measures) for run in results.runs for score in run.scores)
    assert len(measured) >= 3 * (10 + 2 + 1), "three of run and mode; further measures of the ranked tasks"
    for row in measured:
        cells = f"{row['task']} | {row['mode']} | {row['measure']} | {row['value']} | {row['interval_95']} | "
        assert f"| {row['run']} | {cells}{row['chance']} | {row['questions']} | {row['videos']} |" in markdown
        tail = f"{row['measure']} & {row['value']} & {row['interval_95'].replace('–', '--')} &".replace("_", r"\_")
        assert tail in tex
    averages = [row for row in rows if row["task"] == "average"]
    assert len(averages) == 3
    for row in averages[:2]:
        assert f"| **{row['value']}** | **{row['interval_95']}** |" in markdown


def test_latex_escapes_and_balances(results: Results) -> None:
    text = latex(results)
    assert r"50 \% \& \_more\_" in text
    body = text.split("\n", 1)[1].replace("}{!}{%\n", "}{!}{\n")
    bare = re.sub(r"\\([a-zA-Z]+|.)", "", body)
    assert not set("%#_~^") & set(bare.replace("^$", "")), "a character that LaTeX would act upon"
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"\\\\\s*\[", body), "a bracket behind the end of a line is its option"
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    tables = re.findall(r"\\begin\{(?:tabular|longtable)\}\{([lr]+)\}(.*?)\\end\{", body, re.DOTALL)
    assert len(tables) == 3 + 6, "results, average, controls and six of the paper"
    for columns, content in tables:
        lines = [line for line in content.splitlines() if line.endswith(r" \\") and "multicolumn" not in line]
        rows = [line for line in lines if not line.startswith(r"\caption")]
        assert {len(re.findall(r"(?<!\\) & ", f" {line}")) + 1 for line in rows} == {len(columns)}


def test_markdown_rows_have_the_width_of_their_table(results: Results) -> None:
    for block in markdown_document(results).split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) <= 1, block[:200]


def test_partial_labels_are_told(tmp_path: Path) -> None:
    asked = [question("egoschema", n, **({"answer_index": None} if n % 2 else {})) for n in range(10)]
    text = markdown_document(read_results([write_run(tmp_path, questions=asked)]))
    assert "EgoSchema: over the 5 questions with a public label, of 10 answered." in text
