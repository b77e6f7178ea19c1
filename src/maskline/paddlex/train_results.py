"""``train_results.json``: the checkpoints of a training run and their scores, under PaddleX's keys and some of ours.

PaddleX's documents call it ``train_result.json``, so it is written under both names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskline._files import replace_file
from maskline.outputs.paths import TRAIN_RESULTS

if TYPE_CHECKING:
    from maskline.training import TrainResult

NUM_LISTED = 5  # checkpoints, besides the best


def write(result: TrainResult) -> None:
    """Write both files into the folder of a run; paths in them are relative to it. A `maskline.training.Report`.

    Raises:
        OutputError: they can't be written.
    """
    content = json_text(_content(result))
    for name in TRAIN_RESULTS:
        replace_file(result.output / name, lambda file: file.write_bytes(content))


def json_text(content: Any) -> bytes:
    """JSON as PaddleX's ``ujson`` writes it: a backslash before each slash."""
    text = json.dumps(content, indent=2, ensure_ascii=False).replace("/", "\\/") + "\n"
    return text.encode("utf-8", "backslashreplace")  # half a surrogate, from a name that is not UTF-8, as \\udcxx


def _content(result: TrainResult) -> dict[str, Any]:
    from maskline.training import checkpoint
    from maskline.training.logger import CURVES_FILE, LOG_FILE, TENSORBOARD_FOLDER
    from maskline.training.results import CONFIG_FILE

    output, last, best = result.output, result.last_checkpoint, result.best_checkpoint
    newest = [*([last] if last.is_dir() else []), *checkpoint.numbered(output)][:NUM_LISTED]
    listed = [_model(folder, output) for folder in newest] + [{}] * (NUM_LISTED - len(newest))
    models = {f"last_{number}": model for number, model in enumerate(listed, 1)}
    return {
        "model_name": result.model,
        "label_dict": "",
        "labels": list(result.labels),
        "visualdl_log": "",
        "tensorboard_log": TENSORBOARD_FOLDER,
        "train_log": LOG_FILE,
        "config": CONFIG_FILE,
        "curves": _there(output / CURVES_FILE, output),
        "models": {**models, "best": _model(best, output) if best.is_dir() else {}},
        "done_flag": result.done,
    }


def _model(folder: Path, output: Path) -> dict[str, Any]:
    """A checkpoint's files: under PaddleX's keys those that play the part, then our own."""
    from maskline.training import checkpoint

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
