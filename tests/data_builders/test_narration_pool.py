"""Wrong options: never the truth, never another telling of the same event, and no hint in the texts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_builders.narration_pool import NarrationPool
from exo2ego.data.prompting import normal_form
from exo2ego.records import Clip
from tests.data_builders.narrated_clips import VERBS, make_clip, narrated_clips

PICKS = (NarrationPool.from_other_takes, NarrationPool.from_same_take, NarrationPool.most_similar)


def wrong_texts(pool: NarrationPool, index: int, pick: object, seed: int = 0, count: int = 4) -> list[str] | None:
    chosen = pick(pool, index, count, random.Random(seed))  # type: ignore[operator]
    return None if chosen is None else [pool.clips[other].text for other in chosen]


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["t1", "t2", "t3"]),
            st.sampled_from(
                ["C opens it.", "c  OPENS it", "C shuts it", "C lifts it.", "C drops it", "C turns it", "!"]
            ),
            st.floats(0, 30),
        ),
        min_size=1,
        max_size=30,
    ),
    st.integers(0, 99),
)
def test_options_are_different_and_wrong(rows: list[tuple[str, str, float]], seed: int) -> None:
    pool = NarrationPool([make_clip(n, text, take=take, time_s=time_s) for n, (take, text, time_s) in enumerate(rows)])
    for index in range(len(pool.clips)):
        for pick in PICKS:
            wrong = wrong_texts(pool, index, pick, seed, count=2)
            forms = {normal_form(text) for text in (*(wrong or []), pool.clips[index].text)}
            assert wrong is None or len(forms) == 3


def test_options_come_from_where_they_should() -> None:
    pool = NarrationPool(narrated_clips())
    for index in range(0, len(pool.clips), 7):
        take = pool.clips[index].take_name
        inter = pool.from_other_takes(index, 4, random.Random(0))
        intra = pool.from_same_take(index, 4, random.Random(0))
        assert inter is not None
        assert take not in {pool.clips[other].take_name for other in inter}
        assert intra is not None
        assert {pool.clips[other].take_name for other in intra} == {take}


def test_an_event_told_again_is_no_wrong_option() -> None:
    clips = [
        make_clip(0, "C opens the box.", annotator="a", time_s=10),
        make_clip(1, "The person unlocks a crate", annotator="b", time_s=11.5),  # within two seconds
        make_clip(2, "C looks inside", time_s=14, start_s=10.2, end_s=18),  # overlaps
        make_clip(3, "C walks away", time_s=20),
        make_clip(4, "C sits down", time_s=25),
    ]
    assert wrong_texts(NarrationPool(clips), 0, NarrationPool.from_same_take, count=2) is not None
    for seed in range(20):
        texts = wrong_texts(NarrationPool(clips), 0, NarrationPool.from_same_take, seed, count=2)
        assert set(texts or []) == {"C walks away", "C sits down"}
    assert wrong_texts(NarrationPool(clips), 0, NarrationPool.from_same_take, count=3) is None
    nearer = NarrationPool(clips, min_distance_s=1.0)
    assert wrong_texts(nearer, 0, NarrationPool.from_same_take, count=3) is not None


def test_words_of_two_annotators_for_one_event_are_learnt() -> None:
    pool = NarrationPool(narrated_clips())
    learnt = {
        (" ".join(sorted(words)), " ".join(sorted(other)))
        for words, others in pool.rewordings.of.items()
        for other in others
    }
    assert {("pushes", "slides"), ("slides", "pushes"), ("lifts", "picks up")} <= learnt
    assert len(learnt) == 2 * len(VERBS), "and nothing else"


@pytest.mark.parametrize(
    "compatible",
    [
        "C opens the box",  # says less
        "C opens the red box on the mat with her left hand",  # says more
        "C opens a red box with his left hand",
        "c OPENS the red box.",
    ],
)
def test_a_text_that_does_not_contradict_is_no_wrong_option(compatible: str) -> None:
    texts = ["C opens the red box with her left hand.", compatible, "C walks", "C sits"]
    pool = NarrationPool([make_clip(n, text, take=f"take{n}", time_s=10) for n, text in enumerate(texts)])
    for pick in (NarrationPool.from_other_takes, NarrationPool.most_similar):
        assert set(wrong_texts(pool, 0, pick, count=2) or []) == {"C walks", "C sits"}


def test_a_known_rewording_with_an_omission_is_no_wrong_option() -> None:
    pool = NarrationPool(
        [
            make_clip(0, "C lifts the cup", annotator="a", time_s=10),
            make_clip(1, "C picks up the cup", annotator="b", time_s=10.2),
            make_clip(2, "C picks up the cup from the tray", take="take01", time_s=10),
            make_clip(3, "C shakes the cup", take="take01", time_s=20),
        ]
    )
    assert wrong_texts(pool, 0, NarrationPool.from_other_takes, count=1) == ["C shakes the cup"]
    assert wrong_texts(pool, 0, NarrationPool.from_other_takes, count=2) is None


def test_no_option_says_the_same_in_other_words() -> None:
    pool = NarrationPool(narrated_clips())
    plain = {other: verb for verb, other in VERBS.items()}

    def meaning(text: str) -> str:
        for other, verb in plain.items():
            text = text.replace(other, verb)
        return text

    for index in range(len(pool.clips)):
        for pick in PICKS:
            texts = wrong_texts(pool, index, pick, seed=index) or []
            meanings = [meaning(text) for text in (*texts, pool.clips[index].text)]
            assert len(set(meanings)) == len(meanings)


def test_most_similar_options_differ_by_few_words() -> None:
    pool = NarrationPool(narrated_clips(num_takes=30))
    different = [
        len(pool.words[index] ^ pool.words[other])
        for index in range(0, len(pool.clips), 11)
        for other in pool.most_similar(index, 4, random.Random(index)) or []
    ]
    assert max(different) <= 5
    assert sum(different) / len(different) < 3.5


def test_a_table_of_one_take_has_no_other_takes() -> None:
    pool = NarrationPool(narrated_clips(num_takes=1))
    assert pool.from_other_takes(0, 4, random.Random(0)) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"unsure": True}, "annotator unsure"),
        ({"ego_visible": False}, "not visible in the ego video"),
        ({"start_s": 5.0, "end_s": 5.0}, "shorter than the minimum"),
    ],
)
def test_unfit_clips_are_not_asked_about_but_counted(change: dict[str, object], reason: str) -> None:
    clips = narrated_clips(num_takes=2)
    unfit = Clip.model_validate({**clips[0].model_dump(), **change})
    pool = NarrationPool([unfit, *clips[1:]])
    assert pool.unfit == {reason: 1}
    assert 0 not in pool.askable
    assert pool.counts() == {"clips": 45, "askable_clips": 44, "unfit_clips": {reason: 1}}
