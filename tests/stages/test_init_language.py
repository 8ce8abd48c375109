"""The stand-in language model: learns the corpus, is written whole, and is never mistaken for another one."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from exo2ego.command_line import RunOptions
from exo2ego.config import load_config
from exo2ego.data.clips import read_clips
from exo2ego.errors import CheckpointError
from exo2ego.records import Conversation
from exo2ego.storage import read_json, read_jsonl
from exo2ego.train import language
from stages.init_language import InitLanguageConfig, described, train_language
from stages.init_language import corpus as lines_of
from tests.shared_data import REPOSITORY
from tests.tiny_corpus import TinyCorpus, write_clips

TINY = REPOSITORY / "stages" / "configs" / "tiny" / "init_language.yaml"


def config_for(corpus: TinyCorpus, output_dir: Path, *overrides: str) -> InitLanguageConfig:
    where = [f"clips={corpus.clips}", f"conversations={corpus.conversations}", f"output_dir={output_dir}"]
    return load_config(InitLanguageConfig, TINY, [*where, "batch_size=8", "epochs=20", *overrides])


def test_the_lines_have_the_form_of_training_samples(corpus: TinyCorpus, tmp_path: Path) -> None:
    lines = lines_of(config_for(corpus, tmp_path))
    assert [answer for _, answer in lines] == [clip.text for clip in read_clips(corpus.clips)] * 2
    for context, answer in lines[:12]:
        assert context == "<video>" or set(context.split()) <= set(answer.rstrip(".").split())
    for context, _ in lines[12:]:
        assert re.fullmatch(r"\[INST\] .*\nWhat does C do\? \[/INST\]", context)
    assert any("<video>" in context for context, _ in lines)


def test_every_file_of_conversations_is_read(corpus: TinyCorpus, tmp_path: Path) -> None:
    once = lines_of(config_for(corpus, tmp_path))
    twice = lines_of(config_for(corpus, tmp_path, f"conversations=[{corpus.conversations},{corpus.conversations}]"))
    assert [answer for _, answer in twice] == [answer for _, answer in once] + [answer for _, answer in once[12:]]
    again = lines_of(config_for(corpus, tmp_path, "conversation_passes=2"))
    assert again == twice
    assert again[12:24] != again[24:]


@pytest.mark.parametrize("answer", ["B", "(B) on the mat", "on the mat"])
def test_a_letter_stands_for_its_option(answer: str) -> None:
    row = Conversation(id="1", source="any", video="v.mp4", options=["on the tray", "on the mat"], answer=answer)
    assert described(row) == "on the mat"


def test_it_learns_and_loads(corpus: TinyCorpus, tmp_path: Path) -> None:
    config = config_for(corpus, tmp_path / "language")
    assert train_language(config, RunOptions()) == 0
    losses = [row["loss"] for row in read_jsonl(tmp_path / "language_log" / "metrics.jsonl")]
    assert len(losses) == 60
    assert losses[-1] < 0.8 * losses[0]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "language")
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(tmp_path / "language"))
    record = read_json(tmp_path / "language" / "provenance.json")
    assert record["config"]["epochs"] == 20
    assert set(record["inputs"]) == {"clips", "conversations/0"}


def test_a_complete_model_is_left_alone_and_another_is_refused(
    corpus: TinyCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output_dir = tmp_path / "language"
    assert train_language(config_for(corpus, output_dir, "epochs=1"), RunOptions()) == 0
    monkeypatch.setattr(language, "train_small_language_model", lambda *_, **__: pytest.fail("trained again"))
    assert train_language(config_for(corpus, output_dir, "epochs=1"), RunOptions()) == 0
    assert "is complete: nothing to do" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(CheckpointError, match="language: was made from another configuration or corpus; remove it"):
        train_language(config_for(corpus, output_dir, "epochs=2"), RunOptions())
    other = TinyCorpus(corpus.root, tmp_path / "fewer.parquet", corpus.conversations, corpus.language_model)
    write_clips(other.clips, read_clips(corpus.clips)[:3])
    with pytest.raises(CheckpointError, match="was made from another configuration or corpus"):
        train_language(config_for(other, output_dir, "epochs=1"), RunOptions())


def test_an_interrupted_training_leaves_no_model(
    corpus: TinyCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = language._text_only_losses

    def losses_and_interrupt(*arguments: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return losses(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(language, "_text_only_losses", losses_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_language(config_for(corpus, tmp_path / "language"), RunOptions())
    assert not (tmp_path / "language").exists()
    monkeypatch.undo()
    assert train_language(config_for(corpus, tmp_path / "language", "epochs=1"), RunOptions()) == 0


def test_a_dry_run_writes_nothing(corpus: TinyCorpus, tmp_path: Path) -> None:
    assert train_language(config_for(corpus, tmp_path / "language"), RunOptions(dry_run=True)) == 0
    assert not (tmp_path / "language").exists()
