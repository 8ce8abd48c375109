"""A tiny EGTEA Gaze+ as downloaded: made-up rows in the real structure, traps included."""

from __future__ import annotations

from pathlib import Path

LABELS = """\
# Clip ID (Unique, used only internally); Clip Prefix (Unique); Video Session; Starting Time (ms);  Ending Time (ms); Action Label; Verb Label; Noun Label(s)
1; P90-R01-PastaSalad-1000-3500; P90-R01-PastaSalad; 1000; 3500; Inspect/Read recipe; Inspect/Read; recipe
2; P90-R01-PastaSalad-4000-4900; P90-R01-PastaSalad; 4000; 4900; Move Around paper_towel,eating_utensil; Move Around; paper_towel,eating_utensil
4; OP91-R07-Pizza-0-733; OP91-R07-Pizza; 0; 733; Close unkown; Close; unkown
5; OP91-R07-Pizza-900-1900; OP91-R07-Pizza; 900; 1900; Move Around paper_towel; Take; paper_towel
6; OP91-R07-Pizza-2000-2000; OP91-R07-Pizza; 2000; 2000; Inspect/Read recipe; Inspect/Read; recipe
7; P90-R01-PastaSalad-9000-8000; P90-R01-PastaSalad; 9000; 8000; Inspect/Read recipe; Inspect/Read; recipe
"""  # noqa: E501
CLASSES = """\
# Action ID; Action Label; Verb Label; Noun Label(s)
0; Inspect/Read recipe ; Inspect/Read; recipe
1; Move Around paper_towel,eating_utensil ; Move Around; paper_towel,eating_utensil
"""
ACTIONS = "Inspect/Read recipe 1\nMove Around paper_towel,eating_utensil 2\n"
VERBS = "Inspect/Read 1\nMove Around 2\n\n"
NOUNS = "recipe 1\npaper_towel 2\neating_utensil 3\n"
TRAIN = [
    "P90-R01-PastaSalad-1000-3500-F000022-F000087 1 1 1",
    "P90-R01-PastaSalad-4000-4900-F000095-F000120 2 2 2 3",
]
TEST = ["OP91-R07-Pizza-2000-2000-F000047-F000049 1 1 1 2"]  # one noun more than the action's


def write_egtea(root: Path) -> None:
    """Writes `action_annotation`; the videos are absent."""
    folder = root / "action_annotation"
    (folder / "raw_annotations").mkdir(parents=True)
    (folder / "raw_annotations" / "action_labels.csv").write_text(LABELS)
    (folder / "raw_annotations" / "cls_label_index.csv").write_text(CLASSES)
    for name, text in (("action_idx", ACTIONS), ("verb_idx", VERBS), ("noun_idx", NOUNS)):
        (folder / f"{name}.txt").write_text(text)
    for number in (1, 2, 3):  # three splits of the same clips
        train, test = (TRAIN, TEST) if number == 1 else (TRAIN[:1] + TEST, TRAIN[1:])
        (folder / f"train_split{number}.txt").write_text("\n".join(train) + "\n")
        (folder / f"test_split{number}.txt").write_text("\n".join(test) + "\n")
