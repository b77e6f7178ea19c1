"""Commands that predict: ``predict``, and the reference's ``--pipeline``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from maskline._progress import track
from maskline._wording import counted
from maskline.cli.running import MODEL, MODEL_DIR, THRESHOLD, Running, gathered, running_options
from maskline.errors import DownloadError, InputError, ParameterError

if TYPE_CHECKING:
    from maskline.outputs.formats import Writer
    from maskline.runtime.predictor import Predictor

OUTSIDE_WORTH_TELLING = 0.1
EMBEDDED_NOTE = "no --model given: the embedded one, which knows nuclei in microscopy; `maskline models` lists others"


@dataclass(frozen=True, slots=True, kw_only=True)
class Showing:
    """What becomes of results."""

    threshold: float | None
    save_path: str | None
    mask_format: str
    exports: str | None
    simplify: float | None
    grow_boxes: bool
    skip_errors: bool
    quiet: bool


_OPTIONS = (
    THRESHOLD,
    click.option("--save-path", metavar="DIR", help="Save drawn images and JSON files here."),
    click.option(
        "--mask-format",
        metavar="FORM",
        default="list",
        show_default=True,
        help="Form of masks in the JSON files: list, rle, or polygon (which fills holes).",
    ),
    click.option(
        "--export",
        "exports",
        metavar="FORMATS",
        help="Also write these formats to --save-path: coco, coco-results, labelme, csv.",
    ),
    click.option(
        "--simplify",
        type=click.FloatRange(min=0),
        metavar="PIXELS",
        help="Tolerance for simplifying polygons with --export labelme. Default: 0, exact to the pixel.",
    ),
    click.option("--grow-boxes", is_flag=True, help="Enlarge each box to fit its mask, instead of cropping the mask."),
    click.option("--skip-errors", is_flag=True, help="Skip inputs that can't be read, with a warning."),
    click.option("--quiet", is_flag=True, help="Do not print the results."),
)


def showing_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options, which come to the function as one argument ``showing``."""
    return gathered(function, "showing", Showing, _OPTIONS)


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@MODEL
@MODEL_DIR
@showing_options
@running_options
def predict(
    inputs: tuple[str, ...], model_name: str | None, model_dir: str | None, showing: Showing, running: Running
) -> None:
    """Find instances in images, folders, PDFs, videos or URLs; print them, and save them with --save-path."""
    if model_name is None and model_dir is None:
        click.echo(EMBEDDED_NOTE, err=True)
    with _saving(showing) as writers:
        model = running.model(model_name, model_dir, threshold=showing.threshold, grow_boxes=showing.grow_boxes)
        _show(model, inputs, showing, writers)


def predict_by_pipeline(
    pipeline: str,
    model_name: str | None,
    model_dir: str | None,
    inputs: tuple[str, ...],
    showing: Showing,
    running: Running,
) -> None:
    """What ``maskline --pipeline NAME|YAML --input …`` does. Options win over the file."""
    from maskline.paddlex.pipeline import load_pipeline

    settings = load_pipeline(pipeline)
    if not inputs and settings.input is None:
        raise ParameterError("--input is missing: give an image, a folder, a PDF, a video or a URL")
    with _saving(showing) as writers:
        model = running.pipeline(
            pipeline, model_name, model_dir, threshold=showing.threshold, grow_boxes=showing.grow_boxes
        )
        _show(model, inputs or (str(settings.input),), showing, writers)


@contextmanager
def _saving(showing: Showing) -> Iterator[Sequence[Writer]]:
    """The writers of results, opened before anything slow is done: what can't be written to is told at once."""
    from maskline.errors import UnknownNameError
    from maskline.outputs.formats import open_writers
    from maskline.outputs.paths import check_folder
    from maskline.outputs.result import MASK_FORMATS

    if showing.mask_format not in MASK_FORMATS:
        raise UnknownNameError.of("--mask-format", showing.mask_format, MASK_FORMATS)
    formats = [] if showing.exports is None else [name.strip() for name in showing.exports.split(",")]
    if showing.simplify is not None and "labelme" not in formats:
        raise ParameterError("--simplify is for the polygons of --export labelme: add that, or leave out --simplify")
    if showing.save_path is None:
        if formats:
            raise ParameterError(f"--export {showing.exports} needs --save-path, the folder to write to")
        yield ()
        return
    check_folder(showing.save_path)
    with open_writers(formats, showing.save_path, tolerance=showing.simplify or 0) as writers:
        yield writers


def _show(model: Predictor, inputs: Sequence[str], showing: Showing, writers: Sequence[Writer]) -> None:
    """Predict, print, save, and tell how much there was."""
    from maskline import inputs as sources
    from maskline.masks import has_holes

    unread = Counter[str]()

    def skip(error: InputError | DownloadError) -> None:
        sources.log_skipped(error)
        unread[error.reason] += 1

    found = model.predict(list(inputs), on_error=skip if showing.skip_errors else "raise")
    polygons = showing.save_path is not None and showing.mask_format == "polygon"
    images = instances = reaching = filled = 0
    with closing(track(found, "predict", lambda: sources.count_images(list(inputs)))) as tracked:
        for result in tracked:
            if not showing.quiet:
                result.print()
            if showing.save_path is not None:
                result.save_all(showing.save_path, mask_format=showing.mask_format)
            for writer in writers:
                writer.add(result)
            images, instances = images + 1, instances + len(result.instances)
            reaching += int((result.instances.outside > OUTSIDE_WORTH_TELLING).sum())
            filled += sum(map(has_holes, result.instances.masks)) if polygons else 0
    if not images:
        raise InputError(f"nothing was predicted: {sources.not_read(unread)}" if unread else "there was no image")
    saved = "" if showing.save_path is None else f", saved to {showing.save_path}"
    left_out = sources.count_left_out(inputs)
    parts = [f"images: {images}, instances: {instances}{saved}"]
    if left_out:
        parts.append(sources.not_predicted(left_out))
    if unread:
        parts.append(sources.not_read(unread))
    click.echo("; ".join(parts), err=True)
    if filled:
        masks = counted(filled, "mask is", "masks are")
        click.echo(f"holes: {masks} filled in the JSON; --mask-format rle keeps them", err=True)
    if reaching:
        masks = counted(reaching, "mask lies", "masks lie")
        share = f"{OUTSIDE_WORTH_TELLING:.0%}"
        click.echo(f"{masks} more than {share} outside the box that cuts it: add --grow-boxes to keep all", err=True)
