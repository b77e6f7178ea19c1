"""The command line: parse, one public call, print. Heavy imports wait for the command that needs them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from maskline import __version__
from maskline.errors import InputError, MasklineError
from maskline.progress import status, track

if TYPE_CHECKING:
    from maskline.data.faults import Fault

OUTSIDE_WORTH_TELLING = 0.1
FAULTS_TOLD = 5  # of a kind


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="maskline")
def cli() -> None:
    """Instance segmentation: a photo in, masks out."""


@cli.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--model", "model_name", metavar="NAME", help="A model of `maskline models`. Default: Mask-RT-DETR-S.")
@click.option("--model-dir", metavar="DIR", help="An exported model, instead of an official one.")
@click.option(
    "--threshold", type=float, metavar="SCORE", help="Keep scores above it, 0 to 1. Default: the model's own."
)
@click.option("--device", metavar="DEVICE", help="cpu, gpu, gpu:1 … Default: the first GPU if there is one.")
@click.option("--batch-size", type=int, default=1, show_default=True, help="Images in one run of the network.")
@click.option("--threads", type=int, help="Processor threads. Default: one for each core.")
@click.option("--save-path", type=click.Path(file_okay=False), metavar="DIR", help="Save pictures and JSON here.")
@click.option("--mask-format", type=click.Choice(["list", "rle", "polygon"]), default="list", help="Masks in the JSON.")
@click.option("--grow-boxes", is_flag=True, help="Enlarge boxes to hold their whole mask, instead of cutting it.")
@click.option("--skip-errors", is_flag=True, help="Leave out inputs that can't be read, with a warning.")
@click.option("--quiet", is_flag=True, help="Don't print the results.")
def predict(
    inputs: tuple[str, ...],
    model_name: str | None,
    model_dir: str | None,
    threshold: float | None,
    device: str | None,
    batch_size: int,
    threads: int | None,
    save_path: str | None,
    mask_format: str,
    grow_boxes: bool,
    skip_errors: bool,
    quiet: bool,
) -> None:
    """Find instances in images (files or folders), print them, and save pictures and JSON with --save-path."""
    from maskline import api, catalog, results
    from maskline import inputs as sources

    if save_path is not None:
        results.check_folder(save_path)
    model = api.create_model(
        catalog.DEFAULT_MODEL if model_name is None and model_dir is None else model_name,
        model_dir,
        device=device,
        threshold=threshold,
        batch_size=batch_size,
        grow_boxes=grow_boxes,
        threads=threads,
    )
    found = model.predict(list(inputs), on_error="skip" if skip_errors else "raise")
    images = instances = reaching = 0
    for result in track(found, "predict", lambda: sources.count(list(inputs))):
        if not quiet:
            result.print()
        if save_path is not None:
            result.save_all(save_path, mask_format=mask_format)
        images, instances = images + 1, instances + len(result.instances)
        reaching += int((result.instances.outside > OUTSIDE_WORTH_TELLING).sum())
    if not images:
        raise InputError("none of the inputs could be read")
    saved = "" if save_path is None else f", saved to {save_path}"
    click.echo(f"images: {images}, instances: {instances}{saved}", err=True)
    if reaching:
        share = f"{OUTSIDE_WORTH_TELLING:.0%}"
        click.echo(f"{reaching} masks lie more than {share} outside their box and were cut: --grow-boxes", err=True)


@cli.command()
@click.argument("model_name", metavar="MODEL")
@click.option("--weights", metavar="FILE", help="A .pdparams or .safetensors file. Default: the official weights.")
@click.option("--output", required=True, type=click.Path(file_okay=False), metavar="DIR", help="Where to write it.")
@click.option("--labels", "labels_file", metavar="FILE", help="Class names, one on each line. Default: COCO's.")
@click.option("--threshold", type=float, default=0.5, show_default=True, help="The model's own score threshold.")
def export(model_name: str, weights: str | None, output: str, labels_file: str | None, threshold: float) -> None:
    """Turn weights into a model directory that predicts without torch: inference.onnx and inference.yml."""
    from maskline import hub

    with status(f"exporting {model_name}"):
        folder = hub.make_model_dir(model_name, output, weights, labels_file=labels_file, threshold=threshold)
    click.echo(f"{folder}: inference.onnx and inference.yml, checked against the network", err=True)


@cli.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--output", default="output", show_default=True, type=click.Path(path_type=Path), help="For the report.")
@click.option("--fix", "target", metavar="NEW", type=click.Path(path_type=Path), help="Write a corrected copy here.")
@click.option("--strict", is_flag=True, help="Fail on warnings too.")
def check(folder: Path, output: Path, target: Path | None, strict: bool) -> None:
    """Check a data set: every record, picture and mask. Exit code 1 if it has errors.

    Writes a report to look at (check_dataset/report.html) and all faults as JSON.
    """
    from maskline.data.check_dataset import FOLDER, PASSED, examine
    from maskline.data.fix import fix

    reading, _ = examine(folder, output)
    _print_faults(reading.faults)
    errors, warnings = len(reading.errors), len(reading.faults) - len(reading.errors)
    counts = ", ".join(f"{split}: {_count(len(dataset.images), 'image')}" for split, dataset in reading.splits.items())
    told = f"{_count(errors, 'error')}, {_count(warnings, 'warning')}"
    click.echo(f"{counts}; {told}; report: {output / FOLDER / 'report.html'}")
    if target is not None:
        remaining = fix(reading, target, folder)
        mended = _count(len(reading.faults) - len(remaining), "fault")
        click.echo(f"{target}: a copy with {mended} mended, {len(remaining)} left")
    if errors or (strict and warnings):
        sys.exit(1)
    click.echo(PASSED)


@cli.command()
@click.argument("source", metavar="SOURCE", type=click.Path(path_type=Path))
@click.argument("target", metavar="NEW", type=click.Path(path_type=Path))
@click.option("--to", required=True, metavar="FORMAT", help="coco, labelme, yolo, voc or cvat.")
@click.option("--from", "from_", metavar="FORMAT", help="Default: found out.")
@click.option("--skip-errors", is_flag=True, help="Leave out what can't be read, with a warning.")
def convert(source: Path, target: Path, to: str, from_: str | None, skip_errors: bool) -> None:
    """Convert a data set into a new folder: COCO, LabelMe, YOLO-seg, Pascal VOC, CVAT."""
    from maskline.data.convert import convert as convert_dataset

    with status(f"converting {source}"):
        done = convert_dataset(source, target, to, from_, skip_errors=skip_errors)
    _print_faults(done.skipped)
    for note in done.notes:
        click.echo(f"note: {note}", err=True)
    for split, dataset in done.splits.items():
        click.echo(f"{split}: {len(dataset.images)} images, {len(dataset.annotations)} annotations")
    click.echo(f"{target}: from {done.source_format} to {to.lower()}")


@cli.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--val", type=float, default=20, show_default=True, metavar="PERCENT", help="Share to evaluate with.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed, another division.")
@click.option("--stratify", is_flag=True, help="Give each class its share in both parts.")
@click.option("--group", metavar="KIND", help="Keep together: folder, similar, key:NAME, or a regular expression.")
@click.option("--output", metavar="NEW", type=click.Path(path_type=Path), help="A new data set. Default: DIR itself.")
def split(folder: Path, val: float, seed: int, stratify: bool, group: str | None, output: Path | None) -> None:
    """Divide a data set anew into train and val.

    In place by default: the annotation files that were there are kept as .bak.
    """
    from maskline.data.split import Division, split_in_place, split_into

    how = Division(val, seed, stratify, group)
    with status(f"dividing {folder}"):
        parts = split_in_place(folder, how) if output is None else split_into(output, folder, how)
    for name, dataset in parts.items():
        click.echo(f"{name}: {len(dataset.images)} images, {len(dataset.annotations)} annotations")


@cli.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def run(options: tuple[str, ...]) -> None:
    """Run a mode as the reference's documents have it: run -c CONFIG -o Section.key=value ... (as main.py)."""
    from maskline import engine

    sys.exit(engine.main(options))


