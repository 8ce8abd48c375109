"""Sample order: what an epoch holds, which samples share a batch, and that any place is found from anywhere."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo2ego.data.pairing import ALL_VIEWS, NO_VIEW, MicroBatches, Pairing, Sample, SampleOrder
from exo2ego.errors import DataError

PAIRINGS: list[Pairing] = ["ego", "all_pairs", "one_view", "grouped"]
view_counts = st.lists(st.integers(1, 6), min_size=1, max_size=40)
seeds = st.integers(0, 1000)


def order_of(num_views: Iterable[int], pairing: Pairing, seed: int = 0) -> SampleOrder:
    return SampleOrder(numpy.array(list(num_views), dtype=numpy.int64), pairing, seed)


def epoch_of(order: SampleOrder, epoch: int = 0) -> list[Sample]:
    return [order.at(epoch * len(order) + offset) for offset in range(len(order))]


@given(view_counts, seeds, st.integers(0, 3))
def test_all_pairs_shows_every_clip_from_every_view_once(num_views: list[int], seed: int, epoch: int) -> None:
    order = order_of(num_views, "all_pairs", seed)
    pairs = Counter((sample.index, sample.view) for sample in epoch_of(order, epoch))
    assert pairs == {(index, view): 1 for index, count in enumerate(num_views) for view in range(count)}
    assert len(order) == sum(num_views)


@given(view_counts, seeds)
def test_views_of_a_clip_are_spread_over_the_epoch(num_views: list[int], seed: int) -> None:
    """Two of them never share a global batch of up to samples / most views, less the kinds of view counts."""
    order = order_of(num_views, "all_pairs", seed)
    safe_batch = len(order) // max(num_views) - len(set(num_views))
    positions: dict[int, list[int]] = {}
    for position, sample in enumerate(epoch_of(order)):
        positions.setdefault(sample.index, []).append(position)
    gaps = [after - before for places in positions.values() for before, after in itertools.pairwise(places)]
    assert all(gap > safe_batch for gap in gaps)


def test_two_views_never_share_a_global_batch() -> None:
    """The paper's shares of cameras and batch of 256 on a hundredth of its clips, one clip with far more views."""
    num_views = [4] * 1900 + [5] * 700 + [3] * 13 + [8]
    order = order_of(num_views, "all_pairs")
    samples = epoch_of(order)
    for start in range(0, len(samples) - 256, 256):
        indices = [sample.index for sample in samples[start : start + 256]]
        assert len(set(indices)) == 256


@given(view_counts, seeds)
def test_one_view_shows_every_view_after_as_many_epochs(num_views: list[int], seed: int) -> None:
    order = order_of(num_views, "one_view", seed)
    seen: dict[int, list[int]] = {}
    for epoch in range(max(num_views)):
        samples = epoch_of(order, epoch)
        assert sorted(sample.index for sample in samples) == list(range(len(num_views)))
        for sample in samples:
            seen.setdefault(sample.index, []).append(sample.view)
    for index, count in enumerate(num_views):
        assert sorted(seen[index][:count]) == list(range(count))


def test_one_view_starts_with_different_cameras() -> None:
    first = Counter(sample.view for sample in epoch_of(order_of([4] * 1000, "one_view")))
    assert min(first.values()) > 180  # 250 expected, standard deviation 14


@pytest.mark.parametrize(("pairing", "view"), [("ego", NO_VIEW), ("grouped", ALL_VIEWS)])
def test_clips_without_or_with_all_views(pairing: Pairing, view: int) -> None:
    samples = epoch_of(order_of([1, 4, 2], pairing))
    assert sorted(sample.index for sample in samples) == [0, 1, 2]
    assert {sample.view for sample in samples} == {view}


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_order_follows_seed_and_epoch(pairing: Pairing) -> None:
    num_views = [3] * 50
    epoch = epoch_of(order_of(num_views, pairing))
    assert epoch_of(order_of(num_views, pairing)) == epoch
    assert epoch_of(order_of(num_views, pairing, seed=1)) != epoch
    assert epoch_of(order_of(num_views, pairing), epoch=1) != epoch


@given(st.lists(st.integers(0, 200), min_size=1, max_size=20), st.sampled_from(PAIRINGS))
def test_any_position_is_found_from_any_other(positions: list[int], pairing: Pairing) -> None:
    num_views = [1, 2, 3, 4, 2]
    order = order_of(num_views, pairing)
    assert [order.at(position) for position in positions] == [
        order_of(num_views, pairing).at(position) for position in positions
    ]


def test_clips_without_views_are_left_out_or_refused() -> None:
    assert {sample.index for sample in epoch_of(order_of([2, 0, 1], "all_pairs"))} == {0, 2}
    assert len(epoch_of(order_of([2, 0, 1], "ego"))) == 3
    for pairing in ("one_view", "grouped"):
        with pytest.raises(DataError, match="3 clips, 1 of them without exocentric video"):
            order_of([2, 0, 1], pairing)  # type: ignore[arg-type]


@pytest.mark.parametrize(("num_views", "pairing"), [([], "ego"), ([], "all_pairs"), ([0, 0], "all_pairs")])
def test_an_epoch_of_nothing_is_refused(num_views: list[int], pairing: Pairing) -> None:
    with pytest.raises(DataError, match="there must be clips"):
        order_of(num_views, pairing)


def batches_of(
    process: int, *, processes: int, local: int, accumulation: int, start: int = 0, end: int = 9
) -> MicroBatches:
    return MicroBatches(
        order_of([1, 2, 3, 4] * 5, "all_pairs"),
        local_size=local,
        accumulation=accumulation,
        process_index=process,
        num_processes=processes,
        start_step=start,
        end_step=end,
    )


def global_batches(*, processes: int, local: int, accumulation: int) -> list[list[Sample]]:
    """The samples of every step over all processes, in order of their place."""
    per_process = [
        list(batches_of(process, processes=processes, local=local, accumulation=accumulation))
        for process in range(processes)
    ]
    steps = []
    for step in range(9):
        chunks = [per_process[p][step * accumulation + m] for m in range(accumulation) for p in range(processes)]
        steps.append([sample for chunk in chunks for sample in chunk])
    return steps


def test_the_global_batch_is_the_same_for_any_number_of_processes() -> None:
    expected = global_batches(processes=1, local=8, accumulation=1)
    assert [len(batch) for batch in expected] == [8] * 9
    order = order_of([1, 2, 3, 4] * 5, "all_pairs")
    assert [sample for batch in expected for sample in batch] == [order.at(position) for position in range(72)]
    for processes, local, accumulation in [(1, 4, 2), (1, 1, 8), (2, 4, 1), (2, 2, 2), (4, 2, 1), (8, 1, 1)]:
        assert global_batches(processes=processes, local=local, accumulation=accumulation) == expected


@pytest.mark.parametrize("start", range(10))
def test_continuing_at_a_step_gives_what_would_have_come(start: int) -> None:
    whole = list(batches_of(1, processes=2, local=2, accumulation=2))
    rest = batches_of(1, processes=2, local=2, accumulation=2, start=start)
    assert list(rest) == whole[start * 2 :]
    assert len(rest) == len(whole) - start * 2


def test_past_the_end_there_is_nothing() -> None:
    late = batches_of(0, processes=1, local=2, accumulation=1, start=10)
    assert len(late) == 0
    assert list(late) == []
