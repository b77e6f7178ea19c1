"""What a run leaves for programs: ``train_results.json`` (and ``train_result.json``, as the documents call it)."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from maskline._files import replace_file
from maskline.training import checkpoint
from maskline.training.logger import CURVES_FILE, FILES, LOG_FILE, TENSORBOARD_FOLDER
from maskline.training.settings import TrainSettings

logger = logging.getLogger("maskline")

NAMES = ("train_result.json", "train_results.json")
CONFIG_FILE = "config.yaml"
LISTED = 5  # checkpoints, beside the best


def begin(settings: TrainSettings, labels: tuple[str, ...], epochs: int) -> None:
    """Make the output folder ready for a run that has finished so many epochs; what is not of it moves away."""
    output = settings.output
    output.mkdir(parents=True, exist_ok=True)
    checkpoint.clear(output)
    if settings.resume is None:
        names = (checkpoint.FINAL, checkpoint.BEST, CONFIG_FILE, *NAMES, *FILES)
        earlier = checkpoint.set_aside(output, [*checkpoint.numbered(output), *(output / n for n in names)])
    else:
        earlier = checkpoint.set_aside(output, checkpoint.later_than(output, epochs))
    if earlier is not None:
        logger.info("%s holds an earlier run: moved to %s", output, earlier)
    values = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(settings).items()}
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    replace_file(output / CONFIG_FILE, lambda file: file.write_text(text, encoding="utf-8"))
    write(settings, labels, done=False)


def write(settings: TrainSettings, labels: tuple[str, ...], *, done: bool) -> dict[str, Any]:
    """Write both files with what is there, and return their content. Paths are relative to the output folder."""
    output = settings.output
    final = output / checkpoint.FINAL
    newest = [*([final] if final.is_dir() else []), *checkpoint.numbered(output)][:LISTED]
    listed = {f"last_{i + 1}": _model(newest[i], output) if i < len(newest) else {} for i in range(LISTED)}
    best = output / checkpoint.BEST
    content = {
        "model_name": settings.model,
        "label_dict": "",
        "labels": list(labels),
        "visualdl_log": "",
        "tensorboard_log": TENSORBOARD_FOLDER,
        "train_log": LOG_FILE,
        "config": CONFIG_FILE,
        "curves": _there(output / CURVES_FILE, output),
        "models": {**listed, "best": _model(best, output) if best.is_dir() else {}},
        "done_flag": done,
    }
    text = json.dumps(content, indent=2, ensure_ascii=False).replace("/", "\\/") + "\n"
    for name in NAMES:
        replace_file(output / name, lambda file: file.write_text(text, encoding="utf-8"))
    return content


def _model(folder: Path, output: Path) -> dict[str, Any]:
    """A checkpoint's files: under the reference's keys those that play the part, then our own."""
    name, inference = folder.name, folder / "inference"
    progress = checkpoint.read(folder)
    scores = [entry["AP"] for entry in progress.history if entry["epoch"] == progress.epochs - 1]
    weights, state = folder / f"{name}.safetensors", folder / f"{name}.state.safetensors"
    if name == checkpoint.BEST and progress.best is not None:
        scores = [progress.best["AP"]]
    return {
        "score": scores[0] if scores else None,
        "epoch": progress.epochs - 1,
        "pdparams": _there(weights, output),
        "pdopt": _there(state, output),
        "pdstates": _there(folder / f"{name}.json", output),
        "pdema": _there(state, output),
        "inference_config": _there(inference / "inference.yml", output),
        "pdmodel": _there(inference / "inference.onnx", output),
        "pdiparams": _there(inference / "inference.onnx", output),
        "pdiparams.info": "",
        "safetensors": _there(weights, output),
        "onnx": _there(inference / "inference.onnx", output),
    }


def _there(path: Path, output: Path) -> str:
    """The path below the output folder; empty if there is nothing."""
    return path.relative_to(output).as_posix() if path.exists() else ""