@cli.command()
def models() -> None:
    """List the models: accuracy, published times, size."""
    from maskline import catalog

    click.echo(catalog.markdown_table())


def main() -> None:
    """Run the command line; errors made on purpose become one line and an exit code."""
    logging.basicConfig(level=logging.WARNING, format="maskline: %(message)s", stream=sys.stderr)
    try:
        cli.main(standalone_mode=False)
        sys.stdout.flush()
    except MasklineError as error:
        _end(str(error), error.exit_code)
    except click.exceptions.Abort:
        _end("interrupted", 130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except OSError as error:  # of standard output, as when its disk is full; errors of files are MasklineErrors
        sys.stdout = None  # or Python would try to write the rest, and fail again
        _end(f"can't write to standard output: {error.strerror or error}", 1)


def _end(message: str, code: int) -> None:
    click.echo(f"maskline: {message}", err=True)
    sys.exit(code)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _print_faults(faults: Sequence[Fault]) -> None:
    """By kind: what is wrong, what to do, the first few of many."""
    for kind, group in groupby(faults, key=lambda fault: fault.kind):
        of_kind = list(group)
        mended = "" if kind.fix is None else f" (--fix: {kind.fix})"
        click.echo(f"{kind.severity}: {kind.title}, {len(of_kind)} x; {kind.advice}{mended}")
        for fault in of_kind[:FAULTS_TOLD]:
            click.echo(f"  {fault.split} {fault.file}: {fault.what}")
        if len(of_kind) > FAULTS_TOLD:
            click.echo(f"  and {len(of_kind) - FAULTS_TOLD} more")


if __name__ == "__main__":
    main()
