"""Files of torch.save are read as torch reads them, and nothing in them runs or grows."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import tracemalloc
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.checkpoint import CheckpointError
from model.checkpoint.pickle_data import PickleError, read_pickle
from model.checkpoint.torch_file import _CONSTRUCTORS, StoredTensor, open_torch_file

BASE = torch.arange(24, dtype=torch.float32)
TENSORS = {
    "plain": BASE.reshape(4, 6),
    "view": BASE[3:9],
    "turned": BASE.reshape(4, 6).T,
    "scalar": torch.tensor(0.75),
    "empty": torch.zeros(0, 3),
    "half": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "bfloat": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "double": torch.tensor([0.1], dtype=torch.float64),
    "long": torch.tensor([-5, 1 << 40]),
    "bool": torch.tensor([True, False]),
    "parameter": torch.nn.Parameter(torch.ones(2, 2)),
}


def save(file: Path, content: Any, zipped: bool = True) -> Path:
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file


def read(file: Path) -> Any:
    """The content of a file, with its tensors, if it is a dict of them."""
    with open_torch_file(file) as opened:
        if not isinstance(opened.content, dict):
            return opened.content
        return {
            name: opened.tensor(x) if isinstance(x, StoredTensor) else x
            for name, x in opened.content.items()
        }


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_are_those_that_torch_reads(tmp_path: Path, zipped: bool) -> None:
    file = save(tmp_path / "tensors.pth", OrderedDict(TENSORS), zipped)
    actual = read(file)
    expected = torch.load(file, weights_only=True)
    assert actual.keys() == expected.keys() == TENSORS.keys()
    for name, x in expected.items():
        assert actual[name].dtype == x.dtype, name
        assert torch.equal(actual[name], x), name
    assert actual["plain"].data_ptr() == actual["turned"].data_ptr()  # of one storage


@pytest.mark.parametrize("zipped", [True, False])
def test_plain_data_is_read(tmp_path: Path, zipped: bool) -> None:
    content = {
        "args": Namespace(lr=5e-3, betas=(0.9, 0.999), none=None, on=True, text="ä", big=1 << 70),
        "list": [1, -2, 300, 70_000, [], {}, ()],
        "device": torch.device("cuda", 1),
        3: {"nested": {"deeper": (1, 2, 3, 4)}},
    }
    actual = read(save(tmp_path / "data.pth", content, zipped))
    assert actual.pop("device") == "cuda:1"
    assert {**actual, "device": content["device"]} == content


class Calls:
    """Calls a function where it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("hostile", "name"),
    [
        (Calls(os.system, "touch it-ran"), r"posix\.system"),
        (Calls(eval, "1"), r"__builtin__\.eval"),
        (Calls(bytearray, 1 << 40), r"__builtin__\.bytearray"),
        (Calls(getattr, 3, "real"), r"__builtin__\.getattr"),
        (Path, r"pathlib\.Path"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_globals_that_no_checkpoint_needs_are_refused_by_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hostile: Any,
    name: str,
    zipped: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    file = save(tmp_path / "hostile.pth", {"args": hostile}, zipped)
    with pytest.raises(CheckpointError, match=f"asks for {name}, which a checkpoint does not need"):
        read(file)
    assert not (tmp_path / "it-ran").exists()


def opcodes(*parts: bytes) -> io.BytesIO:
    return io.BytesIO(b"\x80\x02" + b"".join(parts) + b".")


_NAMESPACE = b"cargparse\nNamespace\n"
_ORDERED = b"ccollections\nOrderedDict\n"


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (opcodes(b"}(", b")" * 2, b"K\x01u"), "key that is neither text nor a number"),
        (opcodes(b"}", b"\x8a\x0a" + b"\xff" * 9 + b"\x01", b"Ns"), "neither text nor a number"),
        (opcodes(_NAMESPACE, b"K\x01\x85\x81"), "makes an instance of"),
        (opcodes(_ORDERED, b")\x81"), "makes an instance of collections.OrderedDict"),
        (opcodes(_NAMESPACE, b")R"), "calls a type"),
        (opcodes(_NAMESPACE, b"}b"), "sets attributes of something else"),
        (opcodes(_NAMESPACE, b")\x81K\x01b"), "sets attributes of something else"),
        (opcodes(_NAMESPACE, b")\x81}K\x01Nsb"), "names are not text"),
        (opcodes(b"K\x01)R"), "calls something that is not a function"),
        (opcodes(b"K\x01)\x81"), "is damaged"),
        (opcodes(_ORDERED, b"]K\x01a\x85R"), "OrderedDict of a kind"),
        (opcodes(b"\x8c\x02os\x8c\x06system\x93"), "uses SHORT_BINUNICODE"),
        (opcodes(b"(ios\nsystem\n"), "uses INST"),
        (opcodes(b"\x82\x01"), "uses EXT1"),
        (opcodes(b"h\x07"), "is damaged"),
        (opcodes(b"0"), "uses POP"),
        (opcodes(b"a"), "is damaged"),
        (opcodes(b"K\x01u"), "is damaged"),
        (opcodes(b"K\x01(K\x02e"), "expected a list"),
        (opcodes(b"}(K\x02u"), "is damaged"),
        (opcodes(b"K\x01Q"), "persistent"),
        (io.BytesIO(b"\x80\x02N"), "is damaged"),
        (io.BytesIO(b"\x80\x02X\xff\xff\xff\x7fa"), "is damaged"),
    ],
)
def test_pickles_that_hold_more_than_plain_data_are_refused(
    pickled: io.BytesIO, message: str
) -> None:
    def persistent(_: Any) -> Any:
        raise PickleError("has a persistent id")

    with pytest.raises(PickleError, match=message):
        read_pickle(pickled, _CONSTRUCTORS, persistent)


