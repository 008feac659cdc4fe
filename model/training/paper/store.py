"""Decoded pairs of a sound and a picture: a file for each, with all that training needs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from model.arrays import Float32Array, UInt8Array
from model.media.types import MediaError
from model.preprocess.specs import SpectrogramSpec
from model.preprocess.spectrogram import prepare_spectrogram
from model.training.folder.cache import decode_missing, write_entry
from model.training.folder.clip_files import ClipFiles
from model.training.folder.findings import Finding, FindingKind
from model.training.folder.inspection import inspect, unreadable

#: Changes where entries of another version cannot be used.
VERSION = 1
#: Both streams of a pair.
STREAMS = frozenset({"audio", "visual"})
#: Faults that the published training accepts: they are reported, and the pair is trained on.
_REMARKS: frozenset[FindingKind] = frozenset({"silent", "one colour", "too short"})
#: Beginning of the text file that stands for a file in a clone without Git LFS.
_LFS = b"version https://git-lfs"
#: Compression of the lossless picture: the fastest.
_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1)


@dataclass(frozen=True)
class Pair:
    """A pair in the cache: its file, and its class."""

    file: Path
    label: int

    def picture(self) -> UInt8Array:
        """Return its middle picture in its own size, uint8 RGB [h, w, 3]."""
        with np.load(self.file) as arrays:
            decoded = cv2.imdecode(arrays["picture"], cv2.IMREAD_COLOR)
        assert decoded is not None
        return np.asarray(decoded[:, :, ::-1], np.uint8)

    def spectrogram(self) -> Float32Array:
        """Return its spectrogram [1, 1, H, W]."""
        with np.load(self.file) as arrays:
            return np.asarray(arrays["spectrogram"], np.float32)


@dataclass(frozen=True)
class PairStore:
    """A cache in `folder`: pictures without loss, spectrograms as `spec` says."""

    folder: Path
    spec: SpectrogramSpec

    def file(self, digest: str) -> Path:
        """Return the file of a pair, by the digest of its content."""
        text = f"{digest} {VERSION} {self.spec.model_dump_json()}"
        return self.folder / f"pair-{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"

    def fill(self, clips: Sequence[tuple[ClipFiles, str]], console: Console) -> list[Finding]:
        """Decode the pairs that have no entry, under a progress bar; each comes with its digest.

        Returns what is wrong with pairs, which have no entry then. Raises DataError where the
        cache cannot be written.
        """
        jobs = [(files, self.file(digest)) for files, digest in clips]
        return decode_missing(self.folder, jobs, self._decode, console)

    def _decode(self, files: ClipFiles, file: Path) -> list[Finding]:
        pointers = [path.name for _, path in files.files if _is_pointer(path)]
        if pointers:
            message = f"{' and '.join(pointers)}: a pointer of Git LFS; fetch it with git lfs pull"
            return [Finding("unreadable", files.name, message)]
        try:
            clip = files.decode(1, STREAMS)
        except (MediaError, OSError) as exc:
            return [unreadable(files, exc)]
        findings = list(inspect(files, clip, STREAMS))
        if all(finding.kind in _REMARKS for finding in findings):
            assert clip.sound is not None
            assert clip.pictures is not None
            picture = np.ascontiguousarray(clip.pictures.frames[0][:, :, ::-1])
            encoded = cv2.imencode(".png", picture, _PNG)[1]
            spectrogram = prepare_spectrogram(clip.sound, self.spec).tensor
            write_entry(file, {"picture": encoded, "spectrogram": spectrogram})
        return findings


def is_remark(finding: Finding) -> bool:
    """Return whether a pair with this finding is trained on nevertheless, as published."""
    return finding.kind in _REMARKS


def _is_pointer(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_LFS)) == _LFS
    except OSError:
        return False
