"""Arrays in memory that an HTTP worker shares with the engine process.

A worker receives the arrays of a decoded clip into blocks; the engine process maps the same memory
and runs the network on it, so no array is copied from process to process. A block is a memory file
without a name: its descriptor goes once through a socket, and both sides keep the mapping alone.
In the same way the process that has the queues shares batches and results with a device's process
(`service.device_link`).
"""

from __future__ import annotations

import ctypes
import logging
import math
import mmap
import os
import socket
import struct
import threading
import weakref
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.arrays import Float32Array

log = logging.getLogger("scmrl.workers")

#: Smallest block in bytes; larger ones double.
_SMALLEST = 64 * 1024
#: Bytes of free blocks that a worker keeps.
_MAX_FREE = 64 * 1024 * 1024
#: Longest wait to receive a block that has been sent, in seconds.
_RECEIVE_S = 2.0
#: Number and size of a block, beside its descriptor.
_HEAD = struct.Struct("!QQ")

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
)  # fmt: skip
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
#: What mmap returns where it fails.
_FAILED = ctypes.c_void_p(-1).value


@dataclass(frozen=True)
class Reference:
    """Where an array of float32 is: a block's number, and the array's shape, from its start on."""

    block: int
    shape: tuple[int, ...]


class BlockPool:
    """The blocks of a worker. A block is used again when the last array in it has been dropped.

    Thread-safe. `sock`: where the engine process receives the descriptors.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._numbers = count(1)
        self._by_address: dict[int, int] = {}
        # A finalizer may run at any point of any thread: deques need no lock.
        self._free: defaultdict[int, deque[tuple[int, memoryview]]] = defaultdict(deque)
        self._sending = threading.Lock()
        #: Numbers of blocks that the engine process may drop.
        self.dropped: deque[int] = deque()

    def allocate(self, shape: Sequence[int], dtype: str = "float32") -> NDArray[Any]:
        """Return an uninitialized array in a block. Raises MemoryError."""
        needed = math.prod(shape) * np.dtype(dtype).itemsize
        size = _SMALLEST
        while size < needed:
            size *= 2
        try:
            number, memory = self._free[size].pop()
        except IndexError:
            number, memory = self._make(size)
        whole = np.frombuffer(memory, np.uint8)
        self._by_address[whole.ctypes.data] = number
        # Views of it refer to this very array as the owner of their memory.
        weakref.finalize(whole, self._give_back, size, number, memory, whole.ctypes.data)
        return whole[:needed].view(dtype).reshape(shape)

    def refer(self, values: Float32Array) -> tuple[Reference, Float32Array]:
        """Return where an array of float32 is, and the array, copied into a block unless it is at
        the start of one. The block is kept while the returned array is. Raises MemoryError."""
        number = self._by_address.get(values.ctypes.data)
        if number is None or not values.flags.c_contiguous:
            copy = self.allocate(values.shape)
            copy[...] = values
            values, number = copy, self._by_address[copy.ctypes.data]
        return Reference(number, values.shape), values

    def _make(self, size: int) -> tuple[int, memoryview]:
        """Make a block, and send it. Raises MemoryError, ConnectionError."""
        number = next(self._numbers)
        try:
            fd = os.memfd_create("scmrl-block")
        except OSError as exc:
            raise _no_memory(size, exc) from exc
        try:
            try:
                os.ftruncate(fd, size)
                memory = _map(fd, size)
            except OSError as exc:
                raise _no_memory(size, exc) from exc
            with self._sending:
                socket.send_fds(self._sock, [_HEAD.pack(number, size)], [fd])
        finally:
            os.close(fd)
        return number, memory

    def _give_back(self, size: int, number: int, memory: memoryview, address: int) -> None:
        self._by_address.pop(address, None)
        free = sum(block * len(blocks) for block, blocks in list(self._free.items()))
        if free + size <= _MAX_FREE:
            self._free[size].append((number, memory))
        else:
            self.dropped.append(number)


def _no_memory(size: int, reason: OSError) -> MemoryError:
    """Also where the number of open files or the size of files is limited."""
    return MemoryError(f"no {size} bytes to share with another process: {reason}")


def _map(fd: int, size: int) -> memoryview:
    """Return the first `size` bytes of a memory file, which may be closed then, as a buffer.

    They are unmapped when nothing refers to the buffer, as arrays of its content do. Python's mmap
    would keep a duplicate of the descriptor, and the number of open files is limited. Raises
    OSError.
    """
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    address = _LIBC.mmap(None, size, protection, mmap.MAP_SHARED, fd, 0)
    if address == _FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    memory = (ctypes.c_char * size).from_address(address)
    # At the interpreter's exit a thread may still compute with it: the system unmaps it.
    weakref.finalize(memory, _LIBC.munmap, address, size).atexit = False
    return memoryview(memory).cast("B")


class SharedBlocks:
    """The blocks of one worker, in the engine process; one thread alone uses them."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sock.settimeout(_RECEIVE_S)
        #: By number; None: it came, but could not be mapped.
        self._blocks: dict[int, memoryview | None] = {}

    def array(self, reference: Reference) -> Float32Array:
        """Return the array at a reference, without a copy.

        It may change once the request that sent it has ended. Raises OSError and ValueError where
        the block does not come or is too small, and MemoryError where it could not be mapped.
        """
        while reference.block not in self._blocks:
            self._receive()
        memory = self._blocks[reference.block]
        if memory is None:
            raise MemoryError("a block of another process could not be mapped")
        elements = math.prod(reference.shape)
        return np.frombuffer(memory, np.float32, elements).reshape(reference.shape)

    def drop(self, number: int) -> None:
        """Forget a block; it is unmapped when no array refers to it.

        One that no request has referred to is received first: it would be kept when it comes later.
        Raises OSError where it does not come.
        """
        while number not in self._blocks:
            self._receive()
        del self._blocks[number]

    def close(self) -> None:
        self._blocks.clear()
        self._sock.close()

    def _receive(self) -> None:
        """Receive the next block; its worker sends it before a request that refers to it."""
        head, fds, _, _ = socket.recv_fds(self._sock, _HEAD.size, 1)
        if len(head) < _HEAD.size:
            raise ConnectionError("the worker sent no block")
        number, size = _HEAD.unpack(head)
        self._blocks[number] = None
        for fd in fds:  # none where no more files may be open
            try:
                self._blocks[number] = _map(fd, size)
            except OSError as exc:
                log.error("%d bytes of another process cannot be mapped: %s", size, exc)
            finally:
                os.close(fd)
        if not fds:
            log.error("%d bytes of another process cannot be mapped: too many open files", size)
