"""The engine: one network, one device, many callers."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model import checkpoint
from model.config import MAX_STEPS, Config, EnginePath, Precision, StreamConfig
from model.engine.cuda_graphs import Forward
from model.engine.engine import Engine
from model.engine.outputs import flatten, slice_samples, unflatten
from model.fused.cpu.network import CPUNetwork
from model.network import SCMRL, Output
from tests.conftest import ROOT
from tests.model.networks import lively, noise

pytestmark = pytest.mark.slow

STEPS = 4
CONFIG = Config(
    streams={
        "audio": StreamConfig(channels=1, size=(32, 48)),
        "visual": StreamConfig(channels=3, size=(32, 48)),
    },
    classes=10,
    embed_dim=32,
    heads=8,
)


@pytest.fixture(scope="module")
def network() -> SCMRL:
    return lively(CONFIG)


@pytest.fixture(scope="module", params=["plain", "fused"])
def engine(network: SCMRL, request: pytest.FixtureRequest) -> Engine:
    engine = Engine(network, "cpu")
    if request.param == "fused":
        assert engine.fuse()
    assert engine.path == request.param
    return engine


def clips(count: int, *, steps: int = 1, seed: int = 0) -> dict[str, Tensor]:
    return noise(CONFIG, steps=steps, batch=count, seed=seed)


def alone(inputs: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    return {name: x[:, index : index + 1] for name, x in inputs.items()}


def test_a_run_is_the_network_itself(engine: Engine, network: SCMRL) -> None:
    inputs = clips(3)
    output = engine.run(inputs, STEPS, explain=("attention",))
    with torch.no_grad():
        repeated = {name: x.repeat(STEPS, 1, 1, 1, 1) for name, x in inputs.items()}
        expected = network(repeated, attention=True)
    torch.testing.assert_close(output.logits, expected.logits, rtol=1e-5, atol=1e-5)
    assert output.residuals["audio"].shape == (STEPS, 3, 32)
    assert output.residuals["audio"].any()
    assert output.attention is not None
    assert expected.attention is not None
    for name, maps in expected.attention.items():
        torch.testing.assert_close(output.attention[name].spatial, maps.spatial)
        torch.testing.assert_close(output.attention[name].temporal, maps.temporal)
    assert output.token_logits.keys() == inputs.keys()
    for name, logits in expected.token_logits.items():
        torch.testing.assert_close(output.token_logits[name], logits)


def test_maps_come_only_where_they_are_asked_for(engine: Engine) -> None:
    assert engine.run(clips(1), STEPS).attention is None


def test_steps_default_to_the_longest_stream(engine: Engine) -> None:
    inputs = clips(2) | {"visual": clips(2, steps=3)["visual"]}
    assert engine.run(inputs).residuals["audio"].shape[0] == 3
    assert torch.equal(engine.run(inputs).logits, engine.run(inputs, 3).logits)


def test_steps_are_any_number(engine: Engine) -> None:
    answers = [engine.run(clips(1), steps).logits for steps in (1, 2, 5, MAX_STEPS)]
    assert all(x.isfinite().all() for x in answers)
    assert not torch.equal(answers[0], answers[1])


@pytest.mark.parametrize("batch", [2, 3, 8, 17])
def test_a_sample_has_the_same_output_in_any_batch(engine: Engine, batch: int) -> None:
    inputs = clips(batch, steps=STEPS, seed=batch)
    together = engine.run(inputs, STEPS).logits.softmax(1)
    for index in range(batch):
        single = engine.run(alone(inputs, index), STEPS).logits.softmax(1)
        assert (together[index] - single[0]).abs().max() <= 1e-5


def test_concurrent_runs_give_the_outputs_of_single_runs(engine: Engine) -> None:
    inputs = clips(24, seed=5)
    expected = [engine.run(alone(inputs, i), STEPS).logits for i in range(24)]

    def run(index: int) -> Output:
        return engine.run(alone(inputs, index % 24), STEPS)

    with ThreadPoolExecutor(8) as pool:
        outputs = list(pool.map(run, range(96)))
    assert all(torch.equal(o.logits, expected[i % 24]) for i, o in enumerate(outputs))


def test_a_stream_may_be_missing(engine: Engine) -> None:
    output = engine.run({"audio": clips(2)["audio"]}, STEPS)
    assert set(output.stream_logits) == {"audio"}
    assert output.residuals == {}


def test_runs_compute_no_gradients_and_change_no_statistics(network: SCMRL) -> None:
    engine = Engine(network.train(), "cpu")
    before = {name: x.clone() for name, x in network.state_dict().items()}
    assert not engine.run(clips(2), STEPS).logits.requires_grad
    after = network.state_dict()
    assert all(torch.equal(x, after[name]) for name, x in before.items())


def test_warm_up_runs_every_batch_size(network: SCMRL) -> None:
    engine = Engine(network, "cpu")
    shapes = []
    hook = network.patch["visual"].register_forward_hook(
        lambda _, inputs, output: shapes.append(tuple(output.shape[:2]))
    )
    engine.warm_up(STEPS, (1, 2, 4))
    hook.remove()
    assert shapes == [(STEPS, 1), (STEPS, 2), (STEPS, 4)]


@pytest.mark.parametrize(
    ("change", "steps", "message"),
    [
        ({"touch": torch.zeros(1, 2, 1, 32, 48)}, STEPS, "touch: no such stream"),
        ({"audio": torch.zeros(1, 2, 1, 32, 32)}, STEPS, r"audio: shape .* H, W = \(1, 32, 48\)"),
        ({"audio": torch.zeros(2, 1, 32, 48)}, STEPS, "audio: "),
        ({"audio": torch.zeros(2, 2, 1, 32, 48)}, STEPS, "audio: 2 time steps; expected 1 or 4"),
        ({"visual": torch.zeros(1, 3, 3, 32, 48)}, STEPS, "3 samples, but another stream has 2"),
        ({}, 0, "steps 0: can be 1 to 64"),
        ({}, MAX_STEPS + 1, "steps 65: can be 1 to 64"),
    ],
)
def test_inputs_that_do_not_fit_the_network_are_refused(
    engine: Engine, change: dict[str, Tensor], steps: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        engine.run(clips(2) | change, steps)


def test_nothing_to_run_and_unknown_explanations_are_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="no inputs"):
        engine.run({}, STEPS)
    with pytest.raises(ValueError, match="colour"):
        engine.run(clips(1), STEPS, explain=("colour",))


def test_a_fast_path_is_used_where_its_kernels_cannot_be_cached(
    network: SCMRL, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """numba has compiled a kernel when it fails to cache it: the next call uses it."""
    compiled = 0

    def compute(inputs: Mapping[str, Tensor], steps: int, attention: bool) -> Output:
        nonlocal compiled
        compiled += 1
        if compiled <= 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return engine._paths.plain(inputs, steps, attention)

    engine = Engine(network, "cpu")
    monkeypatch.setattr(engine._paths, "_build", lambda path, steps: compute)
    assert engine.fuse()
    assert engine.path == "fused"
    assert caplog.text.count("cannot be cached (NUMBA_CACHE_DIR)") == 3
    compiled = -1000
    assert not engine.fuse(), "where every write fails"


@pytest.mark.parametrize(("wrong", "is_used"), [(3, True), (5, False)])
def test_a_path_may_differ_in_a_minority_of_samples(
    network: SCMRL,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    wrong: int,
    is_used: bool,
) -> None:
    """Other rounding moves spikes at their threshold, here in some of the eight compared ones."""
    compared = 0

    def compute(inputs: Mapping[str, Tensor], steps: int, attention: bool) -> Output:
        nonlocal compared
        output = engine._paths.plain(inputs, steps, attention)
        logits = output.logits.clone()
        for sample in logits:
            sample[0] += 0.01 * (compared < wrong)
            compared += 1
        return replace(output, logits=logits)

    engine = Engine(network, "cpu")
    monkeypatch.setattr(engine._paths, "_build", lambda path, steps: compute)
    assert engine.fuse() == is_used
    assert compared == 8
    assert ("in the median sample" in caplog.text) != is_used


def test_only_float32_paths_must_give_the_plain_outputs(
    network: SCMRL, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flipped(inputs: Mapping[str, Tensor], steps: int, attention: bool) -> Output:
        output = engine._paths.plain(inputs, steps, attention)
        return replace(output, logits=output.logits.flip(1))

    engine = Engine(network, "cpu")
    monkeypatch.setattr(engine._paths, "_build", lambda path, steps: flipped)
    for path in ("fused-int8", "fused-half-graphs"):
        assert engine.use_fastest([path]), path
    for path in ("fused", "fused-graphs", "graphs"):
        assert not engine.use_fastest([path]), path


@pytest.mark.parametrize(
    ("device", "precision", "having"),
    [("cpu", "float16", "CUDA devices"), ("cuda", "int8", "CPUs")],
)
def test_a_precision_that_the_device_does_not_have_is_not_used(
    device: str,
    precision: Precision,
    having: str,
    network: SCMRL,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = Engine(network, "cpu")
    monkeypatch.setattr(engine, "_device", torch.device(device))
    assert not engine.fuse(precision)
    assert f"{precision} is not used on {device}: only {having} have it" in caplog.text
    assert engine.path == "plain"
    assert precision not in engine.reduced_precisions


@pytest.mark.parametrize("folder", sorted((ROOT / "weights").iterdir()), ids=lambda x: x.name)
def test_shipped_checkpoints_are_fused(folder: Path) -> None:
    network, _ = checkpoint.load(folder)
    engine = Engine(network, "cpu")
    assert engine.fuse()
    assert engine.path == "fused"


def test_it_uses_its_own_number_of_threads_in_any_thread(network: SCMRL) -> None:
    """In a service it is made, run and renewed by new threads, for which torch has its default."""
    before, counts = torch.get_num_threads(), []
    hook = network.register_forward_hook(lambda *_: counts.append(torch.get_num_threads()))
    try:
        torch.set_num_threads(1)
        engine = Engine(network, "cpu", threads=2)
        engine.run(clips(1), STEPS)
        with ThreadPoolExecutor(1) as other:
            other.submit(engine.run, clips(1), STEPS).result()
            assert other.submit(torch.get_num_threads).result() == 1, "and are the engine's alone"
        assert counts == [2, 2]
        assert torch.get_num_threads() == 1
        assert engine.fuse()
        renewed = engine.renew()
        assert isinstance(renewed._compute, CPUNetwork)
        assert renewed._compute._threads == 2
    finally:
        hook.remove()
        torch.set_num_threads(before)


def test_the_fastest_path_with_the_plain_outputs_is_used(
    network: SCMRL, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a GPU, where a path may be wrong, lack its compiler, or be slower than another.

    Only the paths advance the clock: the machine's load has no influence.
    """
    engine = Engine(network, "cpu")
    now = 0.0

    def make_forward(path: str, steps: int) -> Forward:
        def compute(inputs: Mapping[str, Tensor], steps: int, attention: bool) -> Output:
            nonlocal now
            now += 0.05 if path == "graphs" else 0.01
            output = engine._paths.plain(inputs, steps, attention)
            if path == "wrong":
                return replace(output, logits=output.logits.flip(1))
            return output

        if path == "without a compiler":
            raise RuntimeError("Failed to find C compiler.")
        return compute

    monkeypatch.setattr(engine._paths, "_build", make_forward)
    monkeypatch.setattr("model.engine.paths.time", SimpleNamespace(perf_counter=lambda: now))
    assert engine.use_fastest(["wrong", "graphs", "fused-graphs", "without a compiler"])  # type: ignore[list-item]
    assert engine.path == "fused-graphs"
    assert "path wrong is not used: its probabilities differ" in caplog.text
    assert "path without a compiler is not used: preparing it failed" in caplog.text
    assert not engine.use_fastest(["wrong"])  # type: ignore[list-item]
    assert engine.path == "fused-graphs", "the path in use stays"


