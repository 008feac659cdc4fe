"""Read files of torch.save, zip and legacy, without running anything in them.

Tensors are read when they are asked for: the state of an optimizer, which is larger than the
weights, never is.
"""

from __future__ import annotations

import io
import operator
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor

from model.checkpoint.card import CheckpointError
from model.checkpoint.pickle_data import MAX_PICKLE_BYTES, Constructor, PickleError, read_pickle
from model.regular_file import open_regular

#: Largest file that is read, in bytes: weights of up to 300 MB, an optimizer of twice their size.
MAX_FILE_BYTES = 4 << 30
#: First value of a legacy file, and its version.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_MAX_DIMENSIONS = 16
#: Exceptions of zipfile for archives that are damaged, encrypted or of other versions.
_DAMAGED = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
    struct.error,
)
_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class Storage:
    """The memory of one or more tensors: `count` values of `dtype`, in the file under `key`."""

    key: str
    dtype: torch.dtype
    count: int

    @property
    def bytes(self) -> int:
        return self.count * self.dtype.itemsize


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that was not read yet: its place in a storage, in values."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of values."""
        return reduce(operator.mul, self.shape, 1)


class _Container(Protocol):
    """The positions of the storages in an open file."""

    content: Any

    def read(self, storage: Storage) -> bytearray: ...


class TorchFile:
    """An open file of torch.save. `content`: its value, with `StoredTensor` for tensors."""

    def __init__(self, container: _Container) -> None:
        self.content = container.content
        self._container = container
        self._storages: dict[Storage, Tensor] = {}

    def tensor(self, stored: StoredTensor) -> Tensor:
        """Return a tensor, in memory that those of the same storage share. Raises PickleError."""
        storage = stored.storage
        if stored.count:
            steps = zip(stored.shape, stored.strides, strict=True)
            last = stored.offset + sum((size - 1) * stride for size, stride in steps)
            if last >= storage.count or stored.count > storage.count:
                raise PickleError(f"has a tensor {list(stored.shape)} that is not in its storage")
        if storage not in self._storages:
            data = self._container.read(storage)
            empty = torch.empty(0, dtype=storage.dtype)
            self._storages[storage] = torch.frombuffer(data, dtype=storage.dtype) if data else empty
        return self._storages[storage].as_strided(stored.shape, stored.strides, stored.offset)


@contextmanager
def open_torch_file(path: Path) -> Iterator[TorchFile]:
    """Open a file of torch.save. Raises CheckpointError, also for what its reading raises."""
    try:
        with open_regular(path, MAX_FILE_BYTES) as stream:
            is_zip = zipfile.is_zipfile(stream)
            stream.seek(0)
            yield TorchFile(_Zip(stream) if is_zip else _Legacy(stream))
    except CheckpointError:
        raise
    except OSError as exc:
        raise CheckpointError(path, "", exc.strerror or str(exc)) from exc
    except PickleError as exc:
        raise CheckpointError(path, "", str(exc)) from exc
    except _DAMAGED as exc:
        raise CheckpointError(path, "", f"is damaged ({exc or type(exc).__name__})") from exc


class _Zip:
    """The format since torch 1.6: an archive of data.pkl and a file for each storage."""

    def __init__(self, stream: BinaryIO) -> None:
        size = stream.seek(0, io.SEEK_END)
        self._archive = zipfile.ZipFile(stream)
        members = self._archive.infolist()
        if sum(member.file_size for member in members) > size:
            raise PickleError("is damaged: its parts are larger than the file")
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise PickleError("is compressed, which torch.save never does")
        names = [member.filename for member in members if member.filename.endswith("/data.pkl")]
        if len(names) != 1:
            raise PickleError("is a zip file, but not one of torch.save: it has no data.pkl")
        self._root = names[0].removesuffix("data.pkl")
        order = f"{self._root}byteorder"
        if order in self._archive.namelist() and self._archive.read(order) != b"little":
            raise PickleError("has values in big-endian order, which are not read")
        if self._archive.getinfo(names[0]).file_size > MAX_PICKLE_BYTES:
            raise PickleError(f"has a data.pkl of more than {MAX_PICKLE_BYTES} bytes")
        self.content = _read(io.BytesIO(self._archive.read(names[0])))

    def read(self, storage: Storage) -> bytearray:
        name = f"{self._root}data/{storage.key}"
        try:
            member = self._archive.getinfo(name)
        except KeyError:
            raise PickleError(f"is damaged: {name} is missing") from None
        if member.file_size != storage.bytes:
            raise PickleError(f"is damaged: {name} does not have {storage.bytes} bytes")
        return bytearray(self._archive.read(member))


