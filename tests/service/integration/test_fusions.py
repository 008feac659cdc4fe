"""Checkpoints of every fusion are served, through HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from model.config import SCMRL_FUSIONS, Config, Fusion
from tests.service.checkpoints import CONFIG, save
from tests.service.running_server import running

FUSIONS = [fusion for fusion in get_args(Fusion) if fusion not in SCMRL_FUSIONS]


def test_a_checkpoint_of_each_fusion_answers_with_its_terms_and_maps(
    tmp_path: Path, clip: bytes
) -> None:
    for fusion in FUSIONS:
        config = {**CONFIG.model_dump(), "fusion": fusion, "attention": None}
        save(tmp_path / fusion, config=Config.model_validate(config))
    with running(tmp_path, device="cpu", default_model="taaf") as client:
        paths = {
            model["name"]: model["path"] for model in client.get("/v1/models").json()["models"]
        }
        assert paths == dict.fromkeys(FUSIONS, "plain")
        for fusion in FUSIONS:
            url = f"/v1/models/{fusion}"
            assert client.get(url).json()["config"]["fusion"] == fusion
            form = {"diagnostics": "true", "class_activation": "grid"}
            answer = client.post(f"{url}/classify", files={"clip": clip}, data=form).json()
            check(fusion, answer)


def check(fusion: str, answer: dict[str, Any]) -> None:
    """Its terms and the bias are highest for the answer; maps and layers are its own."""
    probabilities = {row["label"]: row["probability"] for row in answer["probabilities"]}
    terms = answer["contributions"]
    logits = {label: sum(term[label] for term in terms.values()) for label in probabilities}
    highest = max(logits, key=lambda label: logits[label])
    assert highest == answer["prediction"]["label"]
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-3)
    layers = answer["diagnostics"]["layers"]
    assert any(name.startswith(("fuse", "residual.audio.visual")) for name in layers)
    maps = {name: set(each) for name, each in (answer["attention"] or {}).items()}
    expected = {"sca": {"spatial"}, "cmqka": {"spatial"}, "taaf": {"temporal"}}.get(fusion)
    assert maps == ({"audio": expected, "visual": expected} if expected else {})
    # Where a term is no sum over tokens there is no map of it.
    activation = answer["class_activation"]
    assert activation["label"] == highest
    assert set(activation["maps"]) == ({"audio", "visual"} if fusion in ("sca", "cmqka") else set())