@given(batch=st.integers(1, 5), first=st.integers(0, 4), attention=st.booleans())
@settings(max_examples=10)
def test_an_output_is_the_same_flat_and_back(batch: int, first: int, attention: bool) -> None:
    network = lively(CONFIG)
    held_frames = {name: x.expand(2, *x.shape[1:]) for name, x in clips(batch).items()}
    with torch.inference_mode():
        output = network(held_frames, attention=attention)
    other = network(held_frames, attention=attention)  # of the same shapes
    copy = unflatten(flatten(output), other)
    assert torch.equal(flatten(copy), flatten(output))
    assert torch.equal(copy.logits, output.logits)
    assert (copy.attention is not None) == attention
    count = min(batch, first + 1)
    part = slice_samples(copy, batch - count, count)
    for name, rate in output.firing_rates.items():
        assert torch.equal(part.firing_rates[name], rate[batch - count :])
    for name, residual in output.residuals.items():
        assert torch.equal(part.residuals[name], residual[:, batch - count :])
    assert bool(output.token_logits) == attention
    for name, logits in output.token_logits.items():
        assert torch.equal(part.token_logits[name], logits[batch - count :])


def test_a_device_that_is_not_there_is_refused(network: SCMRL) -> None:
    if torch.cuda.is_available():
        pytest.skip("CUDA is there")
    assert Engine(network).device.type == "cpu"
    with pytest.raises(RuntimeError, match="no CUDA"):
        Engine(network, "cuda")


