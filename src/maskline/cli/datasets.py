"""Commands on data sets: check, convert, split."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from maskline._wording import counted, shortened
from maskline.cli.dataset_options import dataset_options
from maskline.errors import ParameterError

if TYPE_CHECKING:
    from maskline.data.crowds import Crowd
    from maskline.data.dataset import Dataset
    from maskline.data.faults import Fault

FAULTS_TOLD = 5  # of a kind

_crowd = click.option(
    "--crowd",
    type=click.Choice(["instances", "regions"]),
    help="What iscrowd: 1 means: single objects (as in CVAT's exports of brush and SAM masks), or crowd regions.",
)


@click.command()
@click.argument("folder", metavar="DATA", type=click.Path(path_type=Path))
@dataset_options
@click.option(
    "--output", default="output", show_default=True, type=click.Path(path_type=Path), help="Folder for the report."
)
@click.option(
    "--fix", "target", metavar="NEW", type=click.Path(path_type=Path), help="Write a corrected copy to this new folder."
)
@_crowd
@click.option("--strict", is_flag=True, help="Fail on warnings too.")
def check(
    folder: Path,
    data_format: str | None,
    images: Path | None,
    output: Path,
    target: Path | None,
    crowd: Crowd | None,
    strict: bool,
) -> None:
    """Check every record, image and mask of a data set. The exit code is 1 if there are errors.

    Writes a report (check_dataset/report.html) and a list of all faults (check_dataset/faults.json).
    """
    from maskline.data.fix import fix
    from maskline.paddlex.check_dataset import FOLDER, PASSED, examine

    reading, result = examine(folder, output, data_format, images, crowd=crowd, strict=strict)
    _print_faults(reading.faults)
    _print_notes(reading.notes)
    errors, warnings = len(reading.errors), len(reading.faults) - len(reading.errors)
    counts = "; ".join(f"{split}: {_contents(dataset)}" for split, dataset in reading.splits.items())
    told = f"{counted(errors, 'error')}, {counted(warnings, 'warning')}"
    click.echo(f"{counts}; {told}; report: {output / FOLDER / 'report.html'}")
    if target is not None:
        fixed = fix(reading, target, folder)
        for name, (before, after) in fixed.counts.items():
            nouns = zip(("image", "annotation"), before, after, strict=True)
            kept = ", ".join(f"{new} of {counted(old, noun)}" for noun, old, new in nouns)
            click.echo(f"{target}: {name}: {kept}")
        number = counted(fixed.number("fixed"), "fault")
        left_out, left = fixed.number("left out"), fixed.number("left")
        click.echo(f"{target}: {number} fixed, {left_out} more by leaving out, {left} left; all are in fixes.json")
    if not result["check_pass"]:
        sys.exit(1)
    click.echo(PASSED)


@click.command()
@click.argument("source", metavar="SOURCE", type=click.Path(path_type=Path))
@click.argument("target", metavar="NEW", type=click.Path(path_type=Path))
@click.option("--to", required=True, metavar="FORMAT", help="coco, labelme, yolo, voc or cvat.")
@dataset_options
@click.option("--skip-errors", is_flag=True, help="Skip what can't be read, with a warning.")
@_crowd
def convert(
    source: Path,
    target: Path,
    to: str,
    data_format: str | None,
    images: Path | None,
    skip_errors: bool,
    crowd: Crowd | None,
) -> None:
    """Convert a data set into a new folder: COCO, LabelMe, YOLO-seg, Pascal VOC, CVAT."""
    from maskline.data.convert import convert as convert_dataset

    done = convert_dataset(source, target, to, data_format, images=images, skip_errors=skip_errors, crowd=crowd)
    _print_faults(done.faults)
    _print_notes(done.notes)
    for split, dataset in done.splits.items():
        click.echo(f"{split}: {_size(dataset)}")
    click.echo(f"{target}: from {done.source_format} to {to.lower()}")


@click.command()
@click.argument("folder", metavar="DATA", type=click.Path(path_type=Path))
@dataset_options
@click.option(
    "--val", type=float, default=20, show_default=True, metavar="PERCENT", help="Percentage of images in val."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed of the split.")
@click.option("--stratify", is_flag=True, help="Keep the class proportions in both splits.")
@click.option(
    "--group",
    metavar="KIND",
    help="Keep groups of images together: folder, similar, key:NAME, or a regular expression.",
)
@click.option(
    "--output",
    metavar="NEW",
    type=click.Path(path_type=Path),
    help="Write a new data set here. Default: split in place.",
)
def split(
    folder: Path,
    data_format: str | None,
    images: Path | None,
    val: float,
    seed: int,
    stratify: bool,
    group: str | None,
    output: Path | None,
) -> None:
    """Split a data set into train and val at random.

    By default in place: existing annotation files are kept as .bak.
    """
    from maskline.data.split import SplitConfig, split_in_place, split_into

    how = SplitConfig(val, seed, stratify, group)
    if output is not None:
        parts = split_into(output, folder, how, data_format, images)
    elif data_format is not None or images is not None:
        raise ParameterError("--from and --images need --output: only PaddleX's layout is divided in place")
    else:
        parts = split_in_place(folder, how)
    for name, dataset in parts.items():
        click.echo(f"{name}: {_size(dataset)}")


def _size(dataset: Dataset) -> str:
    return f"{counted(len(dataset.images), 'image')}, {counted(len(dataset.annotations), 'annotation')}"


def _contents(dataset: Dataset) -> str:
    crowds = sum(annotation.crowd for annotation in dataset.annotations)
    told = f"{counted(len(dataset.images), 'image')}, {counted(len(dataset.annotations) - crowds, 'instance')}"
    return f"{told}, {counted(crowds, 'crowd region')}" if crowds else told


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        click.echo(shortened(f"note: {note}"), err=True)


def _print_faults(faults: Sequence[Fault]) -> None:
    """By kind: what is wrong, what to do, the first few of many."""
    for kind, group in groupby(faults, key=lambda fault: fault.kind):
        of_kind = list(group)
        mended = "" if kind.fix is None else f" (--fix: {kind.fix})"
        click.echo(f"{kind.severity}: {kind.title}, {len(of_kind)} x; {kind.advice}{mended}")
        for fault in of_kind[:FAULTS_TOLD]:
            click.echo(shortened(f"  {fault.split} {fault.file}: {fault.what}"))
        if len(of_kind) > FAULTS_TOLD:
            click.echo(f"  and {len(of_kind) - FAULTS_TOLD} more")
