"""Checkpoints: weights, and the state that a run needs to resume exactly.

A checkpoint is a folder, ``<output>/<epoch>``, ``<output>/model_final`` or ``<output>/best_model``::

    <name>.safetensors         weights for prediction (the EMA if there is one), with class names
    <name>.state.safetensors   training weights and optimizer state; not in best_model
    <name>.json                progress, settings and results of the run

It is written next to its final path and renamed, so it is never partial. There is no state of random generators,
because every draw depends only on seed, step and process.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskline.errors import InputNotFoundError, OutputError, WeightsError
from maskline.training.optim import ModelEma
from maskline.weights.load import save_weights, weights_config, write_safetensors

VERSION = 1
FINAL, BEST = "model_final", "best_model"


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a run.

    Attributes:
        epochs: finished epochs.
        steps: optimizer steps.
        losses: mean loss of each epoch.
        history: ``epoch`` (from 0) and metrics of each evaluation.
        updates: updates of the EMA.
        scaler: state of the gradient scaler (fp16).
        settings: settings of the run.
        weights_config: see `Network.weights_config`.
        data: fingerprint of the training data.
    """

    epochs: int = 0
    steps: int = 0
    losses: tuple[float, ...] = ()
    history: tuple[Mapping[str, Any], ...] = ()
    updates: int = 0
    scaler: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights_config: Mapping[str, Any] = field(default_factory=dict)
    data: str = ""

    @property
    def best(self) -> Mapping[str, Any] | None:
        """See `best_evaluation`."""
        return best_evaluation(self.history)

    @property
    def since_best(self) -> int:
        """Number of evaluations since the best one."""
        return 0 if self.best is None else len(self.history) - 1 - self.history.index(self.best)


