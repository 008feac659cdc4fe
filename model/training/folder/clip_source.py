"""The source of clips: a folder of classes, or a table."""

from __future__ import annotations

import os
from pathlib import Path

from model.training.folder.listing import Listing, layout, list_folder
from model.training.folder.table import list_table
from model.training.task import DataError


def list_clips(data: Path) -> Listing:
    """List a folder of clips by class, or the clips of a table (a .csv file).

    Raises DataError where there is no such folder or table, or nothing that can be used in it, or
    where its path is not in UTF-8, as the card and split.csv are.
    """
    try:
        str(data.absolute()).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(data).decode(errors="backslashreplace")
        raise DataError(f"{shown}: the path is not in UTF-8; rename the folder") from None
    if data.suffix.lower() == ".csv" and not data.is_dir():
        listing = list_table(data)
    else:
        listing = list_folder(data)
    if not listing.clips and not listing.findings:
        raise DataError(f"{data}: holds no clips; {layout(data)}")
    return listing
