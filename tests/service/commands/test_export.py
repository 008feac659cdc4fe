"""`scmrl export onnx`: what it prints, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import onnxruntime
import pytest

from tests.service import checkpoints
from tests.service.commands.test_cli import scmrl

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # a graph is 10 to 20 s of CPU time


def test_a_checkpoint_becomes_a_graph(tmp_path: Path) -> None:
    checkpoint, out = checkpoints.save(tmp_path / "mine"), tmp_path / "mine.onnx"
    options = ("--out", out, "--steps", 1, "--streams", "visual")
    printed = scmrl("export", "onnx", checkpoint, *options).stdout
    assert "input visual: [batch, 1, 1, 96, 128]" in printed
    assert "of 16 samples of noise agree within" in printed
    assert f"wrote {out}: " in printed
    session = onnxruntime.InferenceSession(out)
    assert [x.name for x in session.get_inputs()] == ["visual"]


def test_errors_say_why_a_checkpoint_cannot_be_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "mine.onnx"
    missing = scmrl("export", "onnx", tmp_path / "none", "--out", out, code=2).stderr
    assert "card.json: No such file" in missing
    checkpoint = checkpoints.save(tmp_path / "strict", missing_streams=False)
    options = ("--out", out, "--streams", "visual")
    strict = scmrl("export", "onnx", checkpoint, *options, code=2).stderr
    assert "missing_streams: is false: the graph needs all streams" in strict
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "model.export.onnx_file", raising=False)
    without = scmrl("export", "onnx", checkpoint, "--out", out, code=1).stderr
    assert "pip install -e '.[onnx]' (onnxruntime)" in without
    assert not out.exists()
