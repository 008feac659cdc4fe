"""Variants of a study have names that are read back, and trainings that differ in them alone."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from model.training.avdigits.task import AVDigits
from model.training.options import NO_ATTENTION, OptionsError
from model.training.study.options import StudyOptions, Variant

OPTIONS = StudyOptions("avdigits", Path("data"), Path("out"))


@pytest.mark.parametrize("name", ["0", "0.5", "1.5-unaligned", "none"])
def test_a_variant_is_read_by_its_name(name: str) -> None:
    assert Variant.parse(name).name == name


@pytest.mark.parametrize("name", ["", "half", "-1", "nan", "1001", "unaligned", "none-unaligned"])
def test_an_unknown_variant_is_refused_by_name(name: str) -> None:
    with pytest.raises(OptionsError, match=r"--variants .* must be an alpha of 0 to 1000"):
        StudyOptions("avdigits", Path("data"), Path("out"), variants=f"0,{name}")


def test_a_variant_is_named_once() -> None:
    with pytest.raises(OptionsError, match=r"--variants 0\.5,0\.50: a variant is named twice"):
        StudyOptions("avdigits", Path("data"), Path("out"), variants="0.5,0.50")


def test_trainings_of_a_seed_differ_in_the_variant_alone() -> None:
    task = AVDigits()
    runs = {variant.name: OPTIONS.run(task, variant, 3) for variant in OPTIONS.parsed}
    assert len({run.out for run in runs.values()}) == len(runs)
    first = runs["0"]
    for run in runs.values():
        differing = {f.name for f in fields(run) if getattr(run, f.name) != getattr(first, f.name)}
        assert differing <= {"out", "alpha", "alignment", "attention"}
    assert (runs["1.5"].alpha, runs["1.5"].alignment) == (1.5, True)
    assert (runs["1.5-unaligned"].alpha, runs["1.5-unaligned"].alignment) == (1.5, False)
    assert runs["none"].attention == NO_ATTENTION
    assert first.attention != NO_ATTENTION
    assert first.seed == 3
    assert first.init_from == OPTIONS.start(task, 3).best
    assert first.modality_dropout == {"all": 0.6, "audio": 0.2, "visual": 0.2}


def test_the_start_never_has_both_streams() -> None:
    start = OPTIONS.start(AVDigits(), 0)
    assert start.modality_dropout == {"audio": 0.5, "visual": 0.5}