@pytest.mark.cuda
def test_cuda_gives_the_outputs_of_the_cpu(engine: Engine) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    fast = Engine(lively(CONFIG), "cuda")
    expected = engine.run(clips(4), STEPS).logits.softmax(1)
    assert (fast.run(clips(4), STEPS).logits.softmax(1) - expected).abs().max() <= 1e-4


def short_of_memory(network: SCMRL, most: int, max_batch: int = 1000) -> tuple[Engine, list[int]]:
    """An engine whose device has memory for `most` samples at once, and the batches it tried."""
    engine = Engine(network, "cpu", max_batch=max_batch)
    compute, tried = engine._compute, []

    def limited(inputs: Mapping[str, Tensor], steps: int, attention: bool) -> Output:
        tried.append(inputs["audio"].shape[1])
        if tried[-1] > most:
            raise torch.OutOfMemoryError
        return compute(inputs, steps, attention)

    engine._compute = limited
    return engine, tried


def test_out_of_memory_leads_to_smaller_batches_from_then_on(
    network: SCMRL, caplog: pytest.LogCaptureFixture
) -> None:
    expected = Engine(network, "cpu").run(clips(7), STEPS, explain=("attention",))
    engine, tried = short_of_memory(network, most=2)
    output = engine.run(clips(7), STEPS, explain=("attention",))
    assert tried == [7, 3, 1, *[1] * 6]
    torch.testing.assert_close(output.logits, expected.logits, rtol=1e-5, atol=1e-5)
    for name, residual in expected.residuals.items():
        assert output.residuals[name].shape == residual.shape
    assert output.attention is not None
    assert expected.attention is not None
    for name, maps in expected.attention.items():
        torch.testing.assert_close(output.attention[name].spatial, maps.spatial)
        torch.testing.assert_close(output.attention[name].temporal, maps.temporal)
    assert "out of memory" in caplog.text
    tried.clear()
    engine.run(clips(2), STEPS)
    assert tried == [1, 1], "it does not try again at once what failed before"


