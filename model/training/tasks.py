"""The tasks of `scmrl train`. To add one, write a folder like `avdigits` and add a row here."""

from __future__ import annotations

from model.training.avdigits.task import AVDigits
from model.training.folder.task import FolderTask
from model.training.handsigns.task import HandSigns
from model.training.task import Task

TASKS: dict[str, type[Task]] = {"avdigits": AVDigits, "folder": FolderTask, "handsigns": HandSigns}
