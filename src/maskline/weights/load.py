"""Load weights files into networks; every key has to match."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskline import catalog, models
from maskline._files import replace_file
from maskline.errors import ParameterError, WeightsError
from maskline.models import NO_OVERRIDES
from maskline.models.families import family_of
from maskline.models.network import Network
from maskline.weights.arrays import differences, misfit, read_arrays, weights_path

METADATA = "maskline"  # key of our metadata in a weights file


def load_network(name: str, path: Path | str, overrides: Mapping[str, Any] = NO_OVERRIDES) -> Network:
    """Build a catalog network from a weights file, in eval mode; the number of classes is the file's.

    Args:
        name: a model in the catalog.
        path: ``.pdparams`` of PaddleDetection, or ``.safetensors`` of `save_weights`.
        overrides: values for fields of the network's configuration that the weights were trained with; they take
            precedence over those in the file.

    Raises:
        ParameterError: the configuration has no such field.
        InputNotFoundError: no such file.
        WeightsError: damaged or unsafe file, or weights of another network; the message lists all missing, unexpected
            and misshapen keys, and the catalog model that the weights fit, if any.
    """
    spec = catalog.get(name)
    state, names_in_file = read_state(spec, Path(path))
    network = empty_network(spec.name, state, {**config_in_file(weights_path(Path(path)), spec.name), **overrides})
    faults = mismatches(network, state, names_in_file)
    if faults:
        others = [m.name for m in catalog.MODELS.values() if m.family == spec.family and m.name != spec.name]
        alike = next((other for other in others if not mismatches(empty_network(other, state), state)), None)
        raise misfit(Path(path), spec.name, faults, alike)
    network.load_state_dict(state, strict=False, assign=True)
    return network.eval()


def save_weights(
    state: Mapping[str, Tensor],
    path: Path,
    model: str,
    labels: Sequence[str],
    weights_config: Mapping[str, Any] = NO_OVERRIDES,
) -> None:
    """Write weights as safetensors, with metadata. Batch norms' ``num_batches_tracked`` are left out.

    Args:
        model: name in the catalog.
        labels: class names.
        weights_config: see `Network.weights_config`.

    Raises:
        OutputError: the file can't be written.
    """
    kept = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    about = {"model": model, "labels": list(labels)} | (
        {"weights_config": dict(weights_config)} if weights_config else {}
    )
    metadata = {METADATA: json.dumps(about)}  # one key, because the order of several would vary
    replace_file(path, lambda file: write_safetensors(kept, file, metadata))


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, about: dict[str, str] | None = None) -> None:
    """Write tensors to ``path``, with metadata. Raises OSError, also if the disk is full."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=about)
        path.chmod(0o644)  # safetensors creates it readable by the owner only
    except SafetensorError as error:  # also for a full disk
        raise OSError(str(error)) from error


def labels_in_file(path: Path) -> tuple[str, ...] | None:
    """Return the class names in a weights file, None if it has none."""
    labels = _about(path).get("labels")
    return tuple(map(str, labels)) if isinstance(labels, list) else None


def config_in_file(path: Path, model: str) -> dict[str, Any]:
    """Return `Network.weights_config` from one of our files; empty for PaddleDetection's.

    Raises:
        WeightsError: the model's configuration has no such field.
    """
    config = weights_config(_about(path))
    try:
        family_of(model).config(model, config)
    except ParameterError as error:
        raise WeightsError(
            f"{path} was trained with another configuration than {model} has in this version: {error}"
        ) from None
    return config


def weights_config(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return `Network.weights_config` from metadata. Early files have the key ``unaligned`` instead."""
    stored = about.get("weights_config")
    if isinstance(stored, dict):
        return stored
    return {"aligned": False} if about.get("unaligned") is True else {}


def _about(path: Path) -> Mapping[str, Any]:
    """Our metadata in a weights file; empty for other files."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})[METADATA])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return {}
    return about if isinstance(about, dict) else {}


def read_state(spec: catalog.Model, path: Path, *, part: str = "") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read weights as float32, under our names and in our layout; also return the file's names where they differ.

    Args:
        part: module that the file may contain alone, without prefix, such as ``backbone``.
    """
    path = weights_path(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path), {}
    layers = dict(empty_network(spec.name, {}).named_modules())
    arrays, names_in_file = read_arrays(
        path,
        family_of(spec.name).rename,
        lambda name: isinstance(layers.get(name.rpartition(".")[0]), nn.Linear),
        part=part,
    )
    return {name: torch.from_numpy(array) for name, array in arrays.items()}, names_in_file


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {k: v.float() for k, v in load_file(path).items()}
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a readable safetensors file ({error}): download or save it again") from error


def mismatches(
    network: nn.Module, state: Mapping[str, Tensor], names_in_file: Mapping[str, str] | None = None
) -> list[str]:
    """List the keys of a state that don't match a network, a line each; empty if it fits."""
    expected = {k: v.shape for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    return differences(expected, {k: v.shape for k, v in state.items()}, names_in_file)


def empty_network(name: str, state: Mapping[str, Tensor], overrides: Mapping[str, Any] = NO_OVERRIDES) -> Network:
    """Build a network on the meta device, with the state's number of classes (80 if it has no class parameter).

    Only ``num_batches_tracked`` are real tensors.
    """
    per_class = state.get(family_of(name).class_parameter)
    classes = len(catalog.COCO_CLASSES) if per_class is None or per_class.ndim == 0 else len(per_class)
    with torch.device("meta"):
        network = models.build(name, max(classes, 1), overrides)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked = torch.zeros((), dtype=torch.int64)
    return network
