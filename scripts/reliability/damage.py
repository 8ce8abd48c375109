"""Damages checkpoints, cuts the power while one is written, lets writes fail, and looks at what a run continues from.

    python -m scripts.reliability.damage [--seed 0] [--damages 200]

- damaged: the newest of two checkpoints gets a random damage. Right is to fall back to the other one and to say so, or
  to read exactly what was written (a file more does no harm).
- power cut: before every operation on files of a save and its rotation the folder is copied as it is, and as it would
  be if what was not flushed yet had been lost, cut off or garbled. Right is to continue from the newest complete
  checkpoint, with nothing left over after the next save.
- failing write: every kind of write of a save fails with every error, or meets a real limit on the size of files.
  Right is one `CheckpointError` that names the path, with the earlier checkpoint as it was.

Prints one row per kind and exits with 1 where anything went wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from exo2ego import storage
from exo2ego.console import console
from exo2ego.errors import CheckpointError
from exo2ego.storage import remove_leftovers
from exo2ego.train import checkpoint as checkpoint_module
from exo2ego.train.checkpoint import (
    Checkpoint,
    checkpoint_folders,
    load_optimizer_state,
    rotate_checkpoints,
    save_checkpoint,
)
from exo2ego.train.resuming import checkpoint_to_continue
from scripts.reliability.tables import markdown
from tests.tiny_runs import in_child

FILES = ("trained.safetensors", "optimizer.pt", "checkpoint.json")
Damage = Callable[[Path, Path, random.Random], None]
Tally = dict[str, Counter[str]]


def save(run_dir: Path, step: int) -> Checkpoint:
    """Writes a small checkpoint whose content tells its step."""
    chance = torch.Generator().manual_seed(step)
    weights = {f"part{number}.weight": torch.randn(40, 16, generator=chance) for number in range(4)}
    moments = {name: {"exp_avg": value * 2, "exp_avg_sq": value**2} for name, value in weights.items()}
    record = {"step": step, "stage": "stage2", "parent": None, "unreadable": 0}
    return save_checkpoint(run_dir, record=record, trained=weights, optimizer_state={"optimizer": moments})


def is_intact(found: Checkpoint) -> bool:
    """Whether a checkpoint reads as `save` wrote it."""
    chance = torch.Generator().manual_seed(found.step)
    weights, moments = found.tensors(), load_optimizer_state(found)["optimizer"]
    for number in range(4):
        name, value = f"part{number}.weight", torch.randn(40, 16, generator=chance)
        read = (weights[name], moments[name]["exp_avg"], moments[name]["exp_avg_sq"])
        if not all(torch.equal(*pair) for pair in zip(read, (value, value * 2, value**2), strict=True)):
            return False
    return len(weights) == len(moments) == 4


def continued_from(run_dir: Path) -> Checkpoint | None:
    """Returns what `--resume auto` continues from, None where it starts anew or finds nothing sound."""
    try:
        return checkpoint_to_continue(run_dir, "auto")
    except CheckpointError:
        return None


def flip_a_bit(newest: Path, other: Path, chance: random.Random) -> None:
    """Inverts one bit of one file."""
    path = newest / chance.choice(FILES)
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def cut_off(newest: Path, other: Path, chance: random.Random) -> None:
    """Loses the end of one file."""
    path = newest / chance.choice(FILES)
    os.truncate(path, chance.randrange(path.stat().st_size))


def append(newest: Path, other: Path, chance: random.Random) -> None:
    """Puts bytes behind one file."""
    with (newest / chance.choice(FILES)).open("ab") as stream:
        stream.write(chance.randbytes(chance.randint(1, 64)))


def make_empty(newest: Path, other: Path, chance: random.Random) -> None:
    """Leaves one file with nothing in it."""
    os.truncate(newest / chance.choice(FILES), 0)


def blank_a_block(newest: Path, other: Path, chance: random.Random) -> None:
    """Fills 512 bytes of one file with zeros, as a lost sector."""
    path = newest / chance.choice(FILES)
    content = bytearray(path.read_bytes())
    start = chance.randrange(len(content))
    content[start : start + 512] = bytes(len(content[start : start + 512]))
    path.write_bytes(content)


def remove(newest: Path, other: Path, chance: random.Random) -> None:
    """Removes one file."""
    (newest / chance.choice(FILES)).unlink()


def swap(newest: Path, other: Path, chance: random.Random) -> None:
    """Exchanges one file with the other checkpoint's (both are damaged then, unless it is put right there)."""
    name = chance.choice(FILES)
    shutil.copy(other / name, newest / name)


