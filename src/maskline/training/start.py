"""What a network knows before its first step: official or other weights, a pretrained backbone, or nothing."""

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
from maskline.weights.load import config_in_file, empty_network, fit, labels_in_file, read_state, weights_path

logger = logging.getLogger("maskline")

PART = "backbone"  # of every network


def new_network(settings: TrainSettings, labels: Sequence[str]) -> Network:
    """The network with its first weights.

    Args:
        labels: class names of the data set.

    Raises:
        ParameterError: settings say unaligned, but the model has no RoIAlign.
        DownloadError, InputNotFoundError, WeightsError: the weights can't be had, or are of another network.
    """
    spec = catalog.get(settings.model)
    overrides, path = overrides_of(spec.name, unaligned=settings.unaligned), None
    if settings.weights not in (SCRATCH, BACKBONE):
        path = weights_path(file_of(settings.weights, spec))
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


def file_of(weights: str, spec: catalog.Model) -> Path:
    """The file of the official weights, of those at an address, or of those named."""
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
    """Load weights: those of a class go to the class of the same name, and those of a class they don't know stay new.

    Without names, as many classes count as the same, and of any other number all stay new.
    Which weights are those of classes is not guessed from lengths: the weights have to fit the spec's network of their
    own number of classes, all of them, and what grows with one class more is the classes'.

    Args:
        state: weights of the file ``path``.
        labels: class names of the data set.
        known: those of the file, None where it has none.

    Returns:
        What a user should know, a line each.

    Raises:
        WeightsError: the weights are not those of the spec's network for any number of classes.
    """
    faults = fit(empty_network(spec.name, state), state)
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
        moved = {n: by_name(state[n], fresh[n], rows[n], known, labels) for n in rows if n in state}
        kept = {**state, **moved}
    network.load_state_dict(kept, strict=False)
    return _notes(labels, known, number, [name for name in state if name not in kept])


def rows_of_classes(spec: catalog.Model) -> dict[str, int]:
    """How many rows of each weight belong to one class, by its name, for those that have any.

    The classes' rows come first, in their order; what follows is the background's.
    """
    with torch.device("meta"):
        one, two = (models.build(spec.name, n).state_dict() for n in (1, 2))
    return {name: len(two[name]) - len(one[name]) for name in one if one[name].shape != two[name].shape}


def by_name(given: Tensor, fresh: Tensor, rows: int, known: Sequence[str], labels: Sequence[str]) -> Tensor:
    """A weight for the classes ``labels``: of what it was for the classes ``known``, and new (``fresh``) for others."""
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
        return [f"re-initialised, because the file has other classes than the data set's {len(labels)}: {names}"]
    if known is None:
        return [f"the weights have no class names: their {number} classes are taken for the data set's, in this order"]
    if list(known) == list(labels):
        return []
    shared, new = ([label for label in labels if (label in known) == there] for there in (True, False))
    told = f"classes whose weights are taken over, by name: {', '.join(shared) or 'none'}"
    return [told, f"classes that the weights don't know, which are re-initialised: {', '.join(new)}"] if new else [told]


def _load_backbone(network: nn.Module, spec: catalog.Model) -> None:
    """Take over what the recipe starts from: the backbone, and what else fits."""
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
    logger.info("starting from %s: %d of %d weights; the others are new", path.name, len(found), len(shapes))
