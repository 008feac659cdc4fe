"""Variants of a study have names that are read back, and trainings that differ in them alone."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from model.checkpoint import read_card
from model.training.avdigits.task import AVDigits
from model.training.options import NO_ATTENTION, OptionsError, TrainOptions
from model.training.study.options import STUDIES, StudyOptions
from model.training.study.variants import parse
from model.training.tasks import TASKS
from model.training.training_card import network_config
from service.default_checkpoint import WEIGHTS

OPTIONS = StudyOptions("avdigits", Path("data"), Path("out"))


TASK = AVDigits()


@pytest.mark.parametrize("name", ["0", "0.5", "1.5-unaligned", "none", "s-cmrl", "as-is", "cmci"])
def test_a_variant_is_read_by_its_name(name: str) -> None:
    assert [variant.name for variant in parse(name)] == [name]


def test_each_stream_alone_is_a_variant_of_its_own() -> None:
    variants = parse("s-cmrl,alone", TASK)
    assert [variant.name for variant in variants] == ["s-cmrl", "audio-alone", "visual-alone"]
    assert [variant.title for variant in variants[1:]] == ["sound alone", "picture alone"]
    run = OPTIONS.run(TASK, variants[2], 0)
    assert run.modality_dropout == {"visual": 1.0}
    assert (run.attention, run.select_by) == (NO_ATTENTION, "last")


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_has_variants_of_its_own(study: str) -> None:
    options = StudyOptions("avdigits", Path("data"), Path("out"), study=study)
    trained = [variant.name for variant in options.variants_of(TASK)]
    expected = {"alpha": "0", "ablation": "s-cmrl"}.get(study, "s-cmrl")
    assert trained[0] == expected
    source = {"init_from": Path("weights/avdigits"), "epochs": 0}
    measured = replace(options, **source).variants_of(TASK)  # type: ignore[arg-type]
    as_it_is = study not in ("alpha", "ablation")
    assert [variant.name for variant in measured] == (["as-is"] if as_it_is else trained)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"snrs": "0,x"}, r"--snrs 0,x: must be whole numbers, -100 to 100, joined with commas"),
        ({"snrs": ""}, "--snrs : must be whole numbers"),
        ({"time_steps": "0,1"}, r"--time-steps 0,1: must be whole numbers, 1 to 64"),
        ({"margins": "0.5,2"}, r"--margins 0.5,2: must be numbers, 0 to 1, joined with commas"),
        ({"epochs": 0}, "--epochs 0: --init-from must name the checkpoint to measure"),
    ],
)
def test_an_option_out_of_range_is_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        replace(OPTIONS, **changed)  # type: ignore[arg-type]


def test_a_checkpoint_is_configured_as_the_variant() -> None:
    config = network_config(TrainOptions.of(TASK, Path("data")))
    (as_is, alpha, none, spatial, taaf) = parse("as-is,1.5,none,spatial,taaf")
    assert as_is.configure(config) == config
    assert alpha.configure(config).alpha == 1.5
    assert none.configure(config).attention is None
    assert spatial.configure(config).attention == "spatial"
    assert (taaf.configure(config).fusion, taaf.configure(config).attention) == ("taaf", None)
    assert [x.has_residual for x in (as_is, alpha, none, spatial, taaf)] == [
        False, True, False, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize("task", ["avdigits", "handsigns", "drones", "ndigits-events"])
def test_a_study_starts_from_the_checkpoint_that_ships(task: str) -> None:
    """Those of new weights have silent residuals."""
    card = read_card(WEIGHTS / task)
    for changes in ({}, {"init_from": None, "channels": None}):
        options = StudyOptions.of(task, WEIGHTS, data=Path("data"), out=Path("out"), **changes)
        assert (options.init_from, options.start_epochs) == (WEIGHTS / task, 0)
        assert (options.channels, options.steps) == (card.config.embed_dim, card.steps)
    run = options.run(TASKS[task](), parse("0.5")[0], 0)
    assert run.init_from == WEIGHTS / task
    assert network_config(run) == card.config.model_copy(update={"alpha": 0.5})


def test_a_study_starts_from_new_weights_where_asked_or_where_no_checkpoint_ships() -> None:
    required = {"data": Path("data"), "out": Path("out")}
    new = StudyOptions("avdigits", **required)  # type: ignore[arg-type]
    assert StudyOptions.of("avdigits", WEIGHTS, **required, init_from=Path("new")) == new
    assert StudyOptions.of("crema-d", WEIGHTS, **required) == replace(new, task="crema-d")
    source = WEIGHTS / "avdigits"
    options = {"channels": 256, "steps": 1, "start_epochs": 3, "init_from": source}
    chosen = StudyOptions.of("drones", WEIGHTS, **required, **options)
    assert {name: getattr(chosen, name) for name in options} == options


@pytest.mark.parametrize("name", ["", "half", "-1", "nan", "1001", "unaligned", "none-unaligned"])
def test_an_unknown_variant_is_refused_by_name(name: str) -> None:
    with pytest.raises(OptionsError, match=r"--variants .* must be an alpha of 0 to 1000"):
        StudyOptions("avdigits", Path("data"), Path("out"), variants=f"0,{name}")


def test_a_variant_is_named_once() -> None:
    with pytest.raises(OptionsError, match=r"--variants 0\.5,0\.50: a variant is named twice"):
        StudyOptions("avdigits", Path("data"), Path("out"), variants="0.5,0.50")


def test_trainings_of_a_seed_differ_in_the_variant_alone() -> None:
    task = AVDigits()
    runs = {each.name: OPTIONS.run(task, each, 3) for each in OPTIONS.variants_of(task)}
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
