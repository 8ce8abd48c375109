"""Every command line: one-line errors with exit codes, `--help`, `--print-config`, Ctrl-C, a reader that leaves."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from exo2ego import errors
from exo2ego.command_line import INTERRUPTED, RunOptions, run_configured, run_safely
from exo2ego.config import Config
from tests.conftest import RunPython
from tests.shared_data import REPOSITORY


class Options(Config):
    seed: int
    """Seed of everything random."""
    name: str = "run"


def run(*arguments: str, long_running: bool = True) -> tuple[int, list[tuple[Options, RunOptions]]]:
    """Returns the exit code and what the action was called with."""
    calls: list[tuple[Options, RunOptions]] = []
    code = run_configured(
        "stages.example",
        "An example. 100% sure.",
        Options,
        lambda config, options: calls.append((config, options)),
        arguments,
        long_running=long_running,
    )
    return code, calls


def test_the_action_gets_the_configuration_and_the_options(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("seed: 1\n")
    assert run("--config", str(path), "name=x") == (0, [(Options(seed=1, name="x"), RunOptions())])
    code, calls = run("seed=2", "--dry-run", "name=y", "--resume", "auto")
    assert (code, calls) == (0, [(Options(seed=2, name="y"), RunOptions(dry_run=True, resume="auto"))])


def test_a_config_error_is_one_message_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    code, calls = run("sead=1")
    assert (code, calls) == (2, [])
    assert capsys.readouterr().err.splitlines() == [
        "error command line: 2 problems",
        "  seed: is required",
        "  sead: unknown key (did you mean `seed`?)",
    ]


def test_without_any_configuration_it_says_what_to_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert run()[0] == 2
    assert "give --config FILE.yaml; see `python -m stages.example --help`" in capsys.readouterr().err


def test_help_documents_keys_and_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        run("--help")
    text = capsys.readouterr().out
    assert exited.value.code == 0
    for expected in (
        "--config",
        "--dry-run",
        "--resume",
        "--print-config",
        "seed  (int; required)  Seed of everything",
    ):
        assert expected in text


def test_short_commands_have_no_resume(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        run("--resume", "auto", "seed=1", long_running=False)
    assert exited.value.code == 2
    assert "--resume" in capsys.readouterr().err


def test_a_printed_configuration_is_the_exact_text_and_reads_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "a :smile: [bold]b[/] " + "long " * 60
    assert run("seed=1", f"name='{name}'", "--print-config") == (0, [])
    path = tmp_path / "printed.yaml"
    path.write_text(capsys.readouterr().out)
    assert run("--config", str(path)) == (0, [(Options(seed=1, name=name), RunOptions())])


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.Exo2EgoError("m"), 1),
        (errors.ConfigError("m"), 2),
        (errors.DataError("m"), 3),
        (errors.VideoError("a.mp4", "unreadable", "m"), 3),
        (errors.CheckpointError("m"), 4),
        (errors.EvaluationError("m"), 5),
        (errors.TrainingError("m"), 6),
        (OSError(errno.ENOSPC, "No space left on device", "a.bin"), 3),
        (PermissionError(errno.EACCES, "Permission denied", "/root/a"), 3),
        (KeyboardInterrupt(), INTERRUPTED),
    ],
)
def test_expected_failures_are_one_line_and_a_code(
    capsys: pytest.CaptureFixture[str], error: BaseException, exit_code: int
) -> None:
    def fail() -> None:
        raise error

    assert run_safely(fail, debug=False) == exit_code
    assert capsys.readouterr().err.count("\n") == 1


def test_messages_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise errors.DataError(r"takes[0]\[x]: :warning: [red]not markup[/red]")

    run_safely(fail, debug=False)
    assert capsys.readouterr().err == "error " + r"takes[0]\[x]: :warning: [red]not markup[/red]" + "\n"


@pytest.mark.parametrize("error", [errors.DataError("m"), OSError(errno.ENOSPC, "full")])
def test_debug_shows_the_traceback(error: Exception) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        run_safely(fail, debug=True)


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError(errno.EIO, "Input/output error"), BrokenPipeError()])
def test_unexpected_failures_are_never_hidden(error: Exception, capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        run_safely(fail, debug=False)


def test_a_terminal_that_knows_ascii_alone_ends_nothing() -> None:
    code = (
        "from exo2ego.command_line import run_safely\nfrom exo2ego.console import console\n"
        "raise SystemExit(run_safely(lambda: console.print('1 \\u2013 2'), False))"
    )
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=plain, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "1 ? 2\n"), done.stderr


def test_a_reader_that_leaves_is_no_error() -> None:
    code = """
import sys
from exo2ego.command_line import run_safely
def action():
    for line in range(100_000):
        print(line)
sys.exit(run_safely(action, debug=False))
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        writer.stdout.readline()
        writer.stdout.close()
        assert writer.stderr.read() == b""
    assert writer.returncode == 0


def test_the_shared_shape_imports_no_heavy_library(run_python: RunPython) -> None:
    code = "import sys, exo2ego.command_line, exo2ego.records, exo2ego.provenance; print(*sorted(sys.modules))"
    loaded = set(run_python("-c", code).stdout.split())
    assert "exo2ego.command_line" in loaded
    assert not loaded & {"torch", "transformers", "datasets", "numpy", "pandas", "av", "matplotlib"}
