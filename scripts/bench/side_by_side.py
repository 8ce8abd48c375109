"""Measuring ways of doing the same thing in turns, so that a busy machine is equally busy for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy

RESAMPLES = 2000
Way = Callable[[], tuple[float, Any]]
"""Does the work once; returns the CPU seconds that count, and what is to be checked."""


def timed(work: Callable[[], Any]) -> Way:
    """Returns a way that counts all of `work`."""

    def way() -> tuple[float, Any]:
        began = time.process_time()
        result = work()
        return time.process_time() - began, result

    return way


def in_turns(ways: Mapping[str, Way], rounds: int, check: Callable[[str, Any], None]) -> dict[str, list[float]]:
    """Runs every way once per round, A B A B ..., and returns the seconds of each round by way.

    The first round warms up and does not count; `check(name, result)` sees every result and raises where one is wrong.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            took, result = way()
            check(name, result)
            if number:
                seconds[name].append(took)
    return seconds


class StepsBeside:
    """Times the steps of a loop and, between them and in the same thread, those of another one.

    The loop calls `step` where each of its steps begins, and `end` after the last.
    """

    def __init__(self, other: Iterator[Any]) -> None:
        self.seconds: list[float] = []
        """CPU time of each of the loop's steps."""
        self.other_seconds: list[float] = []
        """CPU time of each of the other's steps."""
        self._other = other
        self._began: float | None = None

    def step(self) -> None:
        """Ends the step before, and takes one of the other loop."""
        self.end()
        began = time.process_time()
        next(self._other)
        self._began = time.process_time()
        self.other_seconds.append(self._began - began)

    def end(self) -> None:
        """Ends a step."""
        if self._began is not None:
            self.seconds.append(time.process_time() - self._began)

    def repeat(self, value: Any, steps: int) -> Iterator[Any]:
        """Yields `value` where each of `steps` steps begins."""
        for _ in range(steps):
            self.step()
            yield value


def ratio_interval(numerator: Sequence[float], denominator: Sequence[float]) -> tuple[float, float, float]:
    """Returns the ratio of medians and its bootstrap 95 % interval over rounds."""
    return _interval(numerator, denominator, lambda above, below: above / below)


def difference_interval(more: Sequence[float], less: Sequence[float]) -> tuple[float, float, float]:
    """Returns the difference of medians and its bootstrap 95 % interval over rounds."""
    return _interval(more, less, lambda first, second: first - second)


def _interval(
    first: Sequence[float], second: Sequence[float], compare: Callable[[Any, Any], Any]
) -> tuple[float, float, float]:
    ours, theirs = numpy.asarray(first), numpy.asarray(second)
    picks = numpy.random.default_rng(2).integers(0, len(ours), (RESAMPLES, len(ours)))
    values = compare(numpy.median(ours[picks], axis=1), numpy.median(theirs[picks], axis=1))
    low, high = numpy.percentile(values, [2.5, 97.5])
    return float(compare(numpy.median(ours), numpy.median(theirs))), float(low), float(high)


def with_interval(interval: tuple[float, float, float], digits: int = 2) -> str:
    """Returns a value with its interval: 1.52 (1.48 to 1.57)."""
    value, low, high = (f"{number:.{digits}f}" for number in interval)
    return f"{value} ({low} to {high})"
