"""The alignment loss is its formula, and knows one stream from several."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from model.network.alignment_loss import alignment_loss, pair_loss


def residual(seed: int, steps: int = 3, batch: int = 5, channels: int = 4) -> Tensor:
    values = np.random.RandomState(seed).normal(size=(steps, batch, channels))
    return torch.from_numpy(values)


def brute_force(rows: Tensor, columns: Tensor, labels: list[int], temperature: float) -> float:
    """-(1/B^2) sum_ij [y_i = y_j] log_softmax_j(S_i), number by number."""
    count = len(labels)
    f, g = rows.mean(0).tolist(), columns.mean(0).tolist()
    total = 0.0
    for i in range(count):
        similar = [sum(a * b for a, b in zip(f[i], g[j], strict=True)) for j in range(count)]
        exponents = [math.exp(s / temperature) for s in similar]
        for j in range(count):
            if labels[i] == labels[j]:
                total += math.log(exponents[j] / sum(exponents))
    return -total / count**2


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 4], [0, 1, 0, 1, 1], [2, 2, 2, 2, 2]])
def test_the_loss_of_two_streams_is_the_formula(labels: list[int], temperature: float) -> None:
    audio, visual = residual(0), residual(1)
    loss = alignment_loss({"audio": audio, "visual": visual}, torch.tensor(labels), temperature)
    expected = brute_force(audio, visual, labels, temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_the_first_stream_has_the_rows() -> None:
    audio, visual, labels = residual(0), residual(1), [0, 1, 0, 1, 1]
    first = brute_force(audio, visual, labels, 0.07)
    second = brute_force(visual, audio, labels, 0.07)
    assert first != pytest.approx(second, rel=1e-2)
    y = torch.tensor(labels)
    assert alignment_loss({"audio": audio, "visual": visual}, y).item() == pytest.approx(first)
    assert alignment_loss({"visual": visual, "audio": audio}, y).item() == pytest.approx(second)


def test_three_streams_add_their_pairs() -> None:
    residuals = {name: residual(i) for i, name in enumerate(("audio", "visual", "tactile"))}
    labels = torch.tensor([0, 1, 0, 1, 1])
    pairs = (("audio", "visual"), ("audio", "tactile"), ("visual", "tactile"))
    expected = sum(pair_loss(residuals[a], residuals[b], labels, 0.5).item() for a, b in pairs)
    assert alignment_loss(residuals, labels, 0.5).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("residuals", [{}, {"audio": residual(0)}])
def test_fewer_than_two_streams_have_no_loss(residuals: dict[str, Tensor]) -> None:
    loss = alignment_loss(residuals, torch.tensor([0, 1, 0, 1, 1]))
    assert loss.shape == ()
    assert loss.item() == 0
    assert (loss + torch.ones((), requires_grad=True)).requires_grad  # it can join another loss


def test_both_streams_learn_and_the_loss_falls_where_classes_agree() -> None:
    audio, visual = residual(0).requires_grad_(), residual(1).requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 4])
    before = alignment_loss({"audio": audio, "visual": visual}, labels, 1.0)
    before.backward()
    assert audio.grad is not None
    assert visual.grad is not None
    with torch.no_grad():
        closer = {"audio": audio - audio.grad, "visual": visual - visual.grad}
        assert alignment_loss(closer, labels, 1.0) < before
