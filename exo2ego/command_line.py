"""The shape every command shares: `--config file.yaml key=value …`, `--help`, `--print-config`, one-line errors."""

from __future__ import annotations

import argparse
import errno
import os
import select
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from rich.text import Text

from exo2ego.config import Config, ConfigType, describe_fields, load_config, to_yaml, validate_config
from exo2ego.console import error_console
from exo2ego.errors import ConfigError, DataError, Exo2EgoError

INTERRUPTED = 130
MACHINE_FAULTS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EEXIST,
    errno.ENOTDIR,
}
"""Errors of the disk, permissions or a mistyped path, wherever they strike: a message, not a traceback."""


@dataclass(frozen=True)
class RunOptions:
    """What the command line says beside the configuration."""

    dry_run: bool = False
    resume: str | None = None


def run_safely(action: Callable[[], int | None], debug: bool) -> int:
    """Runs `action`; expected errors become one message and an exit code, Ctrl-C exits with 130."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # under LC_ALL=C a dash would end hours of work with an error
    try:
        return action() or 0
    except Exo2EgoError as error:
        if debug:
            raise
        return _leave(_report(str(error), error.exit_code))
    except KeyboardInterrupt:
        error_console.print("interrupted: what was finished is kept; run the same command again to continue")
        return INTERRUPTED
    except BrokenPipeError:
        if not _reader_has_left():
            raise
        return 0
    except OSError as error:
        if debug or error.errno not in MACHINE_FAULTS:
            raise
        return _leave(_report(f"{error.filename or 'while writing'}: {error.strerror}", DataError.exit_code))
    except Exception:
        if debug or not is_launched():
            raise
        traceback.print_exc()
        return _leave(1)


def _report(message: str, exit_code: int) -> int:
    who = f" in process {os.environ['RANK']} of {os.environ['WORLD_SIZE']}" if is_launched() else ""
    error_console.print(Text.assemble((f"error{who}", "bold red"), " ", message))
    return exit_code


def is_launched() -> bool:
    """Whether a launcher (torchrun, deepspeed) started this process as one of several."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def _leave(exit_code: int) -> int:
    """Ends one of several processes at once: an orderly end could wait for the others, which wait for this one."""
    if is_launched():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    return exit_code


def _reader_has_left() -> bool:
    """Whether the reader of our output (head, less) closed it; if so, what is still to be written goes nowhere."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    has_left = any(events & select.POLLERR for _, events in poll.poll(0))
    if has_left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return has_left


def run_configured(
    module: str,
    description: str,
    config_class: type[ConfigType],
    action: Callable[[ConfigType, RunOptions], int | None],
    argv: Sequence[str] | None = None,
    *,
    long_running: bool = True,
    has_checkpoints: bool = True,
) -> int:
    """Parses the command line of a configured entry point, validates its configuration and runs `action`.

    A long-running command has `--dry-run`, and with checkpoints `--resume`.
    """
    parser = _parser(module, description, config_class, long_running, has_checkpoints)
    arguments = parser.parse_intermixed_args(argv)

    def act() -> int | None:
        if arguments.config is None and not arguments.overrides and _needs_values(config_class):
            raise ConfigError(f"give --config FILE.yaml; see `python -m {module} --help`")
        config = load_config(config_class, arguments.config, arguments.overrides)
        if arguments.print_config:
            print(to_yaml(config), end="", flush=True)  # exactly the text: the console would replace `:smile:`
            return 0
        options = RunOptions(getattr(arguments, "dry_run", False), getattr(arguments, "resume", None))
        return action(config, options)

    return run_safely(act, arguments.debug)


def run_flagged(
    module: str,
    description: str | None,
    config_class: type[ConfigType],
    action: Callable[[ConfigType], int | None],
    argv: Sequence[str] | None = None,
) -> int:
    """Parses the command line of an entry point whose flat configuration is given as flags, and runs `action`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_flags(parser, config_class)
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    arguments = parser.parse_args(argv)

    def act() -> int | None:
        return action(validate_config(config_class, given_flags(arguments, config_class), "command line"))

    return run_safely(act, arguments.debug)


def add_flags(parser: argparse.ArgumentParser, config_class: type[Config]) -> None:
    """Adds one flag per key of a flat configuration, with its docstring as help; `given_flags` returns what was given.

    Values stay texts, which validation turns into their types; lists take several values.
    """
    for name, field in config_class.model_fields.items():
        flag = f"--{name.replace('_', '-')}"
        text = " ".join((field.description or "").split()).replace("%", "%%")
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if default is not None:  # what None stands for is the description's to say
            text += f" (default {default})".replace("%", "%%")
        kind = field.annotation
        required, absent = field.is_required(), argparse.SUPPRESS
        if kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=text, default=absent)
        elif get_origin(kind) is Literal:
            parser.add_argument(flag, choices=get_args(kind), help=text, default=absent, required=required)
        elif get_origin(kind) in (list, tuple):
            parser.add_argument(flag, nargs="+", metavar="X", help=text, default=absent, required=required)
        else:
            metavar = "PATH" if Path in (kind, *get_args(kind)) else "X"
            parser.add_argument(flag, metavar=metavar, help=text, default=absent, required=required)


def given_flags(arguments: argparse.Namespace, config_class: type[Config]) -> dict[str, Any]:
    """Returns the keys of a configuration that were given as flags."""
    return {name: value for name, value in vars(arguments).items() if name in config_class.model_fields}


def _needs_values(config_class: type[Config]) -> bool:
    return any(field.is_required() for field in config_class.model_fields.values())


def _parser(
    module: str, description: str, config_class: type[Config], long_running: bool, has_checkpoints: bool
) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog="configuration keys (give them in the file or as key=value):\n\n" + describe_fields(config_class),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="configuration file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides of single keys")
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration and exit")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    if long_running:
        # the deepspeed launcher adds it to every command; LOCAL_RANK in the environment says the same
        parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
        parser.add_argument("--dry-run", action="store_true", help="build all, do one step, print the plan, exit")
    if long_running and has_checkpoints:
        parser.add_argument(
            "--resume", metavar="auto|DIR", help="continue from the newest checkpoint of the output folder, or from DIR"
        )
    return parser
