"""Initial weights of a run: official or other weights, a pretrained backbone, or none."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from maskline import catalog, hub, models
from maskline._wording import counted
from maskline.errors import ParameterError, WeightsError
from maskline.fetching.download import cache_dir, download_file
from maskline.inputs.web import is_url, place
from maskline.models.families import family_of, overrides_of
from maskline.models.network import Network
from maskline.training.settings import BACKBONE, OFFICIAL, SCRATCH, TrainSettings
from maskline.weights.arrays import weights_path
from maskline.weights.load import config_in_file, empty_network, labels_in_file, mismatches, read_state

logger = logging.getLogger("maskline")

PART = "backbone"  # module of every network


def new_network(settings: TrainSettings, labels: Sequence[str]) -> Network:
    """Build the network with its initial weights.

    Args:
        labels: class names of the data set.

    Raises:
        ParameterError: settings say unaligned, but the model has no RoIAlign.
        DownloadError, InputNotFoundError, WeightsError: the weights are unavailable, or are of another network.
    """
    spec = catalog.get(settings.model)
    overrides, path = overrides_of(spec.name, unaligned=settings.unaligned), None
    if settings.weights not in (SCRATCH, BACKBONE):
        path = weights_path(initial_weights_file(settings.weights, spec))
        overrides = {**config_in_file(path, spec.name), **overrides}
    torch.manual_seed(settings.seed)
    network = models.build(spec.name, len(labels), overrides)
    if settings.weights == SCRATCH:
        logger.info("starting from scratch: %s with random weights", spec.name)
    elif settings.weights == BACKBONE:
        _load_backbone(network, spec)
    elif path is not None:
        state, _ = read_state(spec, path)
        notes = load_with_classes(network, state, path, spec, labels, labels_in_file(path))
        logger.info("starting from %s", path)
        for note in notes:
            logger.info("%s", note)
    return network


def initial_weights_file(weights: str, spec: catalog.Model) -> Path:
    """Return the file of the official weights, or of those at a URL or path."""
    if weights == OFFICIAL:
        return hub.weights_file(spec)
    if is_url(weights):
        return download_file(weights, place(weights, "weights"))
    return weights_path(Path(weights))


def load_with_classes(
    network: nn.Module,
    state: Mapping[str, Tensor],
    path: Path,
    spec: catalog.Model,
    labels: Sequence[str],
    known: Sequence[str] | None,
) -> list[str]:
    """Load weights, matching classes by name; classes that are not in the file keep their new weights.

    Without names, equal numbers of classes count as the same classes; otherwise all classes keep their new weights. The
    weights must fit the spec's network with their own number of classes; per-class weights are those whose shapes grow
    with the number of classes.

    Args:
        state: weights of the file ``path``.
        labels: class names of the data set.
        known: class names in the file, None if it has none.

    Returns:
        Messages for the user.

    Raises:
        WeightsError: the weights don't fit the spec's network with any number of classes.
    """
    faults = mismatches(empty_network(spec.name, state), state)
    if faults and all(name.startswith(("network.", "optimizer.", "average.")) for name in state):
        raise WeightsError(f"{path} is the state of a run: give the .safetensors next to it, or --resume that run")
    if faults:
        raise WeightsError("\n  ".join([f"{path} does not fit {spec.name}: give weights of that model", *faults]))
    rows = rows_of_classes(spec)
    number = len(state[family_of(spec.name).class_parameter])
    fresh = network.state_dict()
    if known is None or len(known) != number or len(set(known)) < number:
        known = None
        kept = dict(state) if number == len(labels) else {n: t for n, t in state.items() if n not in rows}
    else:
        moved = {n: remap_classes(state[n], fresh[n], rows[n], known, labels) for n in rows if n in state}
        kept = {**state, **moved}
    network.load_state_dict(kept, strict=False)
    return _notes(labels, known, number, [name for name in state if name not in kept])


def rows_of_classes(spec: catalog.Model) -> dict[str, int]:
    """Number of rows per class of each per-class weight, by name.

    Rows are in order of classes; any further rows are the background's.
    """
    with torch.device("meta"):
        one, two = (models.build(spec.name, n).state_dict() for n in (1, 2))
    return {name: len(two[name]) - len(one[name]) for name in one if one[name].shape != two[name].shape}


def remap_classes(given: Tensor, fresh: Tensor, rows: int, known: Sequence[str], labels: Sequence[str]) -> Tensor:
    """Reorder a weight from classes ``known`` to classes ``labels``; other classes get ``fresh`` values."""
    moved = fresh.clone()
    moved[rows * len(labels) :] = given[rows * len(known) :]
    for i, label in enumerate(labels):
        if label in known:
            j = known.index(label)
            moved[rows * i : rows * (i + 1)] = given[rows * j : rows * (j + 1)]
    return moved


def _notes(labels: Sequence[str], known: Sequence[str] | None, number: int, remade: list[str]) -> list[str]:
    if remade:
        names = ", ".join(remade)
        return [f"re-initialised, because the classes in the file are not the data set's {len(labels)}: {names}"]
    if known is None:
        return [f"the weights have no class names: their {number} classes are taken as the data set's, in this order"]
    if list(known) == list(labels):
        return []
    shared, new = ([label for label in labels if (label in known) == known_label] for known_label in (True, False))
    note = f"classes whose weights are kept, by name: {', '.join(shared) or 'none'}"
    return [note, f"classes not in the weights, which are re-initialised: {', '.join(new)}"] if new else [note]


def _load_backbone(network: nn.Module, spec: catalog.Model) -> None:
    """Load the recipe's pretrained backbone, and any other weights of its file that fit."""
    url = spec.recipe.backbone_init
    if not url:
        raise ParameterError(f"{spec.name} has no pretrained backbone: start from official weights, scratch, or a file")
    path = download_file(url, cache_dir() / "weights" / url.rpartition("/")[2])
    state, _ = read_state(spec, path, part=PART)
    shapes = {n: t.shape for n, t in network.state_dict().items() if not n.endswith("num_batches_tracked")}
    found = {name: tensor for name, tensor in state.items() if shapes.get(name) == tensor.shape}
    missing = [name for name in shapes if name.startswith(f"{PART}.") and name not in found]
    if missing:
        absent = f"{counted(len(missing), 'weight')} not in it, such as {missing[0]}"
        raise WeightsError(f"{path} is not a backbone of {spec.name}: {absent}")
    network.load_state_dict(found, strict=False)
    logger.info(
        "loaded %d of %d weights from %s; the rest are randomly initialized", len(found), len(shapes), path.name
    )
