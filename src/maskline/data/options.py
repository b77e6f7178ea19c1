"""Options of data sets. Imports nothing of the extra ``data``, so that the command line can show them without it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from maskline._options import Option, check_options
from maskline.data.formats import FORMATS
from maskline.errors import ParameterError

#: What masks marked as crowds are: ``instances``, each an object of its own, or ``regions`` of many objects.
Crowd: TypeAlias = Literal["instances", "regions"]

BY_FOLDER, BY_LOOK, BY_KEY = "folder", "similar", "key:"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetOptions:
    """Where a data set is and how to read it, apart from its path."""

    data_format: Annotated[
        str | None,
        Option("Format of the data set.", flag="--from", metavar="FORMAT", listed=FORMATS.keys, unset="detected"),
    ] = None
    images: Annotated[
        Path | None, Option("Folder with the images.", metavar="DIR", unset="the data set's folder is searched")
    ] = None


@dataclass(frozen=True, slots=True)
class SplitConfig:
    """How to split a data set into train and val.

    Attributes:
        val_percent: rounded half up to whole images, but unless it is 0 or 100 each split gets one image at least. With
            groups it is met as nearly as the groups allow.
        seed: the same images with the same seed are split alike, whatever their order.
        stratify: rarest class first (Sechidis et al., *On the stratification of multi-label data*, 2011).
        group: ``folder``: the images of a sub-folder; ``similar``: near-duplicates, found as the check finds leaks;
            ``key:NAME``: images whose records have the same value under a key; anything else is a regular expression,
            searched in the file name: images with the same match, or the same first group of it, if it has one.

    Raises:
        ParameterError: a value is out of range, or ``group`` is not a regular expression.
    """

    val_percent: Annotated[
        float, Option("Percentage of the images in val.", flag="--val", metavar="PERCENT", least=0, most=100)
    ] = 20
    seed: Annotated[int, Option("Random seed of the split.", least=0)] = 0
    stratify: Annotated[bool, Option("Keep the class proportions in both splits.")] = False
    group: Annotated[
        str | None,
        Option("Keep groups of images together: folder, similar, key:NAME, or a regular expression.", metavar="KIND"),
    ] = None

    def __post_init__(self) -> None:
        check_options(self)
        try:
            re.compile(self.group or "")
        except re.error as error:
            known = f"{BY_FOLDER}, {BY_LOOK}, {BY_KEY}NAME or a regular expression"
            raise ParameterError(f"group is {self.group!r}: expected {known} ({error})") from None
