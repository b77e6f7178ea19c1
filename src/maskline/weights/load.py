"""Load weights files into networks; every key has to match."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from maskline import catalog, models
from maskline._files import replace_file
from maskline.errors import InputNotFoundError, ParameterError, WeightsError
from maskline.models import NO_OVERRIDES
from maskline.models.families import family_of
from maskline.models.family import Rules
from maskline.models.network import Network
from maskline.weights.pdparams import read_pdparams

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
        advice = f"these are the weights of {alike}: name that model" if alike else "give the weights of that model"
        raise WeightsError("\n  ".join([f"{path} does not fit {spec.name}: {_summary(faults)}; {advice}", *faults]))
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
    arrays = read_pdparams(path)
    if part and not any(name.startswith(f"{part}.") for name in arrays):
        arrays = {f"{part}.{name}": array for name, array in arrays.items()}
    renamed = rename_keys(
        list(arrays), family_of(spec.name).rename, same=lambda a, b: np.array_equal(arrays[a], arrays[b])
    )
    layers = dict(empty_network(spec.name, {}).named_modules())
    state = {}
    for old, new in renamed.items():
        tensor = torch.from_numpy(arrays[old])
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        linear = isinstance(layers.get(new.rpartition(".")[0]), nn.Linear) and tensor.ndim == 2
        state[new] = tensor.T.contiguous() if linear else tensor  # Paddle's layout is (in, out)
    return state, {new: old for old, new in renamed.items() if new != old}


def weights_path(path: Path) -> Path:
    """Return the path, or ``NAME.safetensors`` next to it if ``NAME.pdparams`` does not exist.

    Raises InputNotFoundError if neither exists.
    """
    for candidate in (path, path.with_suffix(".safetensors")):
        if candidate.is_file():
            return candidate
    raise InputNotFoundError(f"no weights file {path}: give a .pdparams or .safetensors file")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {k: v.float() for k, v in load_file(path).items()}
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a readable safetensors file ({error}): download or save it again") from error


def rename_keys(
    names: list[str], rules: Rules, same: Callable[[str, str], bool] = lambda one, other: False
) -> dict[str, str]:
    """Map old names to new ones; two may not become one.

    Args:
        same: whether the weights of two old names are equal. These may become one; the later name is left out.

    Raises:
        WeightsError: two names with different weights become one.
    """
    renamed: dict[str, str] = {}
    taken: dict[str, str] = {}
    for old in names:
        new = old
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        if new in taken and same(taken[new], old):
            continue
        if new in taken:
            raise WeightsError(f"weights {taken[new]!r} and {old!r} are both called {new!r} here")
        renamed[old], taken[new] = new, old
    return renamed


def mismatches(
    network: nn.Module, state: Mapping[str, Tensor], names_in_file: Mapping[str, str] | None = None
) -> list[str]:
    """List the keys of a state that don't match a network, a line each; empty if it fits."""
    expected = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    named = {k: f"{k} ({old} in the file)" for k, old in (names_in_file or {}).items()}
    faults = [f"missing: {k} {list(v.shape)}" for k, v in expected.items() if k not in state]
    faults += [f"unexpected: {named.get(k, k)} {list(v.shape)}" for k, v in state.items() if k not in expected]
    faults += [
        f"misshapen: {named.get(k, k)} is {list(state[k].shape)}, expected {list(v.shape)}"
        for k, v in expected.items()
        if k in state and state[k].shape != v.shape
    ]
    return faults


def _summary(faults: list[str]) -> str:
    counts = {kind: sum(f.startswith(kind) for f in faults) for kind in ("missing", "unexpected", "misshapen")}
    return ", ".join(f"{n} {kind}" for kind, n in counts.items()) + " keys"


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