def copy_whole(newest: Path, other: Path, chance: random.Random) -> None:
    """Puts the whole other checkpoint in the place of the newest."""
    shutil.rmtree(newest)
    shutil.copytree(other, newest)


def change_the_record(newest: Path, other: Path, chance: random.Random) -> None:
    """Changes one character of a number in the record."""
    path = newest / "checkpoint.json"
    text = path.read_text(encoding="utf-8")
    places = [place for place, letter in enumerate(text) if letter.isdigit()]
    place = chance.choice(places)
    path.write_text(f"{text[:place]}{(int(text[place]) + 1) % 10}{text[place + 1 :]}", encoding="utf-8")


def another_record(newest: Path, other: Path, chance: random.Random) -> None:
    """Puts valid JSON that is no record in the place of the record."""
    path = newest / "checkpoint.json"
    path.write_text(chance.choice(["[]", "{}", "null", '"x"', '{"checksum": null, "files": {}}']), encoding="utf-8")


def put_a_folder(newest: Path, other: Path, chance: random.Random) -> None:
    """Puts a folder in the place of one file."""
    path = newest / chance.choice(FILES)
    path.unlink()
    path.mkdir()


def add_a_file(newest: Path, other: Path, chance: random.Random) -> None:
    """Adds a file that nobody knows."""
    (newest / chance.choice(["notes.txt", "model.bin", ".hidden"])).write_bytes(chance.randbytes(100))


DAMAGES: tuple[Damage, ...] = (
    flip_a_bit,
    cut_off,
    append,
    make_empty,
    blank_a_block,
    remove,
    swap,
    copy_whole,
    change_the_record,
    another_record,
    put_a_folder,
    add_a_file,
)


def damaged(folder: Path, count: int, chance: random.Random) -> Tally:
    """Damages `count` checkpoints, every kind in turn."""
    sound, tally = folder / "sound", {damage.__name__: Counter[str]() for damage in DAMAGES}
    for step in (4, 6):
        save(sound, step)
    for number in range(count):
        damage = DAMAGES[number % len(DAMAGES)]
        run_dir = Path(shutil.copytree(sound, folder / f"damaged{number}"))
        older, newest = checkpoint_folders(run_dir)
        damage(newest, older, chance)
        tally[damage.__name__][_what_follows(run_dir)] += 1
        shutil.rmtree(run_dir)
    return {f"damaged: {name.replace('_', ' ')}": outcomes for name, outcomes in tally.items()}


def _what_follows(run_dir: Path) -> str:
    with console.capture() as said:
        found = continued_from(run_dir)
    if found is None or not is_intact(found):
        return "WRONG"
    if found.step == 4:
        return "fell back" if "damaged checkpoint skipped" in said.get() else "WRONG"
    return "harmless"