def test_a_large_memo_index_takes_no_memory() -> None:
    pickled = opcodes(b"Nr\xff\xff\xff\xff", b"j\xff\xff\xff\xff")
    tracemalloc.start()
    assert read_pickle(pickled, {}, lambda _: None) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def _rebuilt(storage_count: int, offset: int, shape: tuple[int, ...], strides: Any) -> Any:
    """A file's data.pkl with one tensor of any place in a storage of this many values."""

    class Storage:
        pass

    class Rebuilt:
        def __reduce__(self) -> Any:
            arguments = (Storage(), offset, shape, strides, False, OrderedDict())
            return torch._utils._rebuild_tensor_v2, arguments

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            is_storage = isinstance(value, Storage)
            return (
                ("storage", torch.FloatStorage, "0", "cpu", storage_count) if is_storage else None
            )

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump({"x": Rebuilt()})
    return buffer.getvalue()


def archive(file: Path, parts: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(file, "w", method) as archived:
        for name, data in parts.items():
            archived.writestr(f"archive/{name}", data)
    return file


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ((4, 0, (5,), (1,)), "is not in its storage"),
        ((4, 3, (2,), (1,)), "is not in its storage"),
        ((4, 0, (1 << 30, 1 << 30), (0, 0)), "is not in its storage"),
        ((4, 0, (2, 2), (1,)), "a tensor of no shape"),
        ((4, 0, (-2,), (1,)), "a tensor of no shape"),
        ((4, 0, (2,), (-1,)), "a tensor of no shape"),
        ((4, True, (2,), (1,)), "a tensor of no shape"),
        ((4, 0, (1,) * 17, (1,) * 17), "a tensor of no shape"),
        ((1 << 60, 0, (1,), (1,)), "values"),
        ((5, 0, (1,), (1,)), "does not have 20 bytes"),
    ],
)
def test_tensors_beyond_their_storage_are_refused(tmp_path: Path, place: Any, message: str) -> None:
    data = struct.pack("<4f", 1, 2, 3, 4)
    file = archive(tmp_path / "x.pth", {"data.pkl": _rebuilt(*place), "data/0": data})
    with pytest.raises(CheckpointError, match=message):
        read(file)


def test_the_made_archive_is_read_where_its_tensor_fits(tmp_path: Path) -> None:
    data = struct.pack("<4f", 1, 2, 3, 4)
    parts = {"data.pkl": _rebuilt(4, 1, (3,), (1,)), "data/0": data}
    tensor: Tensor = read(archive(tmp_path / "x.pth", parts))["x"]
    assert tensor.tolist() == [2, 3, 4]
    with pytest.raises(CheckpointError, match="big-endian"):
        read(archive(tmp_path / "x.pth", parts | {"byteorder": b"big"}))
    with pytest.raises(CheckpointError, match="is compressed"):
        read(archive(tmp_path / "x.pth", parts, zipfile.ZIP_DEFLATED))
    del parts["data/0"]
    with pytest.raises(CheckpointError, match="data/0 is missing"):
        read(archive(tmp_path / "x.pth", parts))
    with pytest.raises(CheckpointError, match="not one of torch"):
        read(archive(tmp_path / "x.pth", {"a.txt": b"hello"}))


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    parts = {"data.pkl": _rebuilt(1 << 25, 0, (1,), (1,)), "data/0": bytes(1 << 27)}
    file = archive(tmp_path / "x.pth", parts, zipfile.ZIP_DEFLATED)
    assert file.stat().st_size < 1 << 18
    del parts
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="larger than the file"):
        read(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_an_optimizer_is_not_read(tmp_path: Path) -> None:
    """Its storage is damaged, which the checksum would show."""
    file = save(tmp_path / "x.pth", {"w": torch.ones(3), "optimizer": torch.full((4,), 7.0)})
    data = file.read_bytes()
    assert data.count(struct.pack("<4f", 7, 7, 7, 7)) == 1
    file.write_bytes(data.replace(struct.pack("<f", 7), struct.pack("<f", 8)))
    with open_torch_file(file) as opened:
        assert torch.equal(opened.tensor(opened.content["w"]), torch.ones(3))
    with pytest.raises(CheckpointError, match="Bad CRC"):
        read(file)


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files_are_refused_or_read(tmp_path: Path, zipped: bool) -> None:
    """1,000 files with bytes changed or cut off: a CheckpointError, or its content."""
    file = save(tmp_path / "x.pth", {"a": torch.ones(3, 2), "args": Namespace(a=1)}, zipped)
    whole, generator, refused = file.read_bytes(), random.Random(0), 0
    for _ in range(1000):
        data = bytearray(whole[: generator.choice([len(whole), generator.randrange(len(whole))])])
        for _ in range(generator.randrange(4)):
            if data:
                data[generator.randrange(len(data))] = generator.randrange(256)
        file.write_bytes(data)
        try:
            read(file)
        except CheckpointError:  # and nothing else
            refused += 1
    assert refused > 500
