"""Checkpoints: weights to use, and all that a run needs to go on as if it had never stopped.

A checkpoint is a folder, ``<output>/<epoch>``, ``<output>/model_final`` or ``<output>/best_model``::

    <name>.safetensors         weights for prediction (the running average where there is one), with class names
    <name>.state.safetensors   weights in training, and the optimizer's moments; not in best_model
    <name>.json                how far the run is, its settings, what it reached

It is written beside its place and then renamed, so there is never half of one. No state of random generators is kept,
because none matters: every draw depends on the seed, the step and the process alone.
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
    """How far a run is.

    Attributes:
        epochs: finished.
        steps: of the optimizer.
        losses: mean of each epoch.
        history: of each evaluation, its ``epoch`` (from 0) and its metrics.
        updates: of the running average.
        scaler: state of the gradient scaler (fp16).
        settings: of the run, for people and for resuming.
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
        """Evaluations since the best one."""
        return 0 if self.best is None else len(self.history) - 1 - self.history.index(self.best)


def best_evaluation(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The evaluation with the highest AP, the latest of equal ones; None if there is none."""
    return max(reversed(history), key=lambda entry: entry["AP"], default=None)


@dataclass(frozen=True, slots=True)
class State:
    """What changes while a network learns."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: ModelEma | None

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name, not copied."""
        found = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for name, slots in self._slots().items():
            found |= {f"optimizer.{name}.{slot}": tensor for slot, tensor in slots.items()}
        if self.average is not None:
            found |= {f"average.{name}": tensor for name, tensor in self.average.weights.items()}
        return found

    def weights(self) -> dict[str, Tensor]:
        """The weights for prediction."""
        weights: dict[str, Tensor] = self.network.state_dict()
        return weights if self.average is None else weights | self.average.weights

    def restore(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Take all of it from a checkpoint of the same network."""
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
        if self.average is not None:
            self.average.updates = updates
            for name, tensor in self.average.weights.items():
                tensor.copy_(parts["average"][name])

    def _slots(self) -> dict[str, dict[str, Tensor]]:
        return {
            name: {slot: t for slot, t in self.optimizer.state[p].items() if isinstance(t, Tensor)}
            for name, p in self.network.named_parameters()
            if p in self.optimizer.state
        }


def save(folder: Path, state: State, progress: Progress, labels: tuple[str, ...], *, resumable: bool = True) -> None:
    """Write a checkpoint, in place of one that is there.

    Raises:
        OutputError: it can't be written; what was there is left.
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
    """Wait until a file would outlive a loss of power."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _put(temporary: Path, folder: Path) -> None:
    """Give a folder its name; an older one of that name goes."""
    old = folder.parent / f".{secrets.token_hex(8)}.tmp"
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def find(path: Path) -> Path:
    """The newest complete checkpoint that can be resumed.

    Args:
        path: a checkpoint's folder, a file in it, or a run's output folder.

    Raises:
        InputNotFoundError: there is none.
    """
    folder = (
        path.parent if path.suffix and not path.is_dir() else path
    )  # the reference names a file, NAME/NAME.pdparams
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


def read(folder: Path) -> Progress:
    """How far the run of a checkpoint was.

    Raises:
        WeightsError: it can't be read.
    """
    path = folder / f"{folder.name}.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("version") != VERSION:
            raise ValueError("written by another version")
        values.setdefault("weights_config", weights_config(values["settings"]))  # where early versions had it
        progress = Progress(**values)
        return replace(progress, losses=tuple(progress.losses), history=tuple(progress.history))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"{path} can't be used ({error}): name another checkpoint") from None


def restore(folder: Path, state: State) -> Progress:
    """Put a checkpoint into a network, its optimizer and its running average.

    Raises:
        WeightsError: it can't be read, or is of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    progress, path = read(folder), folder / f"{folder.name}.state.safetensors"
    try:
        state.restore(load_file(path), progress.updates)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        told = str(error).splitlines()[0]
        raise WeightsError(
            f"{path} can't be resumed ({told}): expected a checkpoint of this model and data set"
        ) from None
    return progress


def clear(output: Path) -> None:
    """Remove what a killed run has left half written."""
    for path in output.glob(".*.tmp"):
        if re.fullmatch(r"\.[0-9a-f]{16}\.tmp", path.name):
            shutil.rmtree(path, ignore_errors=True)


def numbered(output: Path) -> list[Path]:
    """Checkpoints of finished epochs, the newest first."""
    return sorted((p for p in output.iterdir() if p.name.isdigit()), key=lambda p: int(p.name), reverse=True)


def later_than(output: Path, epochs: int) -> list[Path]:
    """Checkpoints, the best included, of more epochs than these."""
    folders = [*numbered(output), *(output / name for name in (FINAL, BEST) if (output / name).is_dir())]
    return [folder for folder in folders if read(folder).epochs > epochs]


def set_aside(output: Path, paths: Iterable[Path]) -> Path | None:
    """Move what an earlier run has left, if anything, into a folder of its own.

    Returns:
        That folder.

    Raises:
        OutputError: it can't be moved.
    """
    there = sorted(path for path in paths if path.exists())
    if not there:
        return None
    folder = next(f for i in count(1) if not (f := output / f"earlier_run_{i}").exists())
    try:
        folder.mkdir()
        for path in there:
            path.rename(folder / path.name)
    except OSError as error:
        raise OutputError(f"the earlier run in {output} can't be moved to {folder}: {error.strerror}") from None
    return folder


def prune(output: Path, keep: int) -> None:
    """Remove old checkpoints of finished epochs: the newest ``keep`` stay, and of these only the newest can resume."""
    folders = numbered(output)
    for folder in folders[1:]:
        (folder / f"{folder.name}.state.safetensors").unlink(missing_ok=True)
    for folder in folders[keep:]:
        shutil.rmtree(folder, ignore_errors=True)
