"""A training minimises the paper's loss, measures each epoch, and saves the best weights."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from model import checkpoint
from model.network.alignment_loss import alignment_loss
from model.training.avdigits import folder
from model.training.avdigits.folder import Digits
from model.training.avdigits.task import AVDigits
from model.training.epochs import Accuracies, EpochMetrics
from model.training.options import TrainOptions
from model.training.schedule import FLOAT32_FROM
from model.training.train import Trainer, train
from tests.model.networks import lively

pytestmark = [pytest.mark.usefixtures("one_core"), pytest.mark.slow]


@pytest.fixture
def options(avdigits_folder: Path, tmp_path: Path) -> TrainOptions:
    return TrainOptions.of(
        AVDigits(synthetic_takes=0), avdigits_folder, out=tmp_path / "run", epochs=2, clips=24,
        batch=8, embed_dim=16, steps=2, development_clips=10, modality_dropout={"all": 1.0},
        learning_rate=1e-3,
    )  # fmt: skip


def new_trainer(options: TrainOptions) -> Trainer:
    """A training before its first step."""
    run = Trainer(options)
    run.restore()
    run.network.train()
    return run


def trainer_with_spikes(options: TrainOptions) -> Trainer:
    """`new_trainer` with residuals that fire: those of a new network are silent at first, and
    the alignment loss has no gradient then."""
    run = new_trainer(options)
    weights = lively(run.network.config).state_dict()
    for name in weights:
        # Their inputs are products of means, or of heads of one channel, and small.
        if name.endswith(("temporal.lif.threshold", "audio.lif.threshold", "visual.lif.threshold")):
            weights[name] = torch.tensor(0.1)
    run.network.load_state_dict(weights)
    return run


def repeat(inputs: dict[str, Tensor], steps: int) -> dict[str, Tensor]:
    return {name: x.expand(steps, -1, -1, -1, -1) for name, x in inputs.items()}


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in network.state_dict().items()}


# --- the loss ----------------------------------------------------------------------------------


def test_a_step_follows_the_gradient_of_cross_entropy_and_alignment(options: TrainOptions) -> None:
    """Of smoothed labels, clipped to norm 5, in float32 near the end of the training."""
    run = trainer_with_spikes(options)
    inputs, labels = run.batches[0]
    run.schedule, last = replace(run.schedule, steps_per_epoch=100), 199
    assert run.schedule.progress(last) >= FLOAT32_FROM
    before = state(run.network)
    output = run.network(repeat(inputs, run.schedule.plan(last).steps))
    assert all(residual.any() for residual in output.residuals.values())
    assert len(output.residuals) == 2
    entropy = cross_entropy(output.logits, labels, label_smoothing=options.label_smoothing)
    aligned = alignment_loss(output.residuals, labels, options.temperature)
    parameters = dict(run.network.named_parameters())
    name = "residual.audio.visual.align.weight"
    (alone,) = torch.autograd.grad(aligned, parameters[name], retain_graph=True)
    assert alone.any()
    gradients = torch.autograd.grad(entropy + aligned, list(parameters.values()))
    clipped = min(1.0, 5 / math.sqrt(sum(float(x.square().sum()) for x in gradients)))
    run.network.load_state_dict(before)  # the norms' statistics as well

    loss, alignment = run.train_step(last, inputs, labels)
    assert loss == pytest.approx((entropy + aligned).item(), rel=1e-4)
    assert alignment == pytest.approx(aligned.item(), rel=1e-4)
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        assert parameter.grad is not None, name
        difference = (parameter.grad - clipped * gradient).norm()
        assert difference <= 1e-3 * clipped * gradient.norm() + 1e-6, name


def test_steps_on_a_batch_lower_both_parts_of_its_loss(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alignment against the same training without it: from step to step it jumps."""

    def train_on_a_batch() -> tuple[float, float, float]:
        """The cross-entropy before and after 40 steps, and the alignment of the last 20."""
        run = trainer_with_spikes(replace(options, learning_rate=3e-3))
        inputs, labels = run.batches[0]
        losses = np.array([run.train_step(0, inputs, labels) for _ in range(40)])
        entropies = losses[:, 0] - losses[:, 1]
        return entropies[0], entropies[-1], losses[20:, 1].mean()

    before, after, aligned = train_on_a_batch()
    assert after < 0.5 * before
    name = "model.training.train.alignment_loss"
    monkeypatch.setattr(name, lambda *of_batch: alignment_loss(*of_batch).detach())
    assert aligned < 0.85 * train_on_a_batch()[2]


