"""The tasks of `scmrl train`. To add one, write a folder like `avdigits` and add a row here.

The folder's task.py implements `Task` (model/training/task.py); `Task.load` returns an
implementation of `Data`, with its `Examples`. Modules beside task.py are the task's own: in
`avdigits` folder.py reads and checks the data, dataset.py draws the examples and clips.py encodes
the clips of an evaluation. `paper` holds the tasks of the paper, which share most modules.
"""

from __future__ import annotations

from model.training.avdigits.task import AVDigits
from model.training.avdigits_tactile.task import AVDigitsTactile
from model.training.drones.task import Drones
from model.training.folder.task import FolderTask
from model.training.handsigns.task import HandSigns
from model.training.ndigits_events.task import NDigitsEvents
from model.training.paper.crema_d import CremaD
from model.training.paper.mnistdvs_ntidigits import MNISTDVSNTIDigits
from model.training.paper.urbansound8k_av import UrbanSound8KAV
from model.training.task import Task

TASKS: dict[str, type[Task]] = {
    "avdigits": AVDigits,
    "avdigits-tactile": AVDigitsTactile,
    "crema-d": CremaD,
    "drones": Drones,
    "folder": FolderTask,
    "handsigns": HandSigns,
    "mnistdvs-ntidigits": MNISTDVSNTIDigits,
    "ndigits-events": NDigitsEvents,
    "urbansound8k-av": UrbanSound8KAV,
}
