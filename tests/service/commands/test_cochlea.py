"""`scmrl cochlea` writes events that the upload field audio_events takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from typer.testing import CliRunner

from model.media.events.reader import read_channel_events
from service.commands.app import app


def test_a_sound_becomes_a_file_of_events(tmp_path: Path) -> None:
    wav, out = tmp_path / "tone.wav", tmp_path / "tone.npz"
    time = np.arange(16_000) / 44_100
    soundfile.write(wav, np.sin(2 * np.pi * 800 * time) * np.hanning(16_000), 44_100)
    result = CliRunner().invoke(app, ["cochlea", str(wav), "--out", str(out)])
    assert result.exit_code == 0, result.output
    events = read_channel_events(out.read_bytes())
    assert f"{len(events.channel)} events of 32 channels" in result.output
    assert 0.2 < events.duration_s < 0.4


def test_what_cannot_be_heard_is_an_error(tmp_path: Path) -> None:
    wav = tmp_path / "silence.wav"
    soundfile.write(wav, np.zeros(8000), 8000)
    text = tmp_path / "text.wav"
    text.write_text("no sound")
    out = tmp_path / "out.npz"
    for file, problem in ((wav, "hears nothing"), (text, "text.wav"), (tmp_path / "x", "No such")):
        result = CliRunner().invoke(app, ["cochlea", str(file), "--out", str(out)])
        assert result.exit_code == 2
        assert problem in result.stderr
    assert not out.exists()
