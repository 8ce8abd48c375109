"""Random kills, damage, power cuts and failing writes, as scripts/reliability does them, in small."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from exo2ego import storage
from exo2ego.storage import read_json
from exo2ego.train import checkpoint
from scripts.reliability import damage
from scripts.reliability.kills import cases, put_to_the_test, report
from tests.tiny_corpus import TinyCorpus
from tests.train.conftest import Chain


@pytest.fixture
def chance() -> random.Random:
    return random.Random(0)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "num_processes", "kills"), [("stage3", 1, 3), ("stage2", 2, 2)])
def test_killed_at_random_until_it_is_done(
    corpus: TinyCorpus, chain: Chain, tmp_path: Path, chance: random.Random, stage: str, num_processes: int, kills: int
) -> None:
    """Wherever it dies, in the loop, in a save, while starting: in the end nothing differs."""
    chosen = (case for case in cases(chain.stage2.parent) if (case.stage, case.num_processes) == (stage, num_processes))
    row = put_to_the_test(next(chosen), corpus, tmp_path, kills=kills, signals=1, chance=chance)
    assert row.faults == []
    assert (row.kills, row.signals, row.lost_steps) == (kills, 1, 0)
    assert report([row]).splitlines()[-1].startswith(f"| all | {kills} |")


def wrong(tally: damage.Tally) -> list[str]:
    return [kind for kind, outcomes in tally.items() if outcomes["WRONG"]]


def test_no_damage_is_read_in_silence(tmp_path: Path, chance: random.Random) -> None:
    tally = damage.damaged(tmp_path, 2 * len(damage.DAMAGES), chance)
    assert wrong(tally) == []
    assert {kind for kind, outcomes in tally.items() if outcomes["harmless"]} == {"damaged: add a file"}


def test_damage_would_be_found_out(tmp_path: Path, chance: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read without a look at the checksums, what belongs to another checkpoint goes through."""
    unverified = lambda path: checkpoint.Checkpoint(path, read_json(path / checkpoint.RECORD))  # noqa: E731
    monkeypatch.setattr(checkpoint, "open_checkpoint", unverified)
    monkeypatch.setattr(damage, "DAMAGES", (damage.swap, damage.copy_whole))
    assert wrong(damage.damaged(tmp_path, 6, chance)) == ["damaged: swap", "damaged: copy whole"]


@pytest.mark.parametrize("keep_last", [1, 2])
def test_a_power_cut_anywhere_in_a_save(tmp_path: Path, chance: random.Random, keep_last: int) -> None:
    tally = damage.power_cuts(tmp_path, chance, keep_last)
    assert wrong(tally) == []
    assert sum(outcomes.total() for outcomes in tally.values()) >= 100
    assert {kind.rpartition(": ")[2] for kind in tally} == {"as it was", "lost", "cut off", "garbled"}


def test_a_power_cut_would_be_found_out(tmp_path: Path, chance: random.Random) -> None:
    """What is never flushed may be lost after its rename, and with it the only checkpoint."""
    with mock.patch.object(storage, "_flush_to_disk"):
        assert "power cut, not flushed: lost" in wrong(damage.power_cuts(tmp_path, chance, keep_last=1))


def test_writes_that_fail(tmp_path: Path, chance: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damage, "LIMITS", 3)
    tally = damage.failing_writes(tmp_path, chance)
    assert wrong(tally) == []
    assert sum(outcomes["refused"] for outcomes in tally.values()) == len(damage.SITES) * len(damage.ERRORS) + 3


def test_a_failing_write_would_be_found_out(
    tmp_path: Path, chance: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save that removes what is there before it writes loses it."""
    monkeypatch.setattr(damage, "LIMITS", 0)
    save = damage.save_checkpoint

    def careless(run_dir: Path, **values: Any) -> Any:
        for folder in checkpoint.checkpoint_folders(run_dir):
            checkpoint.shutil.rmtree(folder)
        return save(run_dir, **values)

    monkeypatch.setattr(damage, "save_checkpoint", careless)
    assert len(wrong(damage.failing_writes(tmp_path, chance))) == len(damage.SITES)
