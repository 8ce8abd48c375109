"""The error types a user can meet; command lines print them as one message and exit with the type's code."""

from __future__ import annotations


class Exo2EgoError(Exception):
    """Base of all expected failures: the message says what was wrong, what was expected, where, and what to do."""

    exit_code = 1


class ConfigError(Exo2EgoError):
    """A configuration file or override is not valid; the message lists every fault at once."""

    exit_code = 2


class DataError(Exo2EgoError):
    """An input file or folder is missing, malformed, or has more unreadable samples than the budget allows."""

    exit_code = 3


class VideoError(DataError):
    """One video (or frame folder) cannot be read; `reason` is a short machine-readable word for the failure log."""

    def __init__(self, path: object, reason: str, detail: str) -> None:
        super().__init__(f"{path}: {detail} [{reason}]")
        self.path = str(path)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[VideoError], tuple[str, str, str]]:
        """Lets the error travel between processes (an exception is otherwise rebuilt from its message alone)."""
        return type(self), (self.path, self.reason, self.detail)


class CheckpointError(Exo2EgoError):
    """A checkpoint is of the wrong stage, incomplete, damaged, or cannot be written."""

    exit_code = 4


class EvaluationError(Exo2EgoError):
    """Questions, predictions and model do not fit together."""

    exit_code = 5


class TrainingError(Exo2EgoError):
    """A training step cannot be taken: a loss is not finite, a batch has no target, a parameter has no owner."""

    exit_code = 6


class ServiceError(Exo2EgoError):
    """A language-model endpoint cannot be reached, refuses the request, or does not answer what was asked."""

    exit_code = 7
