"""Commands that predict: ``predict``, and PaddleX's ``--pipeline``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import click

from maskline._options import Checked, Option
from maskline._progress import track
from maskline._wording import counted
from maskline.cli.options import option, options
from maskline.cli.running import Running, running_options
from maskline.errors import DownloadError, InputError, ParameterError
from maskline.outputs.formats import MOST_TOLERANCE, WRITERS, MaskFormat

if TYPE_CHECKING:
    from maskline.outputs.writer import Writer
    from maskline.runtime.predictor import Predictor

REPORTED_OUTSIDE = 0.1  # share of a mask outside its box from which it is reported
EMBEDDED_NOTE = "no --model given: using the embedded one, for nuclei in microscopy; `maskline models` lists others"


@dataclass(frozen=True, slots=True, kw_only=True)
class Showing(Checked):
    """Which results are kept, and in which form."""

    threshold: Annotated[
        float | None,
        Option("Keep scores above this.", metavar="SCORE", least=0, most=1, unset="the model's own"),
    ] = None
    save_path: Annotated[str | None, Option("Save drawn images and JSON files here.", metavar="DIR")] = None
    mask_format: Annotated[MaskFormat, Option("Form of masks in the JSON files. A polygon has no holes.")] = "list"
    exports: Annotated[
        str | None,
        Option(
            "Also write these formats to --save-path, separated by commas.",
            flag="--export",
            metavar="FORMATS",
            listed=WRITERS.keys,
        ),
    ] = None
    simplify: Annotated[
        float,
        Option(
            "Tolerance for simplifying polygons with --export labelme, in pixels.",
            metavar="PIXELS",
            least=0,
            most=MOST_TOLERANCE,
        ),
    ] = 0
    grow_boxes: Annotated[bool, Option("Enlarge each box to fit its mask, instead of cropping the mask.")] = False
    skip_errors: Annotated[bool, Option("Skip inputs that can't be read, with a warning.")] = False
    quiet: Annotated[bool, Option("Do not print the results.")] = False


THRESHOLD = option(Showing, "threshold")
showing_options = options(Showing, "showing")


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@showing_options
@running_options(model_name="the embedded model", batch_size="1")
def predict(inputs: tuple[str, ...], showing: Showing, running: Running) -> None:
    """Find instances in images, folders, PDFs, videos or URLs; print them, and save them with --save-path."""
    with _saving(showing) as writers:
        model = running.model(threshold=showing.threshold, grow_boxes=showing.grow_boxes)
        if running.model_name is None and running.model_dir is None:
            click.echo(EMBEDDED_NOTE, err=True)
        _show(model, inputs, showing, writers)


def predict_by_pipeline(pipeline: str, inputs: tuple[str, ...], showing: Showing, running: Running) -> None:
    """Do what ``maskline --pipeline NAME|YAML --input …`` does. Options win over the file."""
    from maskline.paddlex.pipeline import load_pipeline

    settings = load_pipeline(pipeline)
    if not inputs and settings.input is None:
        raise ParameterError("--input is missing: give an image, a folder, a PDF, a video or a URL")
    with _saving(showing) as writers:
        model = running.pipeline(pipeline, threshold=showing.threshold, grow_boxes=showing.grow_boxes)
        _show(model, inputs or (str(settings.input),), showing, writers)


@contextmanager
def _saving(showing: Showing) -> Iterator[Sequence[Writer]]:
    """The writers of results, opened before anything slow is done, so that an unwritable folder is reported at once."""
    from maskline.outputs.formats import open_writers
    from maskline.outputs.paths import check_folder

    formats = [] if showing.exports is None else [name.strip() for name in showing.exports.split(",")]
    if showing.simplify and "labelme" not in formats:
        raise ParameterError("--simplify applies only to --export labelme")
    if showing.save_path is None:
        if formats:
            raise ParameterError(f"--export {showing.exports} needs --save-path, the folder to write to")
        yield ()
        return
    check_folder(showing.save_path)
    with open_writers(formats, showing.save_path, tolerance=showing.simplify) as writers:
        yield writers


def _show(model: Predictor, inputs: Sequence[str], showing: Showing, writers: Sequence[Writer]) -> None:
    """Predict, print and save; report how much there was."""
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
            reaching += int((result.instances.outside > REPORTED_OUTSIDE).sum())
            filled += sum(map(has_holes, result.instances.masks)) if polygons else 0
    if not images:
        raise InputError(
            f"nothing was predicted: {sources.not_read(unread)}" if unread else "no image found in the input"
        )
    saved = "" if showing.save_path is None else f", saved to {showing.save_path}"
    left_out = sources.count_left_out(inputs)
    parts = [f"images: {images}, instances: {instances}{saved}"]
    if left_out:
        parts.append(sources.not_predicted(left_out))
    if unread:
        parts.append(sources.not_read(unread))
    click.echo("; ".join(parts), err=True)
    if filled:
        masks = counted(filled, "mask")
        click.echo(f"holes of {masks} were filled in the JSON; --mask-format rle keeps them", err=True)
    if reaching:
        masks, them = counted(reaching, "mask was", "masks were"), "it" if reaching == 1 else "them"
        share = f"{REPORTED_OUTSIDE:.0%}"
        click.echo(f"{masks} cropped by more than {share}; --grow-boxes keeps {them} whole", err=True)
