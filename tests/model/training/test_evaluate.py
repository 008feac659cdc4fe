"""An evaluation measures what its figures say, on clips that no epoch was chosen by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from model import checkpoint
from model.checkpoint import CheckpointError, Measurement
from model.config import Config, Precision
from model.media.reader import Clip, read_clip
from model.network import SCMRL, Output
from model.preprocess.prepared import Prepared
from model.training import evaluate
from model.training import evaluator as evaluating
from model.training.avdigits import folder as data_folder
from model.training.avdigits.clips import labelled_clips
from model.training.avdigits.folder import Digits
from model.training.avdigits.task import AVDigits
from model.training.evaluate import STEPS
from model.training.evaluation_options import EvaluateOptions
from model.training.evaluator import ClipOnDemand, DecodedClip, Evaluator
from model.training.options import OptionsError, TrainOptions
from model.training.task import DataError, LabelledClip
from model.training.training_card import make_card

pytestmark = pytest.mark.slow

CARD = make_card(TrainOptions.of(AVDigits(), Path("data"), embed_dim=16, steps=2), 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that was never trained."""
    folder = tmp_path_factory.mktemp("checkpoint")
    checkpoint.save(folder, SCMRL(CARD.config), CARD)
    return folder


@pytest.fixture(scope="module")
def clips(avdigits_folder: Path) -> list[DecodedClip]:
    labelled = labelled_clips(data_folder.load(avdigits_folder)[1], 3, 7)
    return [DecodedClip(clip, read_clip(clip.data, CARD.steps)) for clip in labelled]


