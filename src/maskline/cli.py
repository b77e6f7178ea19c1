"""The command line: parse, one public call, print. Heavy imports wait for the command that needs them."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from maskline import __version__
from maskline.errors import InputError, MasklineError, ParameterError
from maskline.progress import status, track
from maskline.signals import terminable

if TYPE_CHECKING:
    from maskline.data.faults import Fault

OUTSIDE_WORTH_TELLING = 0.1
FAULTS_TOLD = 5  # of a kind
UNALIGNED = "For Mask R-CNN weights that PaddleDetection has trained since August 2024. Files of ours know."
EMBEDDED_NOTE = "no --model given: the embedded one, which knows nuclei in microscopy; `maskline models` lists others"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="maskline")
def cli() -> None:
    """Instance segmentation: a photo in, masks out."""


@cli.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--model", "model_name", metavar="NAME", help="A model of `maskline models`. Default: embedded.")
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
    from maskline import api, results
    from maskline import inputs as sources

    if save_path is not None:
        results.check_folder(save_path)
    if model_name is None and model_dir is None:
        click.echo(EMBEDDED_NOTE, err=True)
    model = api.create_model(
        model_name,
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
@click.option("--half", is_flag=True, help="Store weights in half precision: half the size, the same speed.")
@click.option("--unaligned", is_flag=True, help=UNALIGNED)
def export(
    model_name: str,
    weights: str | None,
    output: str,
    labels_file: str | None,
    threshold: float,
    half: bool,
    unaligned: bool,
) -> None:
    """Turn weights into a model directory that predicts without torch: inference.onnx and inference.yml."""
    from maskline import hub

    with status(f"exporting {model_name}"):
        folder = hub.make_model_dir(
            model_name,
            output,
            weights,
            labels_file=labels_file,
            threshold=threshold,
            half=half,
            unaligned=unaligned,
        )
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
        fixed = fix(reading, target, folder)
        for name, (before, after) in fixed.counts.items():
            images, annotations = (f"{new} of {old}" for old, new in zip(before, after, strict=True))
            click.echo(f"{target}: {name}: {images} images, {annotations} annotations")
        mended = _count(fixed.number("mended"), "fault")
        left_out, left = fixed.number("left out"), fixed.number("left")
        click.echo(f"{target}: {mended} mended, {left_out} more by leaving out, {left} left; all are in fixes.json")
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


@cli.command()
@click.argument("model_name", metavar="MODEL")
@click.argument("folder", metavar="DATA", type=click.Path(path_type=Path))
@click.option("--output", default="output", show_default=True, type=click.Path(path_type=Path), help="For everything.")
@click.option("--epochs", type=int, default=40, show_default=True, help="Passes over the training images.")
@click.option("--batch-size", type=int, help="Images of a step on each device. Default: the model's.")
@click.option("--learning-rate", type=float, help="Default: the model's, scaled to the images of a step.")
@click.option("--warmup-steps", type=int, help="Default: the model's, a tenth of the run at most.")
@click.option("--weights", default="official", show_default=True, help="official, backbone, scratch, or a file.")
@click.option("--resume", type=click.Path(path_type=Path), metavar="DIR", help="Go on in a run's output folder.")
@click.option("--device", help="cpu, gpu, gpu:0,1 … Default: the first GPU if there is one.")
@click.option("--processes", type=int, default=1, show_default=True, help="On the CPU; of GPUs each has one.")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True)
@click.option("--accumulate", type=int, default=1, show_default=True, help="Batches of a step.")
@click.option("--augment", multiple=True, metavar="NAME=VALUE", help="Such as copy_paste=0.5. May be given again.")
@click.option("--log-interval", type=int, default=10, show_default=True, help="Steps between lines of the log.")
@click.option("--eval-interval", type=int, default=1, show_default=True, help="Epochs between evaluations.")
@click.option("--save-interval", type=int, help="Epochs between checkpoints. Default: as --eval-interval.")
@click.option("--patience", type=int, help="End after so many evaluations without a better AP.")
@click.option("--workers", type=int, default=2, show_default=True, help="Processes that read images, for each device.")
@click.option("--drop-background", is_flag=True, help="Leave out training images without objects.")
@click.option("--seed", type=int, default=0, show_default=True, help="All randomness follows from it.")
@click.option("--unaligned", is_flag=True, help=UNALIGNED)
def train(
    model_name: str,
    folder: Path,
    output: Path,
    epochs: int,
    batch_size: int | None,
    learning_rate: float | None,
    warmup_steps: int | None,
    weights: str,
    resume: Path | None,
    device: str | None,
    processes: int,
    precision: Literal["fp32", "bf16", "fp16"],
    accumulate: int,
    augment: tuple[str, ...],
    log_interval: int,
    eval_interval: int,
    save_interval: int | None,
    patience: int | None,
    workers: int,
    drop_background: bool,
    seed: int,
    unaligned: bool,
) -> None:
    """Train a model on a data set in COCO's form, evaluate it as it learns, and export the best.

    Leaves best_model/inference to predict with, checkpoints to go on from, train.log, curves.png and pictures.
    """
    from maskline.config.overrides import parse_value
    from maskline.train import Settings
    from maskline.train import train as train_model
    from maskline.train.checkpoint import find
    from maskline.train.settings import as_augment

    logging.getLogger("maskline").setLevel(logging.INFO)
    values = {}
    for text in augment:
        if "=" not in text:
            raise ParameterError(f"--augment {text}: expected NAME=VALUE, such as copy_paste=0.5")
        values[text.partition("=")[0].strip()] = parse_value(text.partition("=")[2])
    settings = Settings(
        model=model_name,
        data=folder,
        output=output,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        weights=weights,
        resume=resume,
        device=device,
        processes=processes,
        precision=precision,
        accumulate=accumulate,
        augment=as_augment(values, model_name) if values else None,
        log_interval=log_interval,
        eval_interval=eval_interval,
        save_interval=save_interval,
        patience=patience,
        workers=workers,
        drop_background=drop_background,
        seed=seed,
        unaligned=unaligned,
    )
    written_to = output if resume is None else find(resume).parent  # before the run, which prunes checkpoints
    best = train_model(settings)["models"]["best"]
    told = "" if best["score"] is None else f", mask AP {best['score']:.3f} on val"
    click.echo(f"{written_to / best['onnx']}: the weights of epoch {best['epoch']}{told}")


@cli.command()
@click.argument("folder", metavar="DATA", type=click.Path(path_type=Path))
@click.option("--model", "model_name", metavar="NAME", help="A model of `maskline models`.")
@click.option("--model-dir", metavar="DIR", help="An exported model.")
@click.option("--weights", type=click.Path(path_type=Path), metavar="FILE", help="Weights of --model, not exported.")
@click.option("--split", default="val", show_default=True, help="Of the data set.")
@click.option("--output", default="output", show_default=True, type=click.Path(path_type=Path), help="For the report.")
@click.option("--max-detections", type=int, default=100, show_default=True, help="Of a class in an image; COCO's: 100.")
@click.option("--threshold", type=float, help="Score at which errors are counted. Default: that with the best F1.")
@click.option("--device", help="cpu, gpu, gpu:1 … Default: the first GPU if there is one.")
@click.option("--batch-size", type=int, default=1, show_default=True, help="Images in one run of the network.")
@click.option("--threads", type=int, help="Processor threads. Default: one for each core.")
@click.option("--unaligned", is_flag=True, help=UNALIGNED)
def evaluate(
    folder: Path,
    model_name: str | None,
    model_dir: str | None,
    weights: Path | None,
    split: str,
    output: Path,
    max_detections: int,
    threshold: float | None,
    device: str | None,
    batch_size: int,
    threads: int | None,
    unaligned: bool,
) -> None:
    """Measure a model on a data set: COCO's figures, curves, and the worst images to look at.

    Writes evaluate_result.json, evaluate/report.html, and evaluate/detections.json for `maskline compare`.
    """
    from maskline import api, engine, results
    from maskline.evaluate import evaluate_model, load_split

    dataset = load_split(folder, split)
    results.check_folder(output)
    if unaligned and weights is None:
        raise ParameterError("--unaligned is for --weights: an exported model knows what it is")
    if weights is not None:
        from maskline.train.validate import evaluate_weights

        if model_name is None or model_dir is not None:
            raise ParameterError("--weights needs --model, the model they are of, and no --model-dir")
        found = evaluate_weights(
            model_name,
            weights,
            dataset,
            output,
            device=device,
            max_detections=max_detections,
            threshold=threshold,
            unaligned=unaligned,
        )
    else:
        model = api.create_model(model_name, model_dir, device=device, threads=threads)
        found = evaluate_model(
            model, dataset, output, batch_size=batch_size, max_detections=max_detections, threshold=threshold
        )
    engine.write_result(output / "evaluate_result.json", found.to_dict())
    click.echo(found.summary())
    click.echo(f"report: {output / found.files['report']}", err=True)


@cli.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.argument("folder", metavar="DATA", type=click.Path(path_type=Path))
@click.option("--split", default="val", show_default=True, help="Of the data set that both were measured on.")
@click.option("--resamples", type=int, default=1000, show_default=True, help="More make the interval steadier.")
@click.option("--max-detections", type=int, default=100, show_default=True, help="Of a class in an image.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the resampling.")
def compare(a: Path, b: Path, folder: Path, split: str, resamples: int, max_detections: int, seed: int) -> None:
    """Tell whether model B is better than model A by more than chance: a paired bootstrap over images.

    A and B are folders of `maskline evaluate`, or files of detections in COCO's form.
    """
    from maskline.evaluate import load_split
    from maskline.evaluate.compare import compare as compare_detections

    dataset = load_split(folder, split)
    with status("resampling"):
        found = compare_detections(a, b, dataset, resamples=resamples, seed=seed, max_detections=max_detections)
    click.echo(found.summary())


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
    for stream in (sys.stdout, sys.stderr):  # file names and texts of others may hold what the terminal has no code for
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with terminable():
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
        if error.filename is not None:
            _end(f"{error.filename!r}: {error.strerror}", 1)
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
