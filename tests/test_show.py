"""The page of records: what it holds, that nothing in the data can act in it, and what it costs."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo2ego.data.processor import Exo2EgoProcessor
from exo2ego.data.prompting import user_turn
from exo2ego.errors import CheckpointError
from exo2ego.records import Record
from scripts import show
from scripts.record_files import open_records
from scripts.show_prompts import Piece, PromptBuilder, load_builder, token_texts
from tests.conftest import RunPython
from tests.data.generated_videos import write_video
from tests.record_examples import clip, conversation, prediction, question, write_pictures, write_records
from tests.tiny_models import tiny_tokenizer

HOSTILE = '</script><script>document.title="ran"</script><img src=x onerror=alert(1)>" onmouseover="alert(2)'


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("media")
    write_video(root / "ego.mp4", 60)
    write_video(root / "exo.mp4", 60)
    write_pictures(root / "pictures", (200, 30, 40))
    return root


@pytest.fixture(scope="module")
def processor() -> Exo2EgoProcessor:
    return Exo2EgoProcessor(tiny_tokenizer(), {"ego": 24}, num_frames=4)


def page_of(tmp_path: Path, records: Sequence[Record] | Path, *arguments: Any) -> str:
    path = records if isinstance(records, Path) else write_records(tmp_path / "records.jsonl", records)
    out = tmp_path / "page.html"
    assert show.main([str(path), "--out", str(out), *map(str, arguments)]) == 0
    return out.read_text(encoding="utf-8")


def shown_text(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page.partition("<main>")[2])).split())


def test_a_clip_shows_both_views_with_the_times_of_their_frames(tmp_path: Path, media: Path) -> None:
    path = write_records(tmp_path / "clips.parquet", [clip()])
    page = page_of(tmp_path, path, "--media-root", media, "--frames", 3)
    assert page.count('src="data:image/webp;base64,') == 6
    # frames 6 to 18 of 30 per second; the middles of three segments are frames 8, 12, 16
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert captions == ["0.27 s", "0.40 s", "0.53 s"] * 2
    assert re.findall(r"<b>(\w+)</b> ([\w.]+)", page) == [("ego", "ego.mp4"), ("exo", "exo.mp4")]
    prompt = '<span class="video">&lt;video&gt;</span><span class="target">C lifts the red cup.</span>'
    assert prompt in page


def test_a_question_marks_truth_also_correct_and_similarity(tmp_path: Path, media: Path) -> None:
    page = page_of(tmp_path, [question()], "--media-root", media)
    items = re.findall(r'<li class="(\w*)"><span>(\w)</span><span>(.*?)</span>(.*?)</li>', page, re.DOTALL)
    assert [(state, letter, text) for state, letter, text, _ in items] == [
        ("", "A", "wash the cup"),
        ("truth", "B", "lift the red cup"),
        ("also", "C", "raise the red cup"),
    ]
    assert [re.search(r"sim ([\d.]+)", rest)[1] for *_, rest in items] == ["0.41", "1.00", "0.93"]  # type: ignore[index]
    text = shown_text(page)
    assert "by likelihood: question_only@1" in text
    assert "(C) raise the red cup [/INST] B" in text  # in letter form the letter is what is scored


def test_predictions_stand_beside_their_questions(tmp_path: Path, media: Path) -> None:
    asked = write_records(tmp_path / "questions.json", [question()])
    answers = [prediction(), prediction(mode="letter", predicted_index=1), prediction(id="ek100/9")]
    page = page_of(tmp_path, [*answers], "--questions", asked, "--media-root", media)
    assert re.findall(r'data-outcome="(\w+)"', page) == ["wrong", "right", "wrong"]
    first, second, third = page.split("<article")[1:]
    assert 'class="missed"><span>A</span><span>wash the cup' in first
    assert "-0.500" in first
    assert "by likelihood" in first
    assert "by letter" not in first
    assert "by letter" in second
    assert "its question is not in --questions" in third


def test_a_hostile_caption_stays_text(tmp_path: Path) -> None:
    row = conversation(id=HOSTILE, source=HOSTILE, type=HOSTILE, answer=HOSTILE, question=HOSTILE, video=HOSTILE)
    page = page_of(tmp_path, [row, question(options=[HOSTILE, "b"], answer_index=0, meta={HOSTILE: HOSTILE})])
    assert HOSTILE in shown_text(page)
    assert page.count("<script>") == 1
    assert "<img src=x" not in page
    assert not re.findall(r"<[^>]*\sonmouseover=", re.sub(r'"[^"]*"', '""', page))


def test_the_page_is_self_contained_and_its_policy_allows_only_its_own_script(tmp_path: Path) -> None:
    page = page_of(tmp_path, [conversation()])
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    policy = html.unescape(re.findall(r'Content-Security-Policy" content="(.*?)"', page)[0])
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        content = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[0]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_what_cannot_be_shown_says_why_and_is_counted(
    tmp_path: Path, media: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (media / "broken.mp4").write_bytes(b"no video")
    rows = [
        conversation(video="absent.mp4"),
        conversation(id="egtea/2", video="broken.mp4"),
        conversation(id="egtea/3", video="../no_such_video_outside.mp4"),
        conversation(id="egtea/4", video="pictures", start=0, end=1),
        conversation(id="egtea/5", video="pictures"),
        conversation(id="egtea/6", video="pictures", start=0, end=1, frame_rate=2),
    ]
    path = write_records(tmp_path / "rows.jsonl", rows)
    with path.open("a") as stream:
        stream.write('{"id": "egtea/7", "source": "egtea"}\n')
    page = page_of(tmp_path, path, "--media-root", media)
    told = capsys.readouterr().out
    for line in ("missing: 2", "no_frame_rate: 1", "records with a fault: 1", "shown: 7 records, 2 views"):
        assert line in told
    text = shown_text(page)
    assert "a span of a frame folder needs its frame rate" in text
    assert "picture 1" in text
    assert "0.50 s" in text
    assert "answer: Field required" in text


def test_the_pictures_of_a_page_are_bounded(tmp_path: Path, media: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[Record] = [conversation(id=f"egtea/{number}") for number in range(8)]
    page = page_of(tmp_path, rows, "--media-root", media, "--max-megabytes", 0.02)
    assert len(page) < 100_000
    assert re.search(r"page_full: \d", capsys.readouterr().out)
    assert "left out: the page has reached its size" in page


def test_records_are_chosen_first_or_by_seed_or_by_value(tmp_path: Path) -> None:
    rows = [conversation(id=f"x/{number}", source="ab"[number % 2]) for number in range(40)]
    records = open_records(write_records(tmp_path / "rows.jsonl", rows))
    assert show.chosen_places(records, 3, [], None) == [0, 1, 2]
    drawn = show.chosen_places(records, 10, [], 1)
    assert drawn == sorted(set(drawn)) == show.chosen_places(records, 10, [], 1)
    assert drawn != show.chosen_places(records, 10, [], 2)
    assert show.chosen_places(records, 3, ["source=b"], None) == [1, 3, 5]
    assert show.chosen_places(records, 3, ["source=b", "id=x/7"], None) == [7]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "source=c"], "it has source: egtea"),
        (["--only", "source"], "expected key=value"),
        (["--media-root", "/nowhere"], "no such folder"),
        (["--model", "/nowhere"], "holds no processor"),
        (["--questions", "x.jsonl"], "--questions goes with predictions"),
        (["-n", "0"], "must be positive"),
    ],
)
def test_a_wrong_command_line_is_one_message(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_records(tmp_path / "rows.jsonl", [conversation()])
    assert show.main([str(path), "--out", str(tmp_path / "page.html"), *arguments]) in (2, 3, 4)
    told = capsys.readouterr().err
    assert message in " ".join(told.split())
    assert "Traceback" not in told
    assert not (tmp_path / "page.html").exists()


def ids_of(pieces: list[Piece], *kinds: str) -> list[int | None]:
    return [piece.token_id for piece in pieces if piece.kind in kinds for _ in range(piece.count)]


def test_the_tokens_shown_are_those_of_training(processor: Exo2EgoProcessor) -> None:
    builder = PromptBuilder(processor, "plain", has_model=True)
    row = conversation(instruction="Look closely.", options=["Lifting é.", "No."], answer="Lifting é.")
    prompt = processor.chat_prompt(user_turn(row.instruction, row.question, row.options))
    (shown,) = builder(row)
    assert ids_of(shown.pieces, "prompt", "video") == processor.encode_prompt(prompt)
    assert ids_of(shown.pieces, "target") == processor.encode_continuation(row.answer)
    assert [piece.count for piece in shown.pieces if piece.kind == "video"] == [24]

    (narrated,) = builder(clip())
    assert ids_of(narrated.pieces, "prompt", "video") == processor.encode_prompt(processor.plain_prompt())
    assert ids_of(narrated.pieces, "target") == processor.encode_continuation("C lifts the red cup.")


@given(st.text(alphabet=st.sampled_from("ab c.é漢🙂\n<[/"), max_size=90))
def test_the_texts_of_tokens_are_complete(text: str) -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer(text, add_special_tokens=False).input_ids
    texts = token_texts(tokenizer, ids)
    assert len(texts) == len(ids)
    if text.isascii():
        assert "".join(texts) == text
    assert all(character in "".join(texts) for character in text)


def test_a_run_and_an_exported_model_give_their_processor(tmp_path: Path, processor: Exo2EgoProcessor) -> None:
    run = tmp_path / "run"
    processor.save_pretrained(run / "processor")
    (run / "run.json").write_text(json.dumps({"provenance": {"config": {"data": {"text_format": "chat"}}}}))
    (run / "checkpoints" / "step_00000001").mkdir(parents=True)
    for folder, text_format in ((run, "chat"), (run / "checkpoints" / "step_00000001", "chat")):
        builder = load_builder(folder)
        assert (builder.text_format, builder.has_model) == (text_format, True)
        assert builder.processor.num_video_tokens == {"ego": 24}
    processor.save_pretrained(tmp_path / "exported")
    assert load_builder(tmp_path / "exported").text_format == "plain"
    (tmp_path / "exported" / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_builder(tmp_path / "exported")


def test_the_command_writes_a_page(tmp_path: Path, media: Path, run_python: RunPython) -> None:
    path = write_records(tmp_path / "ek100_mir.json", [question()])
    done = run_python("-m", "scripts.show", path, "--media-root", media, "-n", 5, "--out", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    assert "ek100_mir.json: 1 questions" in done.stdout
    assert "shown: 1 records, 1 views" in done.stdout
    assert (tmp_path / "page.html").stat().st_size < 100_000
