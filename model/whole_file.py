"""Write files that are never incomplete."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """Open a new file, which takes the place of `file` when the block ends without an error.

    A kill leaves the old file or the new one; an error leaves the old one and nothing else. Several
    threads and processes may write the same file: the last one wins. Raises OSError, with `file`.
    """
    part = file.with_name(f".{file.name}.{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as stream:
            yield stream
        part.replace(file)
    except OSError as exc:
        if str(exc.filename) not in ("None", str(part)):
            raise  # of another file that the block writes
        raise type(exc)(exc.errno, exc.strerror or str(exc), str(file)) from exc
    finally:
        part.unlink(missing_ok=True)  # not there after the replacement
