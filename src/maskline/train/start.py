"""What a network knows before its first step: official or other weights, a pretrained backbone, or nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from maskline import catalog, hub, models
from maskline.download import fetch, home
from maskline.errors import ParameterError, WeightsError
from maskline.inputs.web import is_url, place
from maskline.train.settings import BACKBONE, OFFICIAL, SCRATCH, Settings
from maskline.weights.load import empty_network, fit, read_state, weights_path
from maskline.wording import counted

log = logging.getLogger("maskline")

PART = "backbone"  # of every network


def new_network(settings: Settings, num_classes: int) -> nn.Module:
    """The network with its first weights.

    Raises:
        DownloadError, InputNotFoundError, WeightsError: the weights can't be had, or are of another network.
    """
    row = catalog.get(settings.model)
    torch.manual_seed(settings.seed)
    network = models.build(row.name, num_classes, unaligned=settings.unaligned)
    if settings.weights == SCRATCH:
        log.info("starting from scratch: %s with random weights", row.name)
    elif settings.weights == BACKBONE:
        _load_backbone(network, row)
    else:
        path = file_of(settings.weights, row)
        state, _ = read_state(row, path)
        remade = load_all_but_classes(network, state, path, row)
        log.info("starting from %s", path)
        if remade:
            log.info("made anew, because the file has other classes than the data set's %d: %s", num_classes, remade)
    return network


def file_of(weights: str, row: catalog.Model) -> Path:
    """The file of the official weights, of those at an address, or of those named."""
    if weights == OFFICIAL:
        return hub.weights_file(row)
    if is_url(weights):
        return fetch(weights, place(weights, "weights"))
    return weights_path(Path(weights))


def load_all_but_classes(network: nn.Module, state: Mapping[str, Tensor], path: Path, row: catalog.Model) -> str:
    """Load weights; those whose shape depends on the number of classes stay new where that is another.

    Which these are is not guessed from lengths: the weights have to fit the row's network of their own number of
    classes, all of them, and what differs between that network and this one is the classes'.

    Returns:
        The names of what stays new, as a text; empty if nothing.

    Raises:
        WeightsError: the weights are not those of the row's network for any number of classes.
    """
    faults = fit(empty_network(row.name, state), state)
    if faults and all(name.startswith(("network.", "optimizer.", "average.")) for name in state):
        raise WeightsError(f"{path} is the state of a run: give the .safetensors beside it, or --resume that run")
    if faults:
        raise WeightsError("\n  ".join([f"{path} does not fit {row.name}: give weights of that model", *faults]))
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    per_class = [name for name, tensor in state.items() if tensor.shape != shapes[name]]
    network.load_state_dict({name: tensor for name, tensor in state.items() if name not in per_class}, strict=False)
    return ", ".join(per_class)


def _load_backbone(network: nn.Module, row: catalog.Model) -> None:
    """Take over what the recipe starts from: the backbone, and what else fits."""
    url = row.recipe.backbone_init
    if not url:
        raise ParameterError(f"{row.name} has no pretrained backbone: start from official weights, scratch, or a file")
    path = fetch(url, home() / "weights" / url.rpartition("/")[2])
    state, _ = read_state(row, path, part=PART)
    shapes = {n: t.shape for n, t in network.state_dict().items() if not n.endswith("num_batches_tracked")}
    found = {name: tensor for name, tensor in state.items() if shapes.get(name) == tensor.shape}
    missing = [name for name in shapes if name.startswith(f"{PART}.") and name not in found]
    if missing:
        raise WeightsError(
            f"{path} is not a backbone of {row.name}: {counted(len(missing), 'weight')} not in it, such as {missing[0]}"
        )
    network.load_state_dict(found, strict=False)
    log.info("starting from %s: %d of %d weights; the others are new", path.name, len(found), len(shapes))