def best_evaluation(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the evaluation with the highest AP, the latest on ties; None if there is none."""
    return max(reversed(history), key=lambda entry: entry["AP"], default=None)


@dataclass(frozen=True, slots=True)
class State:
    """State that training changes."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    ema: ModelEma | None

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, without copies."""
        found = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for name, slots in self._slots().items():
            found |= {f"optimizer.{name}.{slot}": tensor for slot, tensor in slots.items()}
        if self.ema is not None:
            found |= {f"average.{name}": tensor for name, tensor in self.ema.weights.items()}
        return found

    def weights(self) -> dict[str, Tensor]:
        """Return the weights for prediction."""
        weights: dict[str, Tensor] = self.network.state_dict()
        return weights if self.ema is None else weights | self.ema.weights

    def restore(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Restore from the tensors of a checkpoint of the same network."""
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "optimizer": {}, "average": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        self.network.load_state_dict(parts["network"])
        by_name = dict(self.network.named_parameters())
        for name, tensor in parts["optimizer"].items():
            parameter, _, slot = name.rpartition(".")
            here = tensor if slot == "step" else tensor.to(by_name[parameter].device)
            self.optimizer.state[by_name[parameter]][slot] = here
        if self.ema is not None:
            self.ema.updates = updates
            for name, tensor in self.ema.weights.items():
                tensor.copy_(parts["average"][name])

    def _slots(self) -> dict[str, dict[str, Tensor]]:
        return {
            name: {slot: t for slot, t in self.optimizer.state[p].items() if isinstance(t, Tensor)}
            for name, p in self.network.named_parameters()
            if p in self.optimizer.state
        }


def save(folder: Path, state: State, progress: Progress, labels: tuple[str, ...], *, resumable: bool = True) -> None:
    """Write a checkpoint; replaces an existing one.

    Raises:
        OutputError: it can't be written; an existing one is kept.
    """
    temporary = folder.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        temporary.mkdir(parents=True)
        model = str(progress.settings["model"])
        save_weights(state.weights(), temporary / f"{folder.name}.safetensors", model, labels, progress.weights_config)
        if resumable:
            _save_state(state, temporary / f"{folder.name}.state.safetensors")
        about = json.dumps({"version": VERSION, **asdict(progress)}, indent=2, ensure_ascii=False, default=str)
        (temporary / f"{folder.name}.json").write_text(about + "\n", encoding="utf-8")
        for file in temporary.iterdir():
            _to_disk(file)
        _put(temporary, folder)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"checkpoint {folder} can't be written: {reason}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _save_state(state: State, path: Path) -> None:
    write_safetensors(state.tensors(), path)


def _to_disk(path: Path) -> None:
    """Flush a file to disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _put(temporary: Path, folder: Path) -> None:
    """Rename a folder; replaces an existing one."""
    old = folder.parent / f".{secrets.token_hex(8)}.tmp"
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def find(path: Path) -> Path:
    """Find the newest complete, resumable checkpoint.

    Args:
        path: a checkpoint's folder, a file in it, or a run's output folder.

    Raises:
        InputNotFoundError: the checkpoint does not exist.
    """
    folder = path.parent if path.suffix and not path.is_dir() else path  # PaddleX gives a file, NAME/NAME.pdparams
    found = [folder, *folder.iterdir()] if folder.is_dir() else []
    usable = {folder: read(folder) for folder in found if _is_resumable(folder)}
    if not usable:
        raise InputNotFoundError(
            f"no checkpoint to resume at {path}: expected the output folder of a training run, or NAME/NAME.json and "
            "NAME/NAME.state.safetensors in it"
        )
    return max(usable, key=lambda folder: (usable[folder].epochs, folder.name))


def _is_resumable(folder: Path) -> bool:
    name = folder.name
    return not name.startswith(".") and all(
        (folder / f"{name}{end}").is_file() for end in (".json", ".state.safetensors")
    )


def weights_file(folder: Path) -> Path:
    """The weights of a checkpoint; those of the EMA where the model has one."""
    return folder / f"{folder.name}.safetensors"


def read(folder: Path) -> Progress:
    """Read the progress of a checkpoint.

    Raises:
        WeightsError: it can't be read.
    """
    path = folder / f"{folder.name}.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("version") != VERSION:
            raise ValueError("written by another version")
        values.setdefault("weights_config", weights_config(values.get("settings", {})))  # where early versions have it
        progress = Progress(**values)
        return replace(progress, losses=tuple(progress.losses), history=tuple(progress.history))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"{path} can't be used ({error}): give another checkpoint") from None


def restore(folder: Path, state: State) -> Progress:
    """Restore network, optimizer and EMA from a checkpoint.

    Raises:
        WeightsError: it can't be read, or is of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    progress, path = read(folder), folder / f"{folder.name}.state.safetensors"
    try:
        state.restore(load_file(path), progress.updates)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(
            f"{path} can't be resumed ({reason}): expected a checkpoint of this model and data set"
        ) from None
    return progress


def clear(output: Path) -> None:
    """Remove partial checkpoints of a killed run."""
    for path in output.glob(".*.tmp"):
        if re.fullmatch(r"\.[0-9a-f]{16}\.tmp", path.name):
            shutil.rmtree(path, ignore_errors=True)


def numbered(output: Path) -> list[Path]:
    """Return the checkpoints of epochs, newest first."""
    return sorted((p for p in output.iterdir() if p.name.isdigit()), key=lambda p: int(p.name), reverse=True)


def later_than(output: Path, epochs: int) -> list[Path]:
    """Return the checkpoints, final and best included, after more epochs than these."""
    folders = [*numbered(output), *(output / name for name in (FINAL, BEST) if (output / name).is_dir())]
    return [folder for folder in folders if read(folder).epochs > epochs]


def set_aside(output: Path, paths: Iterable[Path]) -> Path | None:
    """Move the files of an earlier run to a new folder.

    Returns:
        The folder; None if there are no such files.

    Raises:
        OutputError: they can't be moved.
    """
    existing = sorted(path for path in paths if path.exists())
    if not existing:
        return None
    folder = next(f for i in count(1) if not (f := output / f"earlier_run_{i}").exists())
    try:
        folder.mkdir()
        for path in existing:
            path.rename(folder / path.name)
    except OSError as error:
        raise OutputError(f"the earlier run in {output} can't be moved to {folder}: {error.strerror}") from None
    return folder


def prune(output: Path, keep: int) -> None:
    """Keep the newest ``keep`` checkpoints of epochs; only the newest stays resumable."""
    folders = numbered(output)
    for folder in folders[1:]:
        (folder / f"{folder.name}.state.safetensors").unlink(missing_ok=True)
    for folder in folders[keep:]:
        shutil.rmtree(folder, ignore_errors=True)
