"""Commands that make and measure models: train, evaluate, compare, export."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import click

from maskline.cli.dataset_options import dataset_options
from maskline.cli.running import Running, running_options
from maskline.errors import ParameterError
from maskline.progress import status

UNALIGNED = "For Mask R-CNN weights that PaddleDetection has trained since August 2024. Files of ours know."


@click.command()
@click.argument("model_name", metavar="MODEL")
@click.argument("folder", metavar="DATA", type=click.Path(path_type=Path))
@dataset_options
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
    drop_background: bool,
    seed: int,
    unaligned: bool,
) -> None:
    """Train a model on a data set, evaluate it as it learns, and export the best.

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
        drop_background=drop_background,
        seed=seed,
        unaligned=unaligned,
    )
    written_to = output if resume is None else find(resume).parent  # before the run, which prunes checkpoints
    best = train_model(settings)["models"]["best"]
    told = "" if best["score"] is None else f", mask AP {best['score']:.3f} on val"
    click.echo(f"{written_to / best['onnx']}: the weights of epoch {best['epoch']}{told}")


@click.command()
@click.argument("folder", metavar="DATA", type=click.Path(path_type=Path))
@dataset_options
@click.option("--model", "model_name", metavar="NAME", help="A model of `maskline models`.")
@click.option("--model-dir", metavar="DIR", help="An exported model.")
@click.option("--weights", type=click.Path(path_type=Path), metavar="FILE", help="Weights of --model, not exported.")
@click.option("--split", default="val", show_default=True, help="Of the data set.")
@click.option("--output", default="output", show_default=True, type=click.Path(path_type=Path), help="For the report.")
@click.option("--max-detections", type=int, default=100, show_default=True, help="Of a class in an image; COCO's: 100.")
@click.option("--threshold", type=float, help="Score at which errors are counted. Default: that with the best F1.")
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
    """Measure a model on a data set: COCO's figures, curves, and the worst images to look at.

    Writes evaluate_result.json, evaluate/report.html, and evaluate/detections.json for `maskline compare`.
    """
    from maskline import engine
    from maskline.evaluate import evaluate_model, load_split
    from maskline.naming import check_folder

    dataset = load_split(folder, split, data_format, images)
    check_folder(output)
    if unaligned and weights is None:
        raise ParameterError("--unaligned is for --weights: an exported model knows what it is")
    if weights is not None:
        from maskline.train.validate import evaluate_weights

        if model_name is None or model_dir is not None:
            raise ParameterError("--weights needs --model, the model they are of, and no --model-dir")
        if running != Running(device=running.device):
            raise ParameterError("--weights are run by torch: of the options of running a model, only --device applies")
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
    engine.write_result(output / "evaluate_result.json", found.to_dict())
    click.echo(found.summary())
    click.echo(f"report: {output / found.files['report']}", err=True)


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.argument("folder", metavar="DATA", type=click.Path(path_type=Path))
@dataset_options
@click.option("--split", default="val", show_default=True, help="Of the data set that both were measured on.")
@click.option("--resamples", type=int, default=1000, show_default=True, help="More make the interval steadier.")
@click.option("--max-detections", type=int, default=100, show_default=True, help="Of a class in an image.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the resampling.")
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
    """Tell whether model B is better than model A by more than chance: a paired bootstrap over images.

    A and B are folders of `maskline evaluate`, or files of detections in COCO's form.
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
@click.option("--output", required=True, type=click.Path(file_okay=False), metavar="DIR", help="Where to write it.")
@click.option("--labels", "labels_file", metavar="FILE", help="Class names, one on each line. Default: COCO's.")
@click.option("--threshold", type=float, default=0.5, show_default=True, help="The model's own score threshold.")
@click.option(
    "--format", default="onnx", show_default=True, help="onnx, ort or openvino: the runtime that opens it; or triton."
)
@click.option("--batch", default="dynamic", show_default=True, metavar="1|dynamic", help="Images of one run.")
@click.option("--size", metavar="HxW", help="A fixed input, such as 640x640, where the model leaves it free.")
@click.option(
    "--int8", metavar="DIR", help="Convolutions in 8 bits, calibrated with this data set or folder of pictures."
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
    """Turn weights into a model directory, which predicts without torch: a graph, and inference.yml beside it.

    The format triton is a model repository for Triton Inference Server, with such a directory in it.
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
    from maskline.exporting import Target

    target = Target.of(format)
    model_dir = target.model_dir(folder)
    if int8 is not None:
        from maskline.exporting import cost

        click.echo(cost.read(model_dir).summary())
    proved = "checked against the network" if int8 is None else "measured against float32"
    click.echo(f"{model_dir}: {target.file} and inference.yml, {proved}", err=True)
    if model_dir != folder:
        click.echo(f"{folder}: a model repository for `tritonserver --model-repository`", err=True)
