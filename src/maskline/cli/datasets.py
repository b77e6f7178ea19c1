"""Commands on data sets: check, convert, split."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click

from maskline._options import Checked, Option, like
from maskline._wording import counted, sentence, shortened
from maskline.cli.options import option, options
from maskline.data.formats import writable_formats
from maskline.data.options import Crowd, DatasetOptions, SplitConfig
from maskline.errors import ParameterError

if TYPE_CHECKING:
    from maskline.data.dataset import Dataset
    from maskline.data.faults import Fault

FAULTS_SHOWN = 5  # of a kind

DATA = click.argument("folder", metavar="DATA", type=click.Path(path_type=Path))
dataset_options = options(DatasetOptions, "source")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions(Checked):
    """Options of ``check``."""

    output: Annotated[Path, Option("Folder for the report.")] = Path("output")
    fix: Annotated[Path | None, Option("Write a corrected copy to this new folder.", metavar="NEW")] = None
    crowd: Annotated[
        Crowd | None,
        Option("How to read iscrowd=1: as single instances (CVAT's brush and SAM exports) or as crowd regions."),
    ] = None
    strict: Annotated[bool, Option("Fail on warnings too.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions(Checked):
    """Options of ``convert``."""

    to: Annotated[str, Option("Format to write.", metavar="FORMAT", listed=writable_formats)]
    skip_errors: Annotated[bool, Option("Skip what can't be read, with a warning.")] = False
    crowd: Annotated[Crowd | None, like(CheckOptions, "crowd")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitOutput(Checked):
    """Where ``split`` writes."""

    output: Annotated[
        Path | None, Option("Write a new data set to this folder.", metavar="NEW", unset="split in place")
    ] = None


@click.command()
@DATA
@dataset_options
@options(CheckOptions, "how")
def check(folder: Path, source: DatasetOptions, how: CheckOptions) -> None:
    """Check every record, image and mask of a data set. The exit code is 1 if there are errors.

    Writes a report (check_dataset/report.html) and a list of all faults (check_dataset/faults.json).
    """
    from maskline.data.fix import fix
    from maskline.paddlex.check_dataset import FOLDER, PASSED, examine

    reading, result = examine(folder, how.output, source.data_format, source.images, crowd=how.crowd, strict=how.strict)
    _print_faults(reading.faults)
    _print_notes(reading.notes)
    errors, warnings = len(reading.errors), len(reading.faults) - len(reading.errors)
    counts = "; ".join(f"{split}: {_contents(dataset)}" for split, dataset in reading.splits.items())
    total = f"{counted(errors, 'error')}, {counted(warnings, 'warning')}"
    click.echo(f"{counts}; {total}; report: {how.output / FOLDER / 'report.html'}")
    if how.fix is not None:
        fixed = fix(reading, how.fix, folder)
        for name, (before, after) in fixed.counts.items():
            nouns = zip(("image", "annotation"), before, after, strict=True)
            kept = ", ".join(f"{new} of {counted(old, noun)}" for noun, old, new in nouns)
            click.echo(f"{how.fix}: {name}: {kept}")
        number = counted(fixed.number("fixed"), "fault")
        left_out, left = fixed.number("left out"), fixed.number("left")
        click.echo(f"{how.fix}: {number} fixed, {left_out} fixed by removing data, {left} not fixed; see fixes.json")
    if not result["check_pass"]:
        sys.exit(1)
    click.echo(PASSED)


@click.command()
@click.argument("folder", metavar="SOURCE", type=click.Path(path_type=Path))
@click.argument("target", metavar="NEW", type=click.Path(path_type=Path))
@options(ConvertOptions, "how")
@dataset_options
def convert(folder: Path, target: Path, how: ConvertOptions, source: DatasetOptions) -> None:
    """Convert a data set into a new folder, in another format."""
    from maskline.data.convert import convert as convert_dataset

    done = convert_dataset(
        folder,
        target,
        how.to,
        source.data_format,
        images=source.images,
        skip_errors=how.skip_errors,
        crowd=how.crowd,
    )
    _print_faults(done.faults)
    _print_notes(done.notes)
    for split, dataset in done.splits.items():
        click.echo(f"{split}: {_size(dataset)}")
    click.echo(f"{target}: from {done.source_format} to {how.to.lower()}")


@click.command()
@DATA
@dataset_options
@options(SplitConfig, "how")
@option(SplitOutput, "output")
def split(folder: Path, source: DatasetOptions, how: SplitConfig, output: Path | None) -> None:
    """Split a data set into train and val at random.

    By default in place: existing annotation files are kept as .bak.
    """
    from maskline.data.split import split_in_place, split_into

    if output is not None:
        parts = split_into(output, folder, how, source.data_format, source.images)
    elif source != DatasetOptions():
        raise ParameterError("--from and --images need --output: only PaddleX's layout is split in place")
    else:
        parts = split_in_place(folder, how)
    for name, dataset in parts.items():
        click.echo(f"{name}: {_size(dataset)}")


def _size(dataset: Dataset) -> str:
    return f"{counted(len(dataset.images), 'image')}, {counted(len(dataset.annotations), 'annotation')}"


def _contents(dataset: Dataset) -> str:
    crowds = sum(annotation.crowd for annotation in dataset.annotations)
    counts = f"{counted(len(dataset.images), 'image')}, {counted(len(dataset.annotations) - crowds, 'instance')}"
    return f"{counts}, {counted(crowds, 'crowd region')}" if crowds else counts


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        click.echo(shortened(f"note: {note}"), err=True)


def _print_faults(faults: Sequence[Fault]) -> None:
    """Print faults by kind: what is wrong, what to do, and the first few."""
    for kind, group in groupby(faults, key=lambda fault: fault.kind):
        of_kind = list(group)
        remedy = "" if kind.fix is None else f" (--fix: {kind.fix})"
        click.echo(f"{kind.severity}: {kind.title} ({len(of_kind)}). {sentence(kind.advice)}{remedy}")
        for fault in of_kind[:FAULTS_SHOWN]:
            click.echo(shortened(f"  {fault.split} {fault.file}: {fault.what}"))
        if len(of_kind) > FAULTS_SHOWN:
            click.echo(f"  and {len(of_kind) - FAULTS_SHOWN} more")
