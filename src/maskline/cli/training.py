"""Commands that make and measure models: train, evaluate, compare, export."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal

import click

from maskline._progress import status
from maskline.cli.dataset_options import dataset_options
from maskline.cli.running import MODEL, MODEL_DIR, Running, running_options
from maskline.errors import ParameterError

UNALIGNED = (
    "For Mask R-CNN weights that PaddleDetection has trained since August 2024. Files written by maskline record it."
)


@click.command()
@click.argument("model_name", metavar="MODEL")
@click.argument("folder", metavar="DATA", type=click.Path(path_type=Path))
@dataset_options
@click.option("--output", default="output", show_default=True, type=click.Path(path_type=Path), help="Output folder.")
@click.option("--epochs", type=int, default=40, show_default=True, help="Passes over the training images.")
@click.option("--batch-size", type=int, help="Images per step on each device. Default: the model's.")
@click.option("--learning-rate", type=float, help="Learning rate. Default: the model's, scaled to the images per step.")
@click.option("--warmup-steps", type=int, help="Warm-up steps. Default: the model's, at most a tenth of the run.")
@click.option(
    "--weights", default="official", show_default=True, help="Initial weights: official, backbone, scratch, or a file."
)
@click.option("--resume", type=click.Path(path_type=Path), metavar="DIR", help="Resume the run in this output folder.")
@click.option("--device", help="cpu, gpu, gpu:0,1 … Default: the first GPU if there is one.")
@click.option("--processes", type=int, default=1, show_default=True, help="Processes on the CPU; each GPU has one.")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True)
@click.option(
    "--accumulate", type=int, default=1, show_default=True, help="Batches per optimizer step (gradient accumulation)."
)
@click.option(
    "--augment",
    multiple=True,
    metavar="NAME=VALUE",
    help="Augmentation setting, such as copy_paste=0.5; can be repeated.",
)
@click.option("--log-interval", type=int, default=10, show_default=True, help="Steps between log lines.")
@click.option("--eval-interval", type=int, default=1, show_default=True, help="Epochs between evaluations.")
@click.option("--save-interval", type=int, help="Epochs between checkpoints. Default: as --eval-interval.")
@click.option("--patience", type=int, help="Stop after this many evaluations without a better AP.")
@click.option("--workers", type=int, default=2, show_default=True, help="Data-loading processes per device.")
@click.option("--threads", type=int, help="CPU threads per training process. Default: one per core.")
@click.option("--drop-background", is_flag=True, help="Leave out training images without objects.")
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed.")
@click.option("--unaligned", is_flag=True, help=UNALIGNED)
def train(
    model_name: str,
    folder: Path,
    data_format: str | None,
    images: Path | None,
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
    threads: int | None,
    drop_background: bool,
    seed: int,
    unaligned: bool,
) -> None:
    """Train a model on a data set, evaluate it regularly, and export the best weights.

    Writes the exported model (best_model/inference), checkpoints, train.log, curves.png and sample images.
    """
    from maskline.paddlex import train_results
    from maskline.paddlex.overrides import parse_value
    from maskline.runtime.model_dir import GRAPH_FILES
    from maskline.training import TrainSettings
    from maskline.training import train as train_model
    from maskline.training.processes import is_first
    from maskline.training.settings import as_augment

    logging.getLogger("maskline").setLevel(logging.INFO)
    values = {}
    for text in augment:
        if "=" not in text:
            raise ParameterError(f"--augment {text}: expected NAME=VALUE, such as copy_paste=0.5")
        values[text.partition("=")[0].strip()] = parse_value(text.partition("=")[2])
    settings = TrainSettings(
        model=model_name,
        data=folder,
        data_format=data_format,
        images=images,
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
        threads=threads,
        drop_background=drop_background,
        seed=seed,
        unaligned=unaligned,
    )
    found = train_model(settings, train_results.write)
    assert found.model_dir is not None
    told = "" if found.best_score is None else f", mask AP {found.best_score:.3f} on val"
    if is_first():
        click.echo(f"{found.model_dir / GRAPH_FILES['onnx']}: the weights of epoch {found.best_epoch}{told}")


@click.command()
@click.argument("folder", metavar="DATA", type=click.Path(path_type=Path))
@dataset_options
@MODEL
@MODEL_DIR
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Weights file of --model that has not been exported.",
)
@click.option("--split", default="val", show_default=True, help="Split to evaluate on.")
@click.option(
    "--output", default="output", show_default=True, type=click.Path(path_type=Path), help="Folder for the report."
)
@click.option(
    "--max-detections",
    type=int,
    default=100,
    show_default=True,
    help="Most detections counted per class and image; COCO uses 100.",
)
@click.option("--threshold", type=float, help="Score threshold for counting errors. Default: the one with the best F1.")
@click.option("--unaligned", is_flag=True, help=UNALIGNED)
@running_options
def evaluate(
    folder: Path,
    data_format: str | None,
    images: Path | None,
    model_name: str | None,
    model_dir: str | None,
    weights: Path | None,
    split: str,
    output: Path,
    max_detections: int,
    threshold: float | None,
    unaligned: bool,
    running: Running,
) -> None:
    """Evaluate a model on a data set: COCO metrics, curves, and the worst images.

    Writes evaluate_result.json, evaluate/report.html, and evaluate/detections.json for `maskline compare`.
    """
    from maskline.evaluate import evaluate_model, load_split
    from maskline.outputs.paths import check_folder
    from maskline.paddlex import jobs
    from maskline.runtime.device import device_text

    if unaligned and weights is None:
        raise ParameterError("--unaligned is for --weights: an exported model knows what it is")
    if weights is not None and (model_name is None or model_dir is not None):
        raise ParameterError("--weights needs --model, the model they are of, and no --model-dir")
    if weights is not None and running != Running(device=running.device):
        raise ParameterError("--weights are run by torch: of the options of running a model, only --device applies")
    record = jobs.result_file(output, "evaluate")
    jobs.clear_result(record)
    if weights is not None:
        from maskline.training import devices

        running = Running(device=devices.settle(running.device))
    elif running.device is not None:
        running = replace(running, device=device_text(running.devices()))
    dataset = load_split(folder, split, data_format, images)
    check_folder(output)
    if weights is not None:
        from maskline.training.validate import evaluate_weights

        assert model_name is not None
        found = evaluate_weights(
            model_name,
            weights,
            dataset,
            output,
            device=running.device,
            max_detections=max_detections,
            threshold=threshold,
            unaligned=unaligned,
        )
    else:
        model = running.model(model_name, model_dir)
        found = evaluate_model(
            model,
            dataset,
            output,
            batch_size=model.batch_size,
            max_detections=max_detections,
            threshold=threshold,
        )
    jobs.write_result(record, found.to_dict())
    click.echo(found.summary())
    click.echo(f"report: {output / found.files['report']}", err=True)


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.argument("folder", metavar="DATA", type=click.Path(path_type=Path))
@dataset_options
@click.option("--split", default="val", show_default=True, help="Split that both were evaluated on.")
@click.option(
    "--resamples",
    type=int,
    default=1000,
    show_default=True,
    help="Bootstrap resamples; more give a more stable interval.",
)
@click.option(
    "--max-detections", type=int, default=100, show_default=True, help="Most detections counted per class and image."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed of the resampling.")
def compare(
    a: Path,
    b: Path,
    folder: Path,
    data_format: str | None,
    images: Path | None,
    split: str,
    resamples: int,
    max_detections: int,
    seed: int,
) -> None:
    """Test whether model B is significantly better than model A, with a paired bootstrap over images.

    A and B are output folders of `maskline evaluate`, or files of detections in COCO format.
    """
    from maskline.evaluate import load_split
    from maskline.evaluate.compare import compare as compare_detections

    dataset = load_split(folder, split, data_format, images)
    with status("resampling"):
        found = compare_detections(a, b, dataset, resamples=resamples, seed=seed, max_detections=max_detections)
    click.echo(found.summary())


@click.command()
@click.argument("model_name", metavar="MODEL")
@click.option("--weights", metavar="FILE", help="A .pdparams or .safetensors file. Default: the official weights.")
@click.option("--output", required=True, type=click.Path(file_okay=False), metavar="DIR", help="Folder to write to.")
@click.option("--labels", "labels_file", metavar="FILE", help="File of class names, one per line. Default: COCO's.")
@click.option("--threshold", type=float, default=0.5, show_default=True, help="Score threshold of the exported model.")
@click.option(
    "--format", default="onnx", show_default=True, help="onnx, ort or openvino: the runtime that opens it; or triton."
)
@click.option("--batch", default="dynamic", show_default=True, metavar="1|dynamic", help="Batch size of the graph.")
@click.option("--size", metavar="HxW", help="Fixed input size, such as 640x640, for models that allow any size.")
@click.option(
    "--int8", metavar="DIR", help="Run convolutions in 8 bits, calibrated on this data set or folder of images."
)
@click.option("--half", is_flag=True, help="Store weights in half precision: half the size, the same speed.")
@click.option("--unaligned", is_flag=True, help=UNALIGNED)
def export(
    model_name: str,
    weights: str | None,
    output: str,
    labels_file: str | None,
    threshold: float,
    format: str,
    batch: str,
    size: str | None,
    int8: str | None,
    half: bool,
    unaligned: bool,
) -> None:
    """Export weights to a model directory that predicts without torch: a graph and inference.yml.

    With --format triton, write a model repository for Triton Inference Server.
    """
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
            format=format,
            batch=batch,
            size=size,
            int8=int8,
        )
    from maskline.exporting import ExportOptions

    target = ExportOptions.of(format)
    model_dir = target.model_dir(folder)
    if int8 is not None:
        from maskline.exporting import cost

        click.echo(cost.read(model_dir).summary())
    proved = "checked against the network" if int8 is None else "measured against float32"
    click.echo(f"{model_dir}: {target.file} and inference.yml, {proved}", err=True)
    if model_dir != folder:
        click.echo(f"{folder}: a model repository for `tritonserver --model-repository`", err=True)