@contextlib.contextmanager
def before_every_operation(look: Callable[[str, Path | None], None]) -> Iterator[None]:
    """Calls `look` before each change of the file system in this process, and with the path of what is flushed."""
    active = [True]

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if active[0] and (writes or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir")):
            active[0] = False
            look(event, None)
            active[0] = True

    fsync = os.fsync

    def flush(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        active[0] = False
        look("fsync", path)
        active[0] = True
        fsync(descriptor)

    sys.addaudithook(audit)
    with mock.patch("os.fsync", flush):
        yield
    active[0] = False


def power_cuts(folder: Path, chance: random.Random, keep_last: int) -> Tally:
    """Copies every state that saving five checkpoints and rotating them goes through, and continues from each."""
    run_dir, states = folder / "run", folder / "states"
    flushed: set[tuple[int, int]] = set()
    taken: list[tuple[Path, str, int]] = []
    complete = 0

    def look(event: str, path: Path | None) -> None:
        waiting = [one for one in run_dir.rglob("*") if one.is_file() and _content(one) not in flushed]
        for variant in ("as it was", "lost", "cut off", "garbled") if waiting else ("as it was",):
            state = states / str(len(taken))
            shutil.copytree(run_dir, state)
            for one in waiting:
                _lose(state / one.relative_to(run_dir), variant, chance)
            taken.append((state, f"power cut, not flushed: {variant}", complete))
        if path is not None:
            flushed.add(_content(path))

    run_dir.mkdir(parents=True)
    with before_every_operation(look):
        for step in (2, 4, 6, 8, 10):
            if step == 10:  # a damaged rest stands where the new one goes
                (run_dir / "checkpoints" / "step_00000010").mkdir()
            save(run_dir, step)
            complete = step
            rotate_checkpoints(run_dir, newest_step=step, keep_last=keep_last, keep_every=None)
    tally: Tally = {}
    for state, kind, newest in taken:
        tally.setdefault(kind, Counter())[_continue(state, newest, keep_last)] += 1
    return tally


def _content(path: Path) -> tuple[int, int]:
    """Returns what a file keeps when it is renamed, and changes when it is written."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def _lose(path: Path, variant: str, chance: random.Random) -> None:
    """Does to a file that was not flushed what a power cut may do."""
    content = path.read_bytes()
    if variant == "lost":
        path.unlink()
    elif variant == "cut off":
        path.write_bytes(content[: chance.randint(0, len(content))])
    elif variant == "garbled":
        path.write_bytes(chance.randbytes(len(content)))


def _continue(state: Path, newest: int, keep_last: int) -> str:
    """Starts again in a state, and saves once more."""
    for path in sorted(state.rglob(f"*{storage.TEMPORARY_MARK}*"), reverse=True):  # its process is dead
        path.rename(path.with_name(path.name.replace(f"-{os.getpid()}-", "-99999999-")))
    with console.capture():
        found = continued_from(state)
    step = 0 if found is None else found.step
    if step not in (newest, newest + 2) or (found is not None and not is_intact(found)):
        return "WRONG"
    remove_leftovers(state / "checkpoints")
    save(state, step + 2)
    rotate_checkpoints(state, newest_step=step + 2, keep_last=keep_last, keep_every=None)
    left = sorted(path.name for path in (state / "checkpoints").iterdir())
    kept = [name for name in left if int(name.removeprefix("step_")) <= step + 2]
    with console.capture():
        again = continued_from(state)
    sound = again is not None and again.step == step + 2 and is_intact(again)
    return "continued" if sound and len(kept) <= keep_last else "WRONG"


SITES = {
    "weights": (checkpoint_module, "save_file"),
    "optimiser": (checkpoint_module.torch, "save"),
    "record": (checkpoint_module, "write_json"),
    "reading back": (checkpoint_module, "hash_file"),
    "flush": (os, "fsync"),
    "rename": (os, "replace"),
}
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT)


LIMITS = 12


def failing_writes(folder: Path, chance: random.Random) -> Tally:
    """Lets every kind of write of a save fail with every error, and meets limits on the size of a file."""
    run_dir, tally = folder / "run", {f"failing write: {site}": Counter[str]() for site in (*SITES, "size limit")}
    save(run_dir, 4)
    before = sorted(run_dir.rglob("*"))

    def count(site: str, said: str) -> None:
        found = continued_from(run_dir)
        kept = found is not None and found.step == 4 and is_intact(found) and sorted(run_dir.rglob("*")) == before
        tally[f"failing write: {site}"]["refused" if kept and "step_00000006" in said else "WRONG"] += 1

    for site, (owner, name) in SITES.items():
        for number in ERRORS:
            with mock.patch.object(owner, name, side_effect=OSError(number, os.strerror(number))):
                text = _save_and_fail(run_dir)
            count(site, text)
    for _ in range(LIMITS):
        said = folder / "said.txt"
        in_child(_save_with_limit, run_dir, chance.randrange(10_000), said)
        count("size limit", said.read_text(encoding="utf-8"))
    return tally


def _save_and_fail(run_dir: Path) -> str:
    try:
        save(run_dir, 6)
    except CheckpointError as error:
        return str(error)
    return "saved"


def _save_with_limit(run_dir: Path, limit_bytes: int, said: Path) -> None:
    """Saves where no file can become larger than `limit_bytes`: writes are cut off as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    text = _save_and_fail(run_dir)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    said.write_text(text, encoding="utf-8")


def report(tally: Tally) -> str:
    """Returns what the documentation shows."""
    rows: list[list[object]] = []
    for kind, outcomes in tally.items():
        right = ", ".join(outcome for outcome in outcomes if outcome != "WRONG")
        rows.append([kind, outcomes.total(), right, outcomes["WRONG"]])
    cases, wrong = (sum(int(str(row[column])) for row in rows) for column in (1, 3))
    return markdown(("what", "cases", "what followed", "wrong"), [*rows, ["all", cases, "", wrong]])


def main() -> int:
    """Runs everything and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="decides what is damaged and where (default 0)")
    parser.add_argument("--damages", type=int, default=204, help="damaged checkpoints (default 204, 17 of each kind)")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tally = damaged(folder / "damaged", options.damages, chance)
        for keep_last in (1, 2):
            cut = power_cuts(folder / f"power{keep_last}", chance, keep_last)
            tally |= {f"{kind} (keep_last={keep_last})": outcomes for kind, outcomes in cut.items()}
        tally |= failing_writes(folder / "failing", chance)
    print(report(tally), flush=True)
    return 1 if any(outcomes["WRONG"] for outcomes in tally.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
