"""The command line: parse, one public call, print. Heavy imports wait for the command that needs them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from maskline import __version__
from maskline.errors import InputError, MasklineError

if TYPE_CHECKING:
    from maskline.results import Result

OUTSIDE_WORTH_TELLING = 0.1


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
    for result in _progress(found, lambda: sources.count(list(inputs)), "predict"):
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

    with _status(f"exporting {model_name}"):
        folder = hub.make_model_dir(model_name, output, weights, labels_file=labels_file, threshold=threshold)
    click.echo(f"{folder}: inference.onnx and inference.yml, checked against the network", err=True)


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


def _progress(results: Iterator[Result], count: Callable[[], int | None], what: str) -> Iterator[Result]:
    """The results, with a progress bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        yield from results
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    terminal = sys.stdout.isatty()  # only then may lines be printed around the bar
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=terminal, transient=True) as bar:
        yield from bar.track(results, total=count())


@contextmanager
def _status(text: str) -> Iterator[Any]:
    """A line that turns while long work goes on, if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


if __name__ == "__main__":
    main()
