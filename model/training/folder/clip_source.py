"""The source of clips: a folder of classes, or a table."""

from __future__ import annotations

from pathlib import Path

from model.training.folder.listing import Listing, layout, list_folder
from model.training.folder.table import list_table
from model.training.task import DataError


def list_clips(data: Path) -> Listing:
    """List a folder of clips by class, or the clips of a table (a .csv file).

    Raises DataError where there is no such folder or table, or nothing that can be used in it.
    """
    if data.suffix.lower() == ".csv" and not data.is_dir():
        listing = list_table(data)
    else:
        listing = list_folder(data)
    if not listing.clips and not listing.findings:
        raise DataError(f"{data}: holds no clips; {layout(data)}")
    return listing
