"""Commands that make and measure models: train, evaluate, compare, export."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import click

from maskline._options import Checked, Option, like
from maskline._progress import status
from maskline.cli.datasets import DATA, dataset_options
from maskline.cli.options import option, options
from maskline.cli.running import Running, running_options
from maskline.data.options import DatasetOptions
from maskline.errors import ParameterError
from maskline.evaluate import MOST_DETECTIONS, MOST_RESAMPLES, RESAMPLES, STANDARD_DETECTIONS
from maskline.exporting.options import ExportOptions
from maskline.training.settings import TrainSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions(Checked):
    """Options of ``evaluate``."""

    weights: Annotated[Path | None, Option("Weights file of --model that has not been exported.", metavar="FILE")] = (
        None
    )
    split: Annotated[str, Option("Split to evaluate on.")] = "val"
    output: Annotated[Path, Option("Folder for the report.")] = Path("output")
    max_detections: Annotated[int, Option("Most detections counted per class and image.", most=MOST_DETECTIONS)] = (
        STANDARD_DETECTIONS
    )
    threshold: Annotated[
        float | None,
        Option(
            "Score threshold for counting errors.", metavar="SCORE", least=0, most=1, unset="the one with the best F1"
        ),
    ] = None
    unaligned: Annotated[bool, like(TrainSettings, "unaligned")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOptions(Checked):
    """Options of ``compare``."""

    split: Annotated[str, Option("Split that both were evaluated on.")] = "val"
    resamples: Annotated[int, Option("Bootstrap resamples; more give a more stable interval.", most=MOST_RESAMPLES)] = (
        RESAMPLES
    )
    max_detections: Annotated[int, like(EvaluateOptions, "max_detections")] = STANDARD_DETECTIONS
    seed: Annotated[int, Option("Random seed of the resampling.", least=0)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPaths(Checked):
    """Files that ``export`` reads, and the folder it writes."""

    weights: Annotated[
        Path | None, Option("A .pdparams or .safetensors file.", metavar="FILE", unset="the official weights")
    ] = None
    output: Annotated[Path, Option("Folder to write to.", metavar="DIR")]
    labels_file: Annotated[
        Path | None,
        Option("File of class names, one per line.", flag="--labels", metavar="FILE", unset="COCO's"),
    ] = None


@click.command()
@click.argument("model", metavar="MODEL")
@DATA
@options(TrainSettings, "given", dict)
def train(model: str, folder: Path, given: Mapping[str, Any]) -> None:
    """Train a model on a data set, evaluate it regularly, and export the best weights.

    Writes the exported model (best_model/inference), checkpoints, train.log, curves.png and sample images.
    """
    from maskline.paddlex import train_results
    from maskline.runtime.backend import GRAPH_FILES
    from maskline.training import checkpoint
    from maskline.training import train as train_model
    from maskline.training.processes import is_first

    logging.getLogger("maskline").setLevel(logging.INFO)
    found = train_model(TrainSettings(model=model, data=folder, **given), train_results.write)
    if found.model_dir is None:
        best = checkpoint.weights_file(found.best_checkpoint)
    else:
        best = found.model_dir / GRAPH_FILES["onnx"]
    score = "" if found.best_score is None else f", mask AP {found.best_score:.3f} on val"
    if is_first():
        click.echo(f"{best}: the weights of epoch {found.best_epoch}{score}")


@click.command()
@DATA
@dataset_options
@options(EvaluateOptions, "how")
@running_options(model_name="the embedded model", batch_size="1")
def evaluate(folder: Path, source: DatasetOptions, how: EvaluateOptions, running: Running) -> None:
    """Evaluate a model on a data set: COCO metrics, curves, and the worst images.

    Writes evaluate_result.json, evaluate/report.html, and evaluate/detections.json for `maskline compare`.
    """
    from maskline.evaluate import evaluate_model, load_split
    from maskline.outputs.paths import check_folder
    from maskline.paddlex import jobs
    from maskline.runtime.device import device_text

    name = running.model_name
    if how.unaligned and how.weights is None:
        raise ParameterError("--unaligned applies only to --weights; exported models already store this setting")
    if how.weights is not None and (name is None or running.model_dir is not None):
        raise ParameterError("--weights needs --model to name the architecture, and can't be combined with --model-dir")
    if how.weights is not None and running != Running(model_name=name, device=running.device):
        raise ParameterError("--weights runs in torch; the only runtime option it accepts is --device")
    record = jobs.result_file(how.output, "evaluate")
    jobs.clear_result(record)
    if how.weights is not None:
        from maskline.training import devices

        running = replace(running, device=devices.resolve(running.device))
    elif running.device is not None:
        running = replace(running, device=device_text(running.devices()))
    dataset = load_split(folder, how.split, source.data_format, source.images)
    check_folder(how.output)
    if how.weights is not None:
        from maskline.training.validate import evaluate_weights

        assert name is not None
        result = evaluate_weights(
            name,
            how.weights,
            dataset,
            how.output,
            device=running.device,
            max_detections=how.max_detections,
            threshold=how.threshold,
            unaligned=how.unaligned,
        )
    else:
        model = running.model()
        result = evaluate_model(
            model,
            dataset,
            how.output,
            batch_size=model.batch_size,
            max_detections=how.max_detections,
            threshold=how.threshold,
        )
    jobs.write_result(record, result.to_dict())
    click.echo(result.summary())
    click.echo(f"report: {how.output / result.files['report']}", err=True)


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@DATA
@dataset_options
@options(CompareOptions, "how")
def compare(a: Path, b: Path, folder: Path, source: DatasetOptions, how: CompareOptions) -> None:
    """Test whether model B is significantly better than model A, with a paired bootstrap over images.

    A and B are output folders of `maskline evaluate`, or files of detections in COCO format.
    """
    from maskline.evaluate import load_split
    from maskline.evaluate.compare import compare as compare_detections

    dataset = load_split(folder, how.split, source.data_format, source.images)
    with status("resampling"):
        result = compare_detections(
            a, b, dataset, resamples=how.resamples, seed=how.seed, max_detections=how.max_detections
        )
    click.echo(result.summary())


@click.command()
@click.argument("model", metavar="MODEL")
@options(ExportPaths, "paths")
@options(ExportOptions, "how")
@option(TrainSettings, "unaligned")
def export(model: str, paths: ExportPaths, how: ExportOptions, unaligned: bool | None) -> None:
    """Export weights to a model directory that predicts without torch: a graph and inference.yml.

    With --format triton, write a model repository for Triton Inference Server.
    """
    from maskline import hub

    with status(f"exporting {model}"):
        folder = hub.make_model_dir(
            model,
            paths.output,
            paths.weights,
            labels_file=paths.labels_file,
            unaligned=bool(unaligned),
            options=how,
        )
    model_dir = how.model_dir(folder)
    if how.int8 is not None:
        from maskline.exporting import cost

        click.echo(cost.read(model_dir).summary())
    proof = "checked against the network" if how.int8 is None else "measured against float32"
    click.echo(f"{model_dir}: {how.file} and inference.yml, {proof}", err=True)
    if model_dir != folder:
        click.echo(f"{folder}: a model repository for `tritonserver --model-repository`", err=True)
