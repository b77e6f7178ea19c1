"""Options of data sets. Imports nothing of the extra ``data``, so that the command line can show them without it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from maskline._options import Checked, Option
from maskline.data.formats import FORMATS
from maskline.errors import ParameterError

#: How to read masks marked as crowds: as ``instances``, one object each, or as ``regions`` of many objects.
Crowd: TypeAlias = Literal["instances", "regions"]

BY_FOLDER, BY_SIMILARITY, BY_KEY = "folder", "similar", "key:"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetOptions(Checked):
    """Where a data set is and how to read it, apart from its path."""

    data_format: Annotated[
        str | None,
        Option("Format of the data set.", flag="--from", metavar="FORMAT", listed=FORMATS.keys, unset="detected"),
    ] = None
    images: Annotated[
        Path | None, Option("Folder with the images.", metavar="DIR", unset="the data set's folder is searched")
    ] = None


def check_group(value: str, name: str) -> str:
    """Return a group of `SplitConfig`. Raises ParameterError with its name."""
    try:
        re.compile(value)
    except re.error as error:
        known = f"{BY_FOLDER}, {BY_SIMILARITY}, {BY_KEY}NAME or a regular expression"
        raise ParameterError(f"{name} is {value!r}: expected {known} ({error})") from None
    return value


@dataclass(frozen=True, slots=True)
class SplitConfig(Checked):
    """How to split.

    Attributes:
        val_percent: rounded half up to a number of images; unless it is 0 or 100, both splits get at least one image.
            With groups, the nearest percentage that the groups allow.
        seed: of the random split, which does not depend on the order of the images.
        stratify: split each class in proportion, the rarest first (Sechidis et al., *On the stratification of
            multi-label data*, 2011).
        group: which images must stay in one split: ``folder``: images of a sub-folder; ``similar``: near-duplicates,
            found as in the check for leaks; ``key:NAME``: images with the same value for a key of the image record;
            otherwise a regular expression searched in the file name: images with the same match of its first group,
            or of the whole expression if it has none.

    Raises:
        ParameterError: a value is out of range, or the group is not a valid regular expression.
    """

    val_percent: Annotated[
        float, Option("Percentage of the images in val.", flag="--val", metavar="PERCENT", least=0, most=100)
    ] = 20
    seed: Annotated[int, Option("Random seed of the split.", least=0)] = 0
    stratify: Annotated[bool, Option("Keep the class proportions in both splits.")] = False
    group: Annotated[
        str | None,
        Option(
            "Keep groups of images together: folder, similar, key:NAME, or a regular expression.",
            metavar="KIND",
            check=check_group,
        ),
    ] = None
