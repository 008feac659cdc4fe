"""Parts share no group, and every class has each of them, whatever the data."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from model.training.folder.clip_files import ClipFiles
from model.training.folder.split import DEVELOPMENT, PARTS, TEST, TRAIN, split, too_few


def clip(index: int, label: str, group: str, part: str = "") -> ClipFiles:
    return ClipFiles(f"{index}.mp4", label, group, (), None, part)


def clips_of(counts: dict[str, int]) -> list[ClipFiles]:
    labels = [label for label, count in counts.items() for _ in range(count)]
    return [clip(index, label, f"group {index}") for index, label in enumerate(labels)]


@given(
    counts=st.dictionaries(st.sampled_from("abcde"), st.integers(3, 40), min_size=2),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60)
def test_every_class_has_each_part_in_its_share(counts: dict[str, int], seed: int) -> None:
    clips = clips_of(counts)
    parts = split(clips, 0.15, 0.2, seed)
    assert parts == split(clips, 0.15, 0.2, seed)
    assert too_few(clips, parts, counts, grouped=False) == []
    for label, count in counts.items():
        of = Counter(part for each, part in zip(clips, parts, strict=True) if each.label == label)
        assert of[TEST] == max(1, round(0.2 * count))
        assert of[DEVELOPMENT] == max(1, round(0.15 * count))
        assert of[TRAIN] >= 1


@given(data=st.data(), seed=st.integers(0, 100))
@settings(max_examples=60)
def test_no_group_is_in_two_parts(data: st.DataObject, seed: int) -> None:
    pairs = st.tuples(st.sampled_from("abc"), st.integers(0, 12).map(str))
    drawn = data.draw(st.lists(pairs, min_size=1, max_size=80))
    clips = [clip(index, label, group) for index, (label, group) in enumerate(drawn)]
    parts_of: dict[str, set[str]] = {}
    for each, part in zip(clips, split(clips, 0.15, 0.2, seed), strict=True):
        parts_of.setdefault(each.group, set()).add(part)
    assert all(len(parts) == 1 for parts in parts_of.values())
    assert set().union(*parts_of.values()) <= set(PARTS)


def test_the_seed_decides_who_is_tested_on() -> None:
    clips = clips_of({"a": 30, "b": 30})
    assert split(clips, 0.15, 0.2, 0) != split(clips, 0.15, 0.2, 1)


def test_a_part_that_the_owner_chose_is_kept_and_the_others_are_drawn() -> None:
    chosen = [clip(i, "ab"[i % 2], f"g{i}", TEST if i < 4 else TRAIN) for i in range(20)]
    parts = split(chosen, 0.2, 0.5, 0)
    assert parts[:4] == [TEST] * 4
    assert Counter(parts[4:]) == {TRAIN: 12, DEVELOPMENT: 4}
    # The rest of a group that its owner tests on is not trained on.
    torn = [*chosen, clip(20, "a", "g0"), clip(21, "a", "g1", TRAIN)]
    assert split(torn, 0.2, 0.5, 0)[20:] == [TEST, TRAIN]


def test_a_class_that_cannot_be_split_is_reported_with_what_it_needs() -> None:
    clips = [*clips_of({"a": 9, "b": 2}), clip(11, "c", "one"), clip(12, "c", "one")]
    parts = split(clips, 0.15, 0.2, 0)
    texts = {x.where: x.message for x in too_few(clips, parts, "abc", grouped=True)}
    assert set(texts) == {"b", "c"}
    assert "has 2 groups" in texts["b"]
    assert "has 1 group, and none is left to choose the epoch by or test on" in texts["c"]
    assert "3 groups or more are needed" in texts["c"]
    (single,) = too_few(clips[:9], parts[:9], "a", grouped=False)
    assert single.message == "there is only class a; two classes or more are needed"
    (none,) = too_few([], [], [], grouped=False)
    assert none.message == "there is no class; two classes or more are needed"
    tested = [clip(i, "ab"[i % 2], f"g{i}", TEST if i == 0 else "") for i in range(10)]
    (finding,) = too_few(tested, split(tested, 0.15, 0.2, 0), "ab", grouped=False)
    assert (finding.where, finding.message) == (
        "b",
        "no row of it has split test, as rows of other classes have; name it in some, or in no "
        "row of the table",
    )
