"""Which (clip, exo view) samples make an epoch, and in which order (Exo2Ego Table 1; not stated fully: A18)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy
from numpy.typing import NDArray

from exo2ego.errors import DataError

Pairing = Literal["ego", "all_pairs", "one_view", "grouped"]
ALL_VIEWS = -1
NO_VIEW = -2


@dataclass(frozen=True)
class Sample:
    """One sample of an epoch: a row of the table and an exo view (`ALL_VIEWS`, `NO_VIEW`, or its number)."""

    index: int
    view: int


class SampleOrder:
    """The endless, seeded order of samples: epoch after epoch, any position found without replaying those before.

    - ego: every clip once, without exo video.
    - all_pairs: every (clip, exo view) once: Table 1's 1.1M samples. The views of a clip are spread evenly over the
      epoch, so that two of them do not share a global batch: they are samples / most views per clip apart, less one
      for every number of views that occurs.
    - one_view: every clip once, view (hash of clip + epoch) mod views.
    - grouped: every clip once with all its views.

    Raises `DataError` where there is nothing to show.
    """

    def __init__(self, num_views: NDArray[numpy.int64], pairing: Pairing, seed: int) -> None:
        self.num_views = numpy.asarray(num_views, dtype=numpy.int64)
        self.pairing = pairing
        self.seed = seed
        self.length = int(self.num_views.sum()) if pairing == "all_pairs" else len(self.num_views)
        if not self.length or (pairing in ("one_view", "grouped") and not self.num_views.all()):
            raise DataError(
                f"pairing {pairing}: {len(self.num_views)} clips, {int((self.num_views == 0).sum())} of them without "
                "exocentric video: there must be clips, and each must have a view; build the table again"
            )
        self._epoch: int | None = None
        self._indices = self._views = numpy.empty(0, dtype=numpy.int64)

    def __len__(self) -> int:
        """Returns the number of samples in an epoch."""
        return self.length

    def at(self, position: int) -> Sample:
        """Returns the sample at a position of the endless order."""
        epoch, offset = divmod(position, self.length)
        if epoch != self._epoch:
            self._indices, self._views = self._shuffled(epoch)
            self._epoch = epoch
        return Sample(int(self._indices[offset]), int(self._views[offset]))

    def _shuffled(self, epoch: int) -> tuple[NDArray[numpy.int64], NDArray[numpy.int64]]:
        generator = numpy.random.default_rng([self.seed, epoch])
        first = _scattered(len(self.num_views), self.seed)
        if self.pairing == "all_pairs":
            return self._spread_pairs(generator, first)
        order = generator.permutation(len(self.num_views))
        if self.pairing == "one_view":
            return order, ((first + epoch) % self.num_views)[order]
        return order, numpy.full(len(order), NO_VIEW if self.pairing == "ego" else ALL_VIEWS)

    def _spread_pairs(
        self, generator: numpy.random.Generator, first: NDArray[numpy.int64]
    ) -> tuple[NDArray[numpy.int64], NDArray[numpy.int64]]:
        """Lets the clips with n views run n times through a shuffled order of theirs, and merges all n evenly."""
        clips: list[NDArray[numpy.int64]] = []
        views: list[NDArray[numpy.int64]] = []
        places: list[NDArray[numpy.float64]] = []
        for count in numpy.unique(self.num_views[self.num_views > 0]):
            members = generator.permutation(numpy.flatnonzero(self.num_views == count))
            clips.append(numpy.tile(members, count))
            views.append((first[clips[-1]] + numpy.repeat(numpy.arange(count), len(members))) % count)
            places.append((numpy.arange(len(clips[-1])) + 0.5) / len(clips[-1]))
        order = numpy.argsort(numpy.concatenate(places), kind="stable")
        return numpy.concatenate(clips)[order], numpy.concatenate(views)[order]


def _scattered(count: int, seed: int) -> NDArray[numpy.int64]:
    """Returns a fixed pseudo-random first view per clip."""
    digest = hashlib.sha256(f"first view {seed}".encode()).digest()
    return numpy.random.default_rng(list(digest)).integers(0, 2**31, count)


class MicroBatches:
    """Lists of samples, one list per forward pass of one process, from any step on: the loader's batch sampler.

    The samples of optimiser step s are positions [s * global, (s + 1) * global); micro-batch m of process r takes
    `local` neighbours of them, so that the global batch is the same for every number of processes.
    """

    def __init__(
        self,
        order: SampleOrder,
        *,
        local_size: int,
        accumulation: int,
        process_index: int,
        num_processes: int,
        start_step: int,
        end_step: int,
    ) -> None:
        self.order = order
        self.local_size = local_size
        self.accumulation = accumulation
        self.process_index = process_index
        self.num_processes = num_processes
        self.start_step = start_step
        self.end_step = end_step

    def __len__(self) -> int:
        """Returns the number of micro-batches of this process."""
        return max(0, self.end_step - self.start_step) * self.accumulation

    def __iter__(self) -> Iterator[list[Sample]]:
        """Yields lists of `Sample`."""
        for number in range(self.start_step * self.accumulation, self.end_step * self.accumulation):
            start = (number * self.num_processes + self.process_index) * self.local_size
            yield [self.order.at(position) for position in range(start, start + self.local_size)]
