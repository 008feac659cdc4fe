"""A file that replaces another is whole or not there."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from model.whole_file import replacing


@contextmanager
def full_disk(max_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size: writes fail as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "state"
    file.write_bytes(b"old")
    with full_disk(1000), pytest.raises(OSError, match=str(file)), replacing(file) as stream:
        stream.write(b"x" * 5000)
    with pytest.raises(KeyboardInterrupt), replacing(file):
        raise KeyboardInterrupt
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(OSError, match=r"nowhere/state"), replacing(tmp_path / "nowhere" / "state"):
        pass


def test_writers_at_once_each_write_a_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "state"
    both = threading.Barrier(2)

    def write(letter: bytes) -> None:
        with replacing(file) as stream:
            stream.write(letter)
            stream.flush()
            both.wait(30)
            stream.write(letter * 9)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.read_bytes() in (b"a" * 10, b"b" * 10)
    assert list(tmp_path.iterdir()) == [file]