@dataclass
class RecordingEvaluator(Evaluator):
    """An evaluator that records what it is called with."""

    clips: list[Clip] = field(default_factory=list)
    streams: list[tuple[str, ...]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def prepare(self, clip: Clip, steps: int, stream: str | None = None) -> dict[str, Prepared]:
        prepared = super().prepare(clip, steps, stream)
        self.clips.append(clip)
        self.streams.append(tuple(prepared))
        return prepared

    def run(
        self, prepared: Sequence[dict[str, Prepared]], steps: int, explain: Sequence[str] = ()
    ) -> Output:
        self.steps.append(steps)
        self.paths.append(self.engine.path)
        return super().run(prepared, steps, explain)


@pytest.fixture
def evaluator(folder: Path) -> RecordingEvaluator:
    evaluator = RecordingEvaluator()
    Evaluator.__init__(evaluator, folder, "cpu")
    return evaluator


def decibels(power: float) -> float:
    return 10 * float(np.log10(power))


def test_noise_of_every_level_reaches_the_network(
    evaluator: RecordingEvaluator, clips: list[DecodedClip], tmp_path: Path
) -> None:
    measured = evaluate.measure_noise(evaluator, clips, tmp_path)
    assert [m.what for m in measured] == [
        "accuracy, both streams, noise on the sound",
        "accuracy, sound alone, noise on it",
        "accuracy, both streams, noise on the picture",
        "accuracy, picture alone, noise on it",
    ]
    count = len(clips)
    assert len(evaluator.clips) == 4 * count * len(evaluate.SNRS_DB)
    sounds, pictures = [], []
    for level in range(len(evaluate.SNRS_DB)):
        prepared = evaluator.clips[4 * count * level :][: 4 * count]
        streams = evaluator.streams[4 * count * level :][: 4 * count]
        both, alone = prepared[:count], prepared[count : 2 * count]
        assert streams[count : 2 * count] == [("audio",)] * count
        for noisy in (both, alone):
            noise = [
                noisy_clip.sound.samples - decoded.clip.sound.samples
                for noisy_clip, decoded in zip(noisy, clips, strict=True)
                if noisy_clip.sound and decoded.clip.sound
            ]
            sounds.append(decibels(float(np.mean([np.mean(x**2) for x in noise]))))
        both, alone = prepared[2 * count : 3 * count], prepared[3 * count :]
        assert streams[3 * count :] == [("visual",)] * count
        for noisy in (both, alone):
            noise = [
                noisy_clip.pictures.frames[0].astype(float) - decoded.clip.pictures.frames[0]
                for noisy_clip, decoded in zip(noisy, clips, strict=True)
                if noisy_clip.pictures and decoded.clip.pictures
            ]
            pictures.append(decibels(float(np.mean([np.mean(x**2) for x in noise]))))
    loudest = evaluate.SNRS_DB[0]
    for level, snr in enumerate(evaluate.SNRS_DB):
        for power in sounds[2 * level : 2 * level + 2]:
            assert sounds[0] - power == pytest.approx(snr - loudest, abs=0.5)
    assert pictures[2::2] == sorted(pictures[2::2], reverse=True)
    assert pictures[0] - pictures[-1] > 15  # what is clipped to 0 to 255 is less


def test_the_accuracy_of_one_stream_is_measured_without_the_other(
    evaluator: RecordingEvaluator, clips: list[DecodedClip], tmp_path: Path
) -> None:
    streams: dict[str, tuple[str, ...]] = {}
    for measured in evaluate.measure_accuracy(evaluator, clips, tmp_path):
        streams[measured.what] = evaluator.streams[-1]
    assert streams == {
        "accuracy, both streams": ("audio", "visual"),
        "accuracy, picture alone": ("visual",),
        "accuracy, sound alone": ("audio",),
    }


def test_accuracy_is_the_fraction_of_clips_whose_label_is_predicted(
    evaluator: RecordingEvaluator, clips: list[DecodedClip]
) -> None:
    predictions = evaluator.predict(clips, CARD.steps)
    by_hand = [
        int(
            evaluator.run([evaluator.prepare(decoded.clip, CARD.steps)], CARD.steps).logits.argmax()
        )
        for decoded in clips
    ]
    assert predictions.tolist() == by_hand
    assert evaluating.score(np.array([0, 1, 9]), clips).value == pytest.approx(2 / 3)


def test_clips_beyond_the_memory_are_decoded_at_each_use(
    evaluator: RecordingEvaluator, clips: list[DecodedClip], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluating.decode_within_memory((x.truth for x in clips), CARD.steps, evaluator)
    monkeypatch.setattr(evaluating, "MAX_DECODED_BYTES", evaluating._bytes(clips[0].clip))
    part = evaluating.decode_within_memory((x.truth for x in clips), CARD.steps, evaluator)
    assert [type(x) for x in whole] == [DecodedClip] * 3
    assert [type(x) for x in part] == [DecodedClip, ClipOnDemand, ClipOnDemand]
    logits = [evaluator.logits(x, CARD.steps) for x in (whole, part)]
    assert np.array_equal(*logits)


def test_a_clip_that_cannot_be_measured_is_named(
    evaluator: RecordingEvaluator, clips: list[DecodedClip]
) -> None:
    damaged = replace(clips[0].truth, data=b"no movie", name="cat/3.mp4")
    with pytest.raises(DataError, match=r"^cat/3\.mp4: this file format is not supported"):
        evaluating.decode(damaged, 2, evaluator)
    mute = cv2.imencode(".png", np.arange(192, dtype=np.uint8).reshape(8, 8, 3))[1].tobytes()
    with pytest.raises(DataError, match=r"^a clip: a PNG picture has no sound"):
        evaluating.decode(replace(clips[0].truth, data=mute), 2, evaluator)


def test_the_recall_of_each_class_and_the_calibration_are_measured(
    evaluator: RecordingEvaluator, clips: list[DecodedClip], tmp_path: Path
) -> None:
    recalls = evaluate.measure_classes(evaluator, clips)
    errors = evaluate.measure_calibration(evaluator, clips, tmp_path)
    measured = {m.what: m for m in (*recalls, *errors)}
    labels = [clip.truth.label for clip in clips]
    predicted = evaluator.predict(clips, CARD.steps).tolist()
    assert labels == [0, 1, 2]
    for label in labels:
        assert measured[f"recall, {label}"].value == float(predicted[label] == label)
        assert measured[f"recall, {label}"].n == 1
    assert "recall, 3" not in measured  # no clip of it
    mean = np.mean([a == b for a, b in zip(labels, predicted, strict=True)])
    assert measured["recall, mean of the classes"].value == pytest.approx(mean)
    for alone in ("", ", sound alone", ", picture alone"):
        assert 0 <= measured[f"expected calibration error{alone}"].value <= 1
    assert (tmp_path / "reliability.png").stat().st_size > 1000


def test_reduced_precision_is_measured_with_its_weights_and_then_turned_off(
    evaluator: RecordingEvaluator, clips: list[DecodedClip]
) -> None:
    measured = list(evaluate.measure_reduced_precisions(evaluator, clips))
    if not measured:
        pytest.skip("this CPU has no int8 kernels")
    assert set(evaluator.paths) == {"fused-int8"}
    assert {m.precision for m in measured} == {"int8"}
    assert evaluator.engine.path == "fused"


def test_accuracy_over_t_is_that_of_t_steps(
    evaluator: RecordingEvaluator, clips: list[DecodedClip], tmp_path: Path
) -> None:
    evaluate.measure_steps(evaluator, clips[:1], tmp_path)
    assert evaluator.steps == [steps for steps in STEPS for _ in range(3)]
    evaluated = [
        clip.pictures
        for clip, streams in zip(evaluator.clips, evaluator.streams, strict=True)
        if clip.pictures and "visual" in streams
    ]
    assert [len(x.frames) for x in evaluated] == [steps for steps in STEPS for _ in range(2)]


class StoppedError(Exception):
    """Raised where clips are drawn, which is all that the test needs."""


@pytest.mark.parametrize("which", ["evaluate", "held_out_batches"])
def test_accuracy_is_reported_on_the_half_that_no_epoch_was_chosen_by(
    which: str,
    folder: Path,
    avdigits_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured_on: list[Digits] = []

    def clips_of(digits: Digits, count: int, seed: int) -> list[LabelledClip]:
        measured_on.append(digits)
        raise StoppedError

    monkeypatch.setattr("model.training.avdigits.clips.labelled_clips", clips_of)
    options = EvaluateOptions(folder, avdigits_folder, tmp_path, device="cpu")
    measures = {
        "evaluate": lambda: evaluate.evaluate(options, Console(quiet=True)),
        "held_out_batches": lambda: next(evaluating.held_out_batches(folder, avdigits_folder, 10)),
    }
    with pytest.raises(StoppedError):
        measures[which]()
    chosen_on, reported = data_folder.halves(data_folder.load(avdigits_folder)[1])
    assert measured_on[0].sha256 == reported.sha256
    assert measured_on[0].sha256 != chosen_on.sha256
    for ours, theirs in zip(measured_on[0].words, chosen_on.words, strict=True):
        assert not {x.tobytes() for x in ours} & {x.tobytes() for x in theirs}


def placed(clip: LabelledClip, across: float, down: float) -> DecodedClip:
    """The clip with the centre of its digit moved from the frame's by these shares of it."""
    height, width = clip.size
    x, y = (0.5 + across) * width, (0.5 + down) * height
    box = (x - 5, y - 5, x + 5, y + 5)
    truth = LabelledClip(clip.data, clip.label, box, clip.size, clip.begin, clip.end)
    return DecodedClip(truth, read_clip(clip.data, 1))


def test_a_digit_is_off_centre_from_a_fifth_of_the_frame_on(clips: list[DecodedClip]) -> None:
    places = [(0.0, 0.0), (0.25, 0.0), (0.1, 0.1), (0.0, -0.21), (-0.15, 0.15)]
    moved = [placed(clips[0].truth, *place) for place in places]
    assert evaluate.off_centre(moved, 10) == [moved[1], moved[3], moved[4]]
    assert evaluate.off_centre(moved, 2) == [moved[1], moved[3]]


@pytest.mark.parametrize("attention", [None, "temporal"])
def test_a_network_without_spatial_attention_has_class_activation_maps_alone(
    attention: str | None, avdigits_folder: Path, clips: list[DecodedClip], tmp_path: Path
) -> None:
    kinds = {}
    for name, kind in (("whole", "spatial-temporal"), ("part", attention)):
        config = CARD.config.model_copy(update={"attention": kind})
        checkpoint.save(tmp_path / name, SCMRL(config), CARD.model_copy(update={"config": config}))
        evaluator = Evaluator(tmp_path / name, "cpu")
        measured = evaluate.measure_maps(evaluator, clips[:1])
        kinds[name] = {m.what.partition(":")[0] for m in measured}
        assert len(measured) == 5 * len(kinds[name])
        assert evaluate.measure_maps(evaluator, []) == []
    assert kinds == {"whole": {"attention", "class activation"}, "part": {"class activation"}}


def test_a_checkpoint_of_another_task_is_refused_by_its_labels(
    avdigits_folder: Path, tmp_path: Path
) -> None:
    config = CARD.config.model_copy(update={"classes": 4})
    update = {"config": config, "labels": ("dog", "cat", "rain", "bell")}
    checkpoint.save(tmp_path / "four", SCMRL(config), CARD.model_copy(update=update))
    options = EvaluateOptions(tmp_path / "four", avdigits_folder, tmp_path / "figures")
    with pytest.raises(CheckpointError, match=r"labels: dog, cat, rain, bell .* a known task"):
        evaluate.evaluate(options)
    assert not (tmp_path / "figures").exists()


def test_a_checkpoint_of_other_streams_is_refused_by_them(
    avdigits_folder: Path, tmp_path: Path
) -> None:
    """Ten labels that are digits, and pictures alone."""
    streams = {"visual": CARD.config.streams["visual"]}
    config = Config.model_validate(CARD.config.model_dump() | {"streams": streams})
    update = {"config": config, "streams": {"visual": CARD.streams["visual"]}}
    checkpoint.save(tmp_path / "blind", SCMRL(config), CARD.model_copy(update=update))
    options = EvaluateOptions(tmp_path / "blind", avdigits_folder, tmp_path / "figures")
    with pytest.raises(CheckpointError, match="streams: "):
        evaluate.evaluate(options)


@pytest.mark.parametrize(
    ("name", "value"),
    [("clips", 9), ("clips", 10**9), ("curve_clips", 0), ("attention_clips", 0), ("seed", -1)],
)
def test_a_number_that_cannot_be_measured_with_is_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(OptionsError, match=f"--{name.replace('_', '-')} {value}: must be "):
        EvaluateOptions(Path("a"), Path("b"), Path("c"), **{name: value})  # type: ignore[arg-type]


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_measured(
    folder: Path, avdigits_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    for out in (tmp_path / "file", tmp_path / "file" / "figures"):
        options = EvaluateOptions(folder, avdigits_folder, out, device="cpu")
        with pytest.raises(OptionsError, match=f"--out {out}: "):
            evaluate.evaluate(options)


def test_an_evaluation_writes_figures_and_the_card(avdigits_folder: Path, tmp_path: Path) -> None:
    options = TrainOptions.of(AVDigits(), avdigits_folder, embed_dim=16, steps=2)
    described = make_card(options, 0)
    folder = tmp_path / "weights"
    precisions: tuple[Precision, ...] = ("float32", "int8", "float16")
    old = tuple(
        Measurement(what=f"accuracy, {each}", value=0.5, conditions="before", precision=each)
        for each in precisions
    )
    described = described.model_copy(update={"accuracy": old})
    checkpoint.save(folder, SCMRL(described.config), described)
    evaluate_options = EvaluateOptions(
        checkpoint=folder, data=avdigits_folder, out=tmp_path / "figures",
        clips=10, curve_clips=2, attention_clips=2, device="cpu", write_card=True,
    )  # fmt: skip
    measured = evaluate.evaluate(evaluate_options, Console(quiet=True))
    by_name = {m.what: m for m in measured.accuracy}
    both = by_name["accuracy, both streams"]
    assert both.n == 10
    assert both.low is not None
    assert both.high is not None
    assert 0 <= both.low <= both.value <= both.high <= 1
    assert {f"accuracy, both streams, T = {t}" for t in range(1, 9)} <= set(by_name)
    assert "accuracy, both streams, noise on the sound" in by_name
    assert any(name.startswith("attention: mass over share") for name in by_name)
    for name in ("confusion.png", "noise.png", "steps.png"):
        assert cv2.imread(str(tmp_path / "figures" / name)) is not None
    assert checkpoint.load(folder)[1].accuracy == measured.accuracy
    kept = [m for m in measured.accuracy if m.conditions == "before"]
    assert kept == [old[2]], "a CPU measures anew all but float16, which it does not have"


def test_the_table_names_the_test_clips_once() -> None:
    location = "clips of a speaker"
    measured = [
        Measurement(what="accuracy, both streams", value=0.5, n=2, conditions=f"T = 2, {location}"),
        Measurement(what="accuracy, T = 1", value=0.5, n=2, conditions=location),
        Measurement(what="recall, a[/b]", value=0.5, n=2, conditions=f"both, {location}, int8"),
    ]
    console = Console(width=200)
    with console.capture() as capture:
        console.print(evaluate.measurements_table(measured, location))
    printed = capture.get()
    assert printed.count(location) == 1
    conditions = [line.split("│")[-2].strip() for line in printed.splitlines() if "│" in line]
    assert conditions == ["T = 2", "", "both, int8"]
    assert "recall, a[/b]" in printed  # a class may have any name
