"""The options of every command that reads a data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def dataset_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--from`` (as ``data_format``) and ``--images`` to a command."""
    command = click.option(
        "--images",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Folder with the images. Default: the data set's folder is searched.",
    )(command)
    return click.option(
        "--from", "data_format", metavar="FORMAT", help="Format of the data set, such as coco. Default: detected."
    )(command)
