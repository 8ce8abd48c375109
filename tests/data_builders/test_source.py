"""What all EgoIT and EgoBench builders share: all or nothing, every row accounted for, the paper's counts beside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from data_builders.all_sources import config_class, run_all, run_all_command
from data_builders.media import MediaFolder
from data_builders.paper_counts import PaperCount, compare
from data_builders.source import Account, Source, SourceOptions, build_source, run_source
from exo2ego.config import load_config
from exo2ego.errors import ConfigError, DataError
from exo2ego.raw.files import RawFiles
from exo2ego.raw.rows import FileStem, RawRow, Text
from exo2ego.records import Question
from exo2ego.storage import hash_file


class Row(RawRow):
    """A question of the example source."""

    video: FileStem
    question: Text


class ExampleOptions(SourceOptions):
    """Options of the example source."""

    shout: bool = False
    """Whether questions are in capitals."""


def read(options: ExampleOptions, account: Account) -> Mapping[str, Iterator[Question]]:
    """Reads the example source."""
    files = RawFiles(options.root, "Example")
    path = files.find("questions.json", what="questions")
    media = MediaFolder(options, ["videos/{video}.mp4", "clips/{video}.mp4"], account)

    def questions(task: str) -> Iterator[Question]:
        for number, (where, row) in enumerate(files.json_rows(path, Row, "questions")):
            video = media.find(where, video=row.video)
            if video is None:
                continue
            text = row.question.upper() if options.shout else row.question
            yield Question(
                id=f"{task}/{row.question if task == 'two' else number}",
                task=task,
                source="example",
                video=video,
                question=text,
                options=["a", "b"],
                answer_index=1,
            )
        account.inputs = files.hashes()

    return {task: questions(task) for task in ("one", "two")}


def example_question(question_id: str) -> Question:
    """Returns a question about no video in particular."""
    return Question(
        id=question_id, task="one", source="example", video="v.mp4", question="?", options=["a", "b"], answer_index=1
    )


EXAMPLE = Source(
    name="example",
    kind="egobench",
    options=ExampleOptions,
    read=read,
    tables=("one", "two"),
    paper={"one": PaperCount(3, "Table 2", reason="one is gone")},
)


def corpus(root: Path, *, texts: tuple[str, ...] = ("who?", "what?"), videos: tuple[str, ...] = ("v0", "v1")) -> Path:
    (root / "clips").mkdir(parents=True, exist_ok=True)
    rows = [{"video": f"v{number}", "question": text} for number, text in enumerate(texts)]
    (root / "questions.json").write_text(json.dumps(rows))
    for name in videos:
        (root / "clips" / f"{name}.mp4").touch()
    return root


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_a_build_writes_tables_and_their_account(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = corpus(tmp_path / "raw"), tmp_path / "out"
    assert run_source(EXAMPLE, "Example.", ["--root", str(root), "--out", str(out), "--shout", "--seed", "3"]) == 0
    assert sorted(content(out)) == ["example.summary.json", "one.json", "one.jsonl", "two.json", "two.jsonl"]
    rows = [json.loads(line) for line in (out / "one.jsonl").read_text().splitlines()]
    assert [(row["id"], row["video"], row["question"]) for row in rows] == [
        ("one/0", "clips/v0.mp4", "WHO?"),
        ("one/1", "clips/v1.mp4", "WHAT?"),
    ]
    assert json.loads((out / "one.json").read_text()) == rows
    summary = json.loads((out / "example.summary.json").read_text())
    assert summary["tables"]["one"] == {"file": "one.jsonl", "rows": 2, "sha256": hash_file(out / "one.jsonl")}
    assert summary["provenance"]["seed"] == 3
    assert summary["provenance"]["config"]["shout"] is True
    assert summary["provenance"]["inputs"] == {"questions.json": hash_file(root / "questions.json")}
    assert "one: 2 rows, the paper has 3 (Table 2): -1; one is gone" in capsys.readouterr().out


def test_the_same_input_gives_the_same_tables(tmp_path: Path) -> None:
    root = corpus(tmp_path / "raw")
    for name in ("first", "second"):
        build_source(EXAMPLE, ExampleOptions(root=root, out=tmp_path / name))
    first, second = content(tmp_path / "first"), content(tmp_path / "second")
    assert {name: data for name, data in first.items() if "summary" not in name} == {
        name: data for name, data in second.items() if "summary" not in name
    }


def test_a_fault_in_the_last_table_leaves_the_former_build(tmp_path: Path) -> None:
    root, out = corpus(tmp_path / "raw"), tmp_path / "out"
    build_source(EXAMPLE, ExampleOptions(root=root, out=out))
    before = content(out)
    corpus(root, texts=("same?", "same?"))  # ids of the second table are the texts
    with pytest.raises(DataError, match="id 'two/same\\?' would be given to two records"):
        build_source(EXAMPLE, ExampleOptions(root=root, out=out))
    assert content(out) == before


def test_no_build_takes_the_place_of_the_raw_files(tmp_path: Path) -> None:
    root = corpus(tmp_path / "raw")
    with pytest.raises(ConfigError, match="is the folder of the raw dataset"):
        build_source(EXAMPLE, ExampleOptions(root=root, out=root))
    (root / "deep").mkdir()
    (root / "questions.json").rename(root / "deep" / "one.json")

    def read_deep(options: ExampleOptions, account: Account) -> Mapping[str, list[Question]]:
        files = RawFiles(options.root, "Example")
        rows = list(files.json_rows(files.find("deep/one.json", what="questions"), Row, "questions"))
        account.inputs = files.hashes()
        return {"one": [example_question(str(number)) for number, _ in enumerate(rows)]}

    before = (root / "deep" / "one.json").read_bytes()
    deep = replace(EXAMPLE, read=read_deep)
    with pytest.raises(ConfigError, match="holds one, a file of the raw dataset"):
        build_source(deep, ExampleOptions(root=root, out=root / "deep"))
    assert (root / "deep" / "one.json").read_bytes() == before


def test_what_a_former_build_made_of_more_files_goes(tmp_path: Path) -> None:
    root, out = corpus(tmp_path / "raw"), tmp_path / "out"
    build_source(EXAMPLE, ExampleOptions(root=root, out=out))
    (out / "two.quality.json").touch()
    (out / "mine.json").touch()

    def read_one(options: ExampleOptions, account: Account) -> Mapping[str, Iterator[Question]]:
        return {"one": read(options, account)["one"]}

    build_source(replace(EXAMPLE, read=read_one), ExampleOptions(root=root, out=out))
    assert sorted(content(out)) == ["example.summary.json", "mine.json", "one.json", "one.jsonl"]


@pytest.mark.parametrize(
    ("policy", "kept", "where"),
    [("keep", 2, "noted"), ("drop", 1, "dropped")],
)
def test_a_missing_video_is_counted(tmp_path: Path, policy: str, kept: int, where: str) -> None:
    root = corpus(tmp_path / "raw", videos=("v1",))
    options = ExampleOptions.model_validate({"root": root, "out": tmp_path / "out", "missing_videos": policy})
    summary = build_source(EXAMPLE, options)
    assert summary["tables"]["one"]["rows"] == kept
    assert summary[where] == {"missing_video": 2}  # once per table
    assert summary["examples"]["missing_video"][0].startswith(f"{root / 'questions.json'}: row 1: videos/v0.mp4")


def test_a_missing_video_can_stop_the_build(tmp_path: Path) -> None:
    root = corpus(tmp_path / "raw", videos=())
    with pytest.raises(DataError, match=r"row 1: the video .*videos/v0.mp4 is not there"):
        build_source(EXAMPLE, ExampleOptions(root=root, out=tmp_path / "out", missing_videos="stop"))
    assert not list((tmp_path / "out").iterdir())


def test_nothing_kept_is_an_error(tmp_path: Path) -> None:
    root = corpus(tmp_path / "raw", videos=())
    with pytest.raises(DataError, match=r"no row was kept; left out: \{'missing_video': 4\}"):
        build_source(EXAMPLE, ExampleOptions(root=root, out=tmp_path / "out", missing_videos="drop"))
    assert not list((tmp_path / "out").iterdir())


def test_paths_are_relative_to_the_media_root(tmp_path: Path) -> None:
    root = corpus(tmp_path / "media" / "raw")
    options = ExampleOptions(root=root, out=tmp_path / "out", media_root=tmp_path / "media")
    build_source(EXAMPLE, options)
    assert json.loads((tmp_path / "out" / "one.json").read_text())[0]["video"] == "raw/clips/v0.mp4"
    with pytest.raises(ConfigError, match="must lie inside the media root"):
        build_source(EXAMPLE, ExampleOptions(root=root, out=tmp_path / "out", media_root=tmp_path / "elsewhere"))


def test_a_path_that_leads_out_is_refused_even_if_a_reader_lets_it_through(tmp_path: Path) -> None:
    media = MediaFolder(ExampleOptions(root=tmp_path, out=tmp_path), ["videos/{video}.mp4"], Account())
    with pytest.raises(DataError, match="leads out of the videos' folder"):
        media.find("row 1", video="../../../etc/passwd")


def test_a_video_is_a_file_and_pictures_are_a_folder(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").mkdir()
    (tmp_path / "w").touch()
    account = Account()
    media = MediaFolder(ExampleOptions(root=tmp_path, out=tmp_path), ["{video}.mp4", "frames/{video}"], account)
    assert media.find("row 1", video="v") == "v.mp4"
    assert account.noted == {"missing_video": 1}
    (tmp_path / "frames" / "w").mkdir(parents=True)
    (tmp_path / "w").unlink()
    assert media.find("row 2", video="w") == "frames/w"
    (tmp_path / "frames" / "x").touch()
    assert media.find("row 3", video="x") == "frames/x"
    assert account.noted == {"missing_video": 2}


def test_examples_are_few_and_counts_are_not(tmp_path: Path) -> None:
    account = Account()
    for number in range(20):
        account.drop("broken", f"row {number}")
    assert account.dropped["broken"] == 20
    assert account.examples["broken"] == [f"row {number}" for number in range(5)]


@pytest.mark.parametrize(
    ("paper", "rows", "agrees"),
    [
        (PaperCount(9668, "Table 2"), 9668, True),
        (PaperCount(9668, "Table 2"), 9667, False),
        (PaperCount(15_000, "Table 1", rounded_to=1000), 15_484, True),
        (PaperCount(15_000, "Table 1", rounded_to=1000), 15_501, False),
    ],
)
def test_the_papers_counts_are_compared_as_it_prints_them(paper: PaperCount, rows: int, agrees: bool) -> None:
    told = compare("table", paper, rows)
    assert told["agrees"] is agrees
    assert told["difference"] == rows - paper.rows
    assert ("as in the paper" in told["sentence"]) is agrees


OTHER = Source(name="other", kind="egobench", options=ExampleOptions, read=read, tables=("one", "two"))
AllExamples = config_class("AllExamples", [EXAMPLE, OTHER])


def test_all_runs_what_has_a_root_and_tells_of_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = corpus(tmp_path / "raw"), tmp_path / "out"
    combined: list[str] = []
    config = load_config(AllExamples, None, [f"out={out}", f"example.root={root}", "example.shout=true", "seed=5"])
    assert run_all([EXAMPLE, OTHER], config, lambda _, summaries: combined.extend(summaries)) == 0
    told = capsys.readouterr().out
    assert f"example: written to {out}" in told
    assert "other: skipped: other.root is not given" in told
    assert combined == ["example"]
    summary = json.loads((out / "example.summary.json").read_text())
    assert (summary["provenance"]["seed"], summary["provenance"]["config"]["shout"]) == (5, True)


def test_all_goes_on_after_a_failure_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = corpus(tmp_path / "raw"), tmp_path / "out"
    absent = tmp_path / "absent"
    values = [f"out={out}", f"media_root={tmp_path}", f"example.root={absent}", f"other.root={root}"]
    combined: list[str] = []
    config = load_config(AllExamples, None, values)
    assert run_all([EXAMPLE, OTHER], config, lambda _, summaries: combined.extend(summaries)) == DataError.exit_code
    told = capsys.readouterr().out
    assert "example: failed: " in told
    assert f"other: written to {out}" in told
    assert not combined


def test_all_refuses_paths_without_one_folder(tmp_path: Path) -> None:
    values = [f"out={tmp_path}", f"example.root={tmp_path / 'a'}", f"other.root={tmp_path / 'b'}"]
    with pytest.raises(ConfigError, match=r"relative to different folders \(example: .*, other: .*give media_root"):
        load_config(AllExamples, None, values)
    load_config(AllExamples, None, [*values, f"media_root={tmp_path}"])
    load_config(AllExamples, None, [*values, f"example.videos={tmp_path}", f"other.videos={tmp_path}"])


def test_all_needs_a_root_and_knows_its_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="no source has a root"):
        run_all([EXAMPLE], load_config(AllExamples, None, [f"out={tmp_path}"]))
    assert run_all_command("m", "All.", [EXAMPLE, OTHER], AllExamples, None, ["out=x", "example.shuot=true"]) == 2
    assert "example.shuot: unknown key (did you mean `example.shout`?)" in capsys.readouterr().err