class _Legacy:
    """The format before: five pickles, then the storages, each after the number of its values."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        head = io.BytesIO(stream.read(MAX_PICKLE_BYTES))
        storages: dict[str, Storage] = {}
        try:
            magic, protocol = _read(head), _read(head)
        except PickleError:
            magic = protocol = None
        if (magic, protocol) != (_MAGIC, _PROTOCOL):
            raise PickleError("is damaged, or not a file of torch.save")
        system = _read(head)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise PickleError("has values in big-endian order, which are not read")
        self.content = _read(head, storages)
        self._positions: dict[str, int] = {}
        self._locate_storages(_read(head), head.tell(), storages)

    def _locate_storages(self, keys: Any, position: int, storages: dict[str, Storage]) -> None:
        """Note where each storage begins."""
        size = self._stream.seek(0, io.SEEK_END)
        for key in keys if isinstance(keys, list) else ():
            storage = storages.get(key) if isinstance(key, str) else None
            if storage is None:
                raise PickleError("is damaged: it has a storage of no tensor")
            self._stream.seek(position)
            if self._stream.read(8) != struct.pack("<q", storage.count):
                raise PickleError(f"is damaged: storage {key} does not have {storage.count} values")
            self._positions[key] = position + 8
            position += 8 + storage.bytes
        if position > size or storages.keys() != self._positions.keys():
            raise PickleError("is damaged: it ends before its last storage")

    def read(self, storage: Storage) -> bytearray:
        self._stream.seek(self._positions[storage.key])
        return bytearray(self._stream.read(storage.bytes))


def _read(stream: io.BytesIO, storages: dict[str, Storage] | None = None) -> Any:
    """Return the value of a pickle, and collect its storages by key. Raises PickleError."""
    storages = {} if storages is None else storages
    return read_pickle(stream, _CONSTRUCTORS, partial(_storage, storages))


def _storage(storages: dict[str, Storage], persistent_id: Any) -> Storage:
    match persistent_id:
        case ("storage", Constructor(name), str(key), str(), int(count)) if count >= 0:
            pass
        case ("storage", Constructor(name), str(key), str(), int(count), None) if count >= 0:
            pass
        case _:
            raise PickleError("is damaged, or has a storage of a kind that is not read")
    dtype = _DTYPES.get(name.removeprefix("torch "))
    if dtype is None or count > MAX_FILE_BYTES:
        raise PickleError(f"is damaged: a storage is of {name!r}, with {count} values")
    storage = storages.setdefault(key, Storage(key, dtype, count))
    if (storage.dtype, storage.count) != (dtype, count):
        raise PickleError(f"is damaged: storage {key} is described twice")
    return storage


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> StoredTensor:
    """`torch._utils._rebuild_tensor_v2`; what follows is of gradients and hooks."""
    numbers = [offset, *shape, *strides]
    fits = isinstance(storage, Storage) and len(shape) == len(strides) <= _MAX_DIMENSIONS
    if not fits or any(type(number) is not int or number < 0 for number in numbers):
        raise PickleError("is damaged: it has a tensor of no shape")
    return StoredTensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(tensor: Any, *_: Any) -> StoredTensor:
    if not isinstance(tensor, StoredTensor):
        raise PickleError("is damaged: a parameter is not a tensor")
    return tensor


def _ordered_dict(items: Any = ()) -> dict[Any, Any]:
    if items:
        raise PickleError("is damaged, or has an OrderedDict of a kind that is not read")
    return {}


def _device(*arguments: Any) -> str:
    return ":".join(map(str, arguments))


def _never(*_: Any) -> Any:
    raise PickleError("is damaged: it calls a type")


#: Callables and classes that the pickles of checkpoints refer to.
_CONSTRUCTORS: dict[str, Any] = {
    "argparse Namespace": _never,
    "collections OrderedDict": _ordered_dict,
    "torch device": _device,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
    **{f"torch {name}": _never for name in _DTYPES},
}