def test_larger_batches_are_tried_again_after_many_runs(
    network: SCMRL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.engine.engine._RUNS_BEFORE_GROWTH", 3)
    engine, tried = short_of_memory(network, most=2)
    for _ in range(4):
        engine.run(clips(4), STEPS)
    assert tried == [4, 2, 2, 2, 2, 4, 2, 2, 2, 2]
    assert engine.out_of_memory_count == 2


def test_batches_grow_to_the_engines_maximum_only(
    network: SCMRL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.engine.engine._RUNS_BEFORE_GROWTH", 1)
    engine, tried = short_of_memory(network, most=3, max_batch=3)
    for _ in range(3):
        engine.run(clips(7), STEPS)
    assert tried == [3, 3, 1, 3, 3, 1, 3, 3, 1]


def test_a_batch_above_the_engines_is_run_in_parts(network: SCMRL) -> None:
    expected = Engine(network, "cpu").run(clips(7), STEPS).logits
    engine = Engine(network, "cpu", max_batch=3)
    for runs in (engine, engine.renew()):
        counts: list[int] = []
        hook = runs._network.patch["visual"].register_forward_hook(
            lambda _, inputs, output, counts=counts: counts.append(output.shape[1])
        )
        torch.testing.assert_close(runs.run(clips(7), STEPS).logits, expected)
        hook.remove()
        assert counts == [3, 3, 1]
        assert runs.max_batch == 3


def test_a_larger_maximum_is_used_unless_memory_limits_batches(
    network: SCMRL, caplog: pytest.LogCaptureFixture
) -> None:
    engine, tried = short_of_memory(network, most=4, max_batch=2)
    engine.run(clips(4), STEPS)
    engine.set_max_batch(4)
    engine.run(clips(4), STEPS)
    assert tried == [2, 2, 4]
    engine.set_max_batch(8)
    engine.run(clips(8), STEPS)
    engine.set_max_batch(16)
    engine.run(clips(8), STEPS)
    assert tried[3:] == [8, 4, 4, 4, 4]
    engine.set_max_batch(1)
    engine.run(clips(2), STEPS)
    assert tried[-2:] == [1, 1]


def test_batches_are_timed_up_to_the_largest_that_fits(
    network: SCMRL, caplog: pytest.LogCaptureFixture
) -> None:
    engine, tried = short_of_memory(network, most=2, max_batch=1)
    times = engine.batch_times(1, [4, 1, 2, 8], 60.0)
    assert list(times) == [1, 2]
    assert all(0 < seconds < 60 for seconds in times.values())
    assert set(tried) == {1, 2, 4}
    assert list(engine.batch_times(1, [1, 2], 0.0)) == [1], "it takes too long"
    assert engine.max_batch == 1
    assert engine.out_of_memory_count == 0, "no request was run in smaller batches"


def test_a_path_that_cannot_be_made_anew_with_other_tiles_stays(
    network: SCMRL, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(network, "cpu")
    prepared = engine._paths.prepare(["fused", "fused-int8"], STEPS)
    monkeypatch.setattr(engine._paths, "prepare", lambda *_: prepared)
    monkeypatch.setattr(engine._paths, "tune", lambda _: True)
    assert engine.fuse(steps=STEPS)
    assert engine.tune(1.0)
    path, compute = engine.path, engine._compute
    assert path in prepared
    del prepared[path]
    assert prepared, "another path can be used"
    assert not engine.tune(1.0)
    assert (engine.path, engine._compute) == (path, compute)


def test_nothing_is_tuned_on_a_cpu(engine: Engine) -> None:
    path = engine.path
    assert not engine.tune(60.0)
    assert engine.path == path


def test_too_little_memory_for_the_weights_raises(
    network: SCMRL, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(device: torch.device) -> SCMRL:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(network, "to", fail)
    with pytest.raises(MemoryError, match="cpu lacks memory for the network's weights"):
        Engine(network, "cpu")


def test_too_little_memory_for_one_sample_raises(network: SCMRL) -> None:
    engine, _ = short_of_memory(network, most=0)
    with pytest.raises(MemoryError, match="one sample"):
        engine.run(clips(3), STEPS)


def test_too_little_memory_to_count_operations_raises_as_for_a_run(network: SCMRL) -> None:
    """They are counted on the plain path, which needs more memory than a fused one."""

    def fail(module: torch.nn.Module, inputs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    engine = Engine(network, "cpu")
    assert engine.fuse()
    hook = network.register_forward_pre_hook(fail)
    try:
        engine.run(clips(2), STEPS)
        with pytest.raises(MemoryError, match="one sample"):
            engine.run(clips(2), STEPS, explain=("operations",))
    finally:
        hook.remove()
    assert engine.out_of_memory_count == 1


@pytest.mark.cuda
@pytest.mark.parametrize("path", ["fused-graphs", "graphs"])
@pytest.mark.parametrize("steps", [1, 4])
def test_graphs_give_the_plain_outputs_at_any_batch_size(steps: int, path: EnginePath) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    plain, graphs = Engine(lively(CONFIG), "cuda"), Engine(lively(CONFIG), "cuda")
    assert graphs.use_fastest([path], steps)
    assert graphs.path == path
    inputs = clips(70)
    expected = plain.run(inputs, steps, explain=("attention",))
    for count in (1, 3, 8, 70):
        some = {name: x[:, :count] for name, x in inputs.items()}
        for explain in ((), ("attention",)):
            output = graphs.run(some, steps, explain=explain)
            difference = output.logits.softmax(1) - expected.logits[:count].softmax(1)
            assert difference.abs().max() <= 1e-5
    repeated = {name: x.expand(steps, *x.shape[1:]).contiguous() for name, x in inputs.items()}
    again = graphs.run(repeated, steps)
    assert (again.logits.softmax(1) - expected.logits.softmax(1)).abs().max() <= 1e-5
    only = {"audio": inputs["audio"][:, :2]}
    assert graphs.run(only, steps).logits.shape == (2, 10)


@pytest.mark.cuda
def test_tiles_are_measured_and_the_path_with_them_gives_the_plain_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    plain, tuned = Engine(lively(CONFIG), "cuda"), Engine(lively(CONFIG), "cuda")
    assert tuned.use_fastest(["fused-graphs"], STEPS)
    tuned.tune(8.0)
    assert tuned.path == "fused-graphs"
    assert tuned.tiles is not None
    assert tuned.tiles.measured
    assert len(list(tmp_path.glob("scmrl-tiles-*.json"))) == 1
    inputs = clips(40)
    for count in (1, 5, 40):
        some = {name: x[:, :count] for name, x in inputs.items()}
        expected, output = plain.run(some, STEPS), tuned.run(some, STEPS)
        differences = (expected.logits.softmax(1) - output.logits.softmax(1)).abs().amax(1)
        assert differences.median() <= 1e-4, "a spike may move in a sample now and then"
    times = tuned.batch_times(STEPS, [1, 8, 64], 10.0)
    assert list(times) == [1, 8, 64]


@pytest.mark.cuda
def test_half_precision_moves_few_spikes_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    plain, half = Engine(lively(CONFIG), "cuda"), Engine(lively(CONFIG), "cuda")
    assert half.fuse("float16", STEPS)
    assert half.path == "fused-half-graphs"
    inputs = clips(8)
    expected, output = plain.run(inputs, STEPS), half.run(inputs, STEPS)
    for name, rate in expected.firing_rates.items():
        torch.testing.assert_close(output.firing_rates[name], rate, rtol=0.05, atol=0.01)
    assert half.fuse()
    assert half.path in ("fused-graphs", "graphs")


@pytest.mark.cuda
def test_a_device_that_is_short_of_memory_answers_in_smaller_batches() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    engine = Engine(lively(CONFIG), "cuda")
    inputs = clips(1024)  # the largest layer takes 120 MiB of them
    expected = torch.cat([engine.run(part, STEPS).logits for part in in_parts(inputs, 32)])
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**26) / total)
    try:
        output = engine.run(inputs, STEPS)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert engine.out_of_memory_count > 0
    assert (output.logits.softmax(1) - expected.softmax(1)).abs().max() <= 1e-5


def in_parts(inputs: dict[str, Tensor], size: int) -> list[dict[str, Tensor]]:
    batch = next(iter(inputs.values())).shape[1]
    return [
        {name: x[:, first : first + size] for name, x in inputs.items()}
        for first in range(0, batch, size)
    ]