# --- the schedule ------------------------------------------------------------------------------


def test_the_rate_warms_up_and_falls_by_a_cosine_to_a_hundredth(options: TrainOptions) -> None:
    run = new_trainer(replace(options, epochs=10, clips=80, warmup_epochs=1.0))
    assert run.schedule.steps_per_epoch == 10
    rates = [run.set_learning_rate(step) for step in range(100)]
    greatest = options.learning_rate
    assert rates[:10] == pytest.approx([greatest * (step + 1) / 10 for step in range(10)])
    assert rates[55] == pytest.approx(greatest * (0.01 + 0.99 / 2))  # half of the way down
    assert rates[99] == pytest.approx(0.01 * greatest, rel=0.05)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert {group["lr"] for group in run.optimizer.param_groups} == {rates[99]}


def test_only_weights_of_two_or_more_dimensions_are_decayed(options: TrainOptions) -> None:
    run = new_trainer(replace(options, weight_decay=0.3))
    groups = run.optimizer.param_groups
    for group in groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.3 if parameter.ndim > 1 else 0.0)
    assert {group["weight_decay"] for group in groups} == {0.0, 0.3}


def test_scenes_grow_from_easy_to_hard_and_sequences_to_the_longest(options: TrainOptions) -> None:
    run = new_trainer(replace(options, epochs=10, clips=800, steps=4, curriculum=0.4))
    total = 10 * run.schedule.steps_per_epoch
    plans = [run.schedule.plan(step) for step in range(total)]
    assert plans[0].difficulty == 0
    assert plans[total // 5].difficulty == pytest.approx(0.5)
    assert all(plan.difficulty == 1 for plan in plans[total * 2 // 5 :])
    early, late = plans[: total * 4 // 5], plans[math.ceil(total * FLOAT32_FROM) :]
    assert {plan.steps for plan in early} == {1, 2}
    assert {plan.steps for plan in late} == {2, 4}
    assert np.mean([plan.steps for plan in late]) > 3


def test_a_training_from_a_checkpoint_has_hard_scenes_from_its_first_step(
    options: TrainOptions,
) -> None:
    before = train(replace(options, epochs=1, clips=8))
    run = new_trainer(replace(options, out=options.out.with_name("on"), init_from=before))
    assert run.schedule.plan(0).difficulty == 1
    eased = replace(run.options, out=options.out.with_name("eased"), easy_start=True)
    assert new_trainer(eased).schedule.plan(0).difficulty == 0


def test_batches_have_streams_as_often_as_modality_dropout_says(options: TrainOptions) -> None:
    dropout = {"all": 0.2, "visual": 0.5, "audio": 0.3}
    run = new_trainer(replace(options, epochs=100, clips=80, modality_dropout=dropout))
    drawn = [run.schedule.plan(step).streams for step in range(1000)]
    streams = {"all": ("audio", "visual"), "visual": ("visual",), "audio": ("audio",)}
    for name, share in dropout.items():
        assert drawn.count(streams[name]) / 1000 == pytest.approx(share, abs=0.05)


def test_every_epoch_is_trained_in_training_mode(options: TrainOptions) -> None:
    train(options)
    last = torch.load(options.out / "last.pt", weights_only=True)["network"]
    assert last["patch.audio.stages.0.norm.num_batches_tracked"] == 6


# --- what is measured --------------------------------------------------------------------------


def test_accuracy_is_measured_in_eval_mode_and_changes_nothing(options: TrainOptions) -> None:
    run = new_trainer(options)
    run.train_step(0, *run.batches[0])
    before = state(run.network)
    modes: list[bool] = []
    run.network.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    run.measure()
    assert modes
    assert not any(modes)
    for name, x in run.network.state_dict().items():
        assert torch.equal(x, before[name]), name


class LabelFromPicture(nn.Module):
    """Predicts the value of the picture; 0 without one."""

    def forward(self, inputs: dict[str, Tensor]) -> Any:
        frames = inputs["visual"] if "visual" in inputs else torch.zeros_like(inputs["audio"])
        return SimpleNamespace(logits=one_hot(frames[0, :, 0, 0, 0].long(), 10))


def test_each_stream_has_an_accuracy_of_its_own(options: TrainOptions) -> None:
    run = new_trainer(options)
    labels = torch.tensor([0, 1, 2, 3] * 5)
    pictures = labels.float().reshape(1, 20, 1, 1, 1)
    run.network = LabelFromPicture()  # type: ignore[assignment]
    run.development = [({"audio": torch.zeros_like(pictures), "visual": pictures}, labels)]
    assert run.measure() == Accuracies(1.0, {"audio": 0.25, "visual": 1.0})
    run.development[0][1][:10] = 9
    assert run.measure() == Accuracies(0.5, {"audio": 0.1, "visual": 0.5})


class AccessError(Exception):
    """Data was used that must not be."""


class Forbidden:
    """A picture or a recording that must not be used."""

    def __getattr__(self, name: str) -> Any:
        raise AccessError(name)

    def __len__(self) -> int:
        raise AccessError("len")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise AccessError("array")


def with_one_half(digits: Digits, half: int) -> Digits:
    """The digits, of which the other half raises AccessError where it is used."""

    def allowed(values: Any) -> tuple[Any, ...]:
        return tuple(x if i % 2 == half else Forbidden() for i, x in enumerate(values))

    pictures, words = ([allowed(of) for of in kind] for kind in (digits.pictures, digits.words))
    return Digits(tuple(pictures), tuple(words))  # type: ignore[arg-type]


def test_the_best_epoch_is_chosen_on_one_half_of_the_held_out_data(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, held_out = folder.load(options.data)
    monkeypatch.setattr(folder, "load", lambda _: (trained, with_one_half(held_out, 0)))
    assert len(new_trainer(options).development) == 1
    monkeypatch.setattr(folder, "load", lambda _: (trained, with_one_half(held_out, 1)))
    with pytest.raises(AccessError):
        new_trainer(options)


def test_held_out_data_is_not_trained_on(options: TrainOptions) -> None:
    trained, held_out = folder.load(options.data)
    trained_on = new_trainer(options).batches.examples.digits
    for ours, theirs in zip(trained_on.pictures, trained.pictures, strict=True):
        assert np.array_equal(ours, theirs)
    for ours, theirs in zip(trained_on.words, held_out.words, strict=True):
        assert not {x.tobytes() for x in ours} & {x.tobytes() for x in theirs}


# --- what is kept ------------------------------------------------------------------------------


def set_scores(scores: list[float], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """Let each epoch have one of these scores; return a list to which its weights are added.

    The accuracy of both streams alone would choose another epoch.
    """
    weights: list[dict[str, Tensor]] = []

    def accuracies(run: Trainer) -> Accuracies:
        weights.append(state(run.network))
        score = scores[len(weights) - 1]
        return Accuracies(1 - score, {"audio": score, "visual": score})

    monkeypatch.setattr("model.training.train.Trainer.measure", accuracies)
    return weights


def test_the_epoch_with_the_best_mean_score_is_saved(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = set_scores([0.3, 0.7, 0.5], monkeypatch)
    network, card = checkpoint.load(train(replace(options, epochs=3)))
    saved = network.state_dict()["head.weight"]
    assert torch.equal(saved, weights[1]["head.weight"])
    assert not torch.equal(saved, weights[2]["head.weight"])
    assert card.training is not None
    assert card.training.epochs == 2, "those after which the weights were so"
    last, last_card = checkpoint.load(options.last)
    assert torch.equal(last.state_dict()["head.weight"], weights[2]["head.weight"])
    assert last_card.training is not None
    assert last_card.training.epochs == 3
    assert card.steps == options.steps
    assert card.missing_streams


def test_a_resumed_run_remembers_its_best(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_trainer(options)
    run.save(EpochMetrics(1, 1e-3, 2.0, 1.0, Accuracies(0.9, {"audio": 0.9, "visual": 0.9})))
    saved = checkpoint.load(options.out / "best")[0].head.weight
    resumed = new_trainer(replace(options, resume=True))
    assert resumed.epoch == 1
    set_scores([0.6], monkeypatch)
    resumed.save(resumed.train_epoch(1, Console(quiet=True)))
    assert resumed.best == pytest.approx(0.9)
    assert torch.equal(checkpoint.load(options.out / "best")[0].head.weight, saved)
    assert not torch.equal(resumed.network.head.weight, saved)


def test_of_two_epochs_with_equal_scores_the_earlier_is_saved(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = set_scores([0.5, 0.5], monkeypatch)
    network, _ = checkpoint.load(train(options))
    assert torch.equal(network.head.weight, weights[0]["head.weight"])
