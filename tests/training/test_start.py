"""What a network takes over from weights: all but what belongs to other classes, or a backbone alone."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures import stand_in, tiny, tiny_rcnn, tiny_solov2
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from maskline import catalog, models
from maskline.errors import WeightsError
from maskline.models.mask_rtdetr.network import MaskRTDETR
from maskline.models.ppyoloe_seg.network import CONFIGS as PPYOLOE_SEG
from maskline.models.ppyoloe_seg.network import PPYOLOESeg
from maskline.models.rcnn.network import MaskRCNN
from maskline.models.solov2.network import SOLOv2
from maskline.training import start
from maskline.training.settings import BACKBONE, TrainSettings
from maskline.training.start import initial_weights_file, load_with_classes, new_network
from maskline.weights.load import labels_in_file, save_weights

# Other classes


ROW = catalog.get("MaskRCNN-ResNet50-FPN")
FILE = Path("w.pdparams")
REMADE = [
    *(f"box_heads.0.{layer}.{part}" for layer in ("score", "delta") for part in ("weight", "bias")),
    *(f"mask_head.logits.{part}" for part in ("weight", "bias")),
]


class TwoStage(nn.Module):
    """Layers named as in Mask R-CNN; those of its box head score the background too, and have boxes for each class."""

    def __init__(self, classes: int, width: int = 5) -> None:
        super().__init__()
        self.rpn = nn.Conv2d(3, width, 1)
        box_head = {"fc1": nn.Linear(4, 6), "score": nn.Linear(6, classes + 1), "delta": nn.Linear(6, 4 * classes)}
        self.box_heads = nn.ModuleList([nn.ModuleDict(box_head)])
        self.mask_head = nn.ModuleDict({"logits": nn.Conv2d(6, classes, 1)})


@pytest.fixture
def _two_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two-stage networks are small."""
    monkeypatch.setattr(models, "build", lambda name, num_classes, overrides=None: TwoStage(num_classes))


def names(classes: int) -> list[str]:
    return [f"class {i}" for i in range(classes)]


def weights(classes: int, width: int = 5) -> dict[str, Tensor]:
    """The weights of a file: no value is one that a new network has."""
    return {name: tensor + 100 for name, tensor in TwoStage(classes, width).state_dict().items()}


@pytest.mark.usefixtures("_two_stage")
@pytest.mark.parametrize(("given", "wanted"), [(80, 1), (80, 2), (1, 80), (3, 4), (4, 3), (1, 2), (2, 1), (80, 79)])
def test_layers_of_the_classes_stay_new_and_all_others_are_loaded(given: int, wanted: int) -> None:
    """Scores, with one row more, boxes, with four rows for each, and masks."""
    network, state = TwoStage(wanted), weights(given)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    (message,) = load_with_classes(network, state, FILE, ROW, names(wanted), None)
    assert message.endswith(f": {', '.join(REMADE)}")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name] if name in REMADE else state[name]), name


@pytest.mark.usefixtures("_two_stage")
@pytest.mark.parametrize("classes", [1, 80])
def test_as_many_classes_are_the_same_classes_where_nothing_has_names(classes: int) -> None:
    network, state = TwoStage(classes), weights(classes)
    (message,) = load_with_classes(network, state, FILE, ROW, names(classes), None)
    assert (
        message
        == f"the weights have no class names: their {classes} classes are taken as the data set's, in this order"
    )
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


@pytest.mark.usefixtures("_two_stage")
@pytest.mark.parametrize(("given", "wanted", "width"), [(7, 5, 7), (6, 4, 7), (8, 5, 32), (2, 5, 3), (80, 5, 1)])
def test_lengths_like_those_of_the_classes_are_refused_too(given: int, wanted: int, width: int) -> None:
    """A layer of another width does not fit, whether it is as long as there are classes, or one or four times more."""
    network = TwoStage(wanted)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_with_classes(network, weights(given, width), FILE, ROW, names(wanted), None)
    assert str(caught.value).split("\n  ") == [
        "w.pdparams does not fit MaskRCNN-ResNet50-FPN: give weights of that model",
        f"misshapen: rpn.weight is [{width}, 3, 1, 1], expected [5, 3, 1, 1]",
        f"misshapen: rpn.bias is [{width}], expected [5]",
    ]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.usefixtures("_two_stage")
@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("box_heads.0.score.bias", (3,), "misshapen: box_heads.0.score.bias is [3], expected [4]"),
        ("box_heads.0.delta.weight", (4, 6), "misshapen: box_heads.0.delta.weight is [4, 6], expected [12, 6]"),
        ("mask_head.logits.weight", (3, 7, 1, 1), "mask_head.logits.weight is [3, 7, 1, 1], expected [3, 6, 1, 1]"),
        ("mask_head.logits.bias", None, "missing: mask_head.logits.bias"),
        ("box_heads.0.score.weight", None, "missing: box_heads.0.score.weight [4, 6]"),
        ("box_heads.1.score.weight", (4, 6), "unexpected: box_heads.1.score.weight [4, 6]"),
    ],
)  # fmt: skip
def test_classes_that_contradict_each_other_are_reported(
    name: str, shape: tuple[int, ...] | None, message: str
) -> None:
    state = weights(3)
    if shape is None:
        del state[name]
    else:
        state[name] = torch.zeros(shape)
    with pytest.raises(WeightsError) as caught:
        load_with_classes(TwoStage(2), state, FILE, ROW, names(2), None)
    assert message in str(caught.value)


@pytest.mark.usefixtures("_two_stage")
def test_the_log_lists_what_is_initialized_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_file(weights(80), tmp_path / "w.safetensors")
    with caplog.at_level(logging.INFO, "maskline"):
        new_network(TrainSettings(model=ROW.name, data=tmp_path, weights=str(tmp_path / "w.safetensors")), names(2))
    reason, _, remade = caplog.messages[-1].rpartition(": ")
    assert reason == "re-initialised, because the classes in the file are not the data set's 2"
    assert sorted(remade.split(", ")) == sorted(REMADE)


# Classes by name


@dataclass(frozen=True)
class Family:
    """A network with all parts of a family's, and what it says of each class for an input of its own.

    Attributes:
        build: from a number of classes; the weights are others each time.
        says: of each class what can't be distinguished by its place: (classes, values).
        background: what is said of it, if there is one.
    """

    name: str
    build: Callable[[int], nn.Module]
    says: Callable[[Any], Tensor]
    background: Callable[[Any], Tensor] | None = None


X = torch.linspace(-1, 1, 5)[:, None]


def by_query(network: Any) -> Tensor:
    decoder = network.decoder
    scores = decoder.class_head(X.sin().expand(-1, decoder.class_head.in_features))
    return torch.cat([scores.T, decoder.label_embedding.weight], dim=1)


def by_place(network: Any) -> Tensor:
    levels = [torch.linspace(-1, 1, head.in_channels)[None, :, None, None] for head in network.head.class_heads]
    return torch.cat(
        [head(x.expand(-1, -1, 3, 3))[0].flatten(1) for head, x in zip(network.head.class_heads, levels, strict=True)],
        1,
    )


def by_region(network: Any) -> Tensor:
    said = []
    for head in network.box_heads:
        layers = [head.score, head.delta]
        scores, deltas = (layer(X.sin().expand(-1, layer.in_features)) for layer in layers)
        classes = scores.shape[1] - 1
        said.append(scores[:, :classes].T)
        if len(network.box_heads) == 1:  # a cascade has the same boxes for all
            said.append(deltas.unflatten(1, (-1, 4)).transpose(0, 1).flatten(1))
    logits = network.mask_head.logits
    features = torch.linspace(-1, 1, logits.in_channels)[None, :, None, None]
    return torch.cat([*said, logits(features)[0].flatten(1)], dim=1)


def by_region_background(network: Any) -> Tensor:
    return torch.stack([head.score(torch.linspace(-1, 1, head.score.in_features))[-1] for head in network.box_heads])


def by_cell(network: Any) -> Tensor:
    category = network.head.category
    cells = torch.linspace(-1, 1, category.in_channels)[None, :, None, None].expand(-1, -1, 4, 4)
    return category(cells)[0].flatten(1)


def two_stage(name: str) -> Family:
    return Family(name, lambda n: MaskRCNN(tiny_rcnn.shrunk(name), n), by_region, by_region_background)


FAMILIES = [
    Family("Mask-RT-DETR-S", lambda n: MaskRTDETR(tiny.CONFIG, n), by_query),
    Family("PP-YOLOE_seg-N", lambda n: PPYOLOESeg(PPYOLOE_SEG["PP-YOLOE_seg-N"], n), by_place),
    two_stage("MaskRCNN-ResNet50-FPN"),
    two_stage("MaskRCNN-ResNet50"),
    two_stage("Cascade-MaskRCNN-ResNet50-FPN"),
    Family("SOLOv2", lambda n: SOLOv2(tiny_solov2.CONFIG, n), by_cell),
]


def drawn(network: nn.Module, seed: int) -> nn.Module:
    """With weights that none but this one has."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3, generator=rng)
    return network.eval()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize(
    ("known", "wanted"),
    [("abc", "cab"), ("abc", "bxc"), ("abc", "xyz"), ("abc", "dcbae"), ("abc", "b"), ("abc", "abc"), ("a", "ba")],
)
@torch.no_grad()
def test_what_is_known_of_a_class_goes_where_its_name_is(
    family: Family,
    known: str,
    wanted: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """F65: in every part of the network that knows classes, whatever their order and number; others are new."""
    source = drawn(family.build(len(known)), 1)
    save_weights(source.state_dict(), tmp_path / "w.safetensors", family.name, list(known))
    fresh = drawn(family.build(len(wanted)), 2)
    monkeypatch.setattr(models, "build", lambda name, num_classes, overrides=None: family.build(num_classes))
    before = copy.deepcopy(fresh)
    row, file = catalog.get(family.name), tmp_path / "w.safetensors"
    notes = load_with_classes(fresh, load_file(file), file, row, list(wanted), labels_in_file(file))
    theirs, new, found = family.says(source), family.says(before), family.says(fresh)
    for i, name in enumerate(wanted):
        expected = theirs[known.index(name)] if name in known else new[i]
        torch.testing.assert_close(found[i], expected, rtol=1e-5, atol=1e-5)
    if family.background is not None:
        torch.testing.assert_close(family.background(fresh), family.background(source), rtol=1e-5, atol=1e-5)
    shared, others = [c for c in wanted if c in known], [c for c in wanted if c not in known]
    expected_notes = [f"classes whose weights are kept, by name: {', '.join(shared) or 'none'}"]
    if others:
        expected_notes.append(f"classes not in the weights, which are re-initialised: {', '.join(others)}")
    assert notes == ([] if known == wanted else expected_notes)


# A backbone


DETR = "Mask-RT-DETR-S"


@pytest.fixture(scope="module")
def backbone() -> dict[str, np.ndarray]:
    """A file with PaddleDetection's format and names, without the part's own."""
    state = stand_in.state(DETR)
    return {name.removeprefix("backbone."): a for name, a in state.items() if name.startswith("backbone.")}


def start_from(arrays: dict[str, np.ndarray], file: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """A new network's weights, where the recipe's file holds these."""
    file.write_bytes(pickle.dumps(arrays, protocol=4))
    monkeypatch.setattr(start, "download_file", lambda url, path: file)
    return new_network(TrainSettings(model=DETR, data=file.parent, weights=BACKBONE), names(3)).state_dict()


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_backbone_is_loaded_with_or_without_the_name_of_the_part(
    backbone: dict[str, np.ndarray], prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A classifier behind it is left."""
    arrays = {f"{prefix}{name}": array for name, array in backbone.items()}
    arrays |= {f"{prefix}fc.weight": np.zeros((4, 7), np.float32), f"{prefix}fc.bias": np.zeros(7, np.float32)}
    found = start_from(arrays, tmp_path / "w.pdparams", monkeypatch)
    scratch = new_network(TrainSettings(model=DETR, data=tmp_path, weights="scratch"), names(3)).state_dict()
    for name, tensor in found.items():
        if not name.startswith("backbone."):
            assert torch.equal(tensor, scratch[name]), name
    stem, last = "stem.stem1.conv.weight", "stages.3.blocks.0.layers.0.conv1.conv.weight"
    assert np.array_equal(found["backbone.stem.down1.conv.weight"].numpy(), backbone[stem])
    assert np.array_equal(found["backbone.stages.3.blocks.0.layers.0.pointwise.conv.weight"].numpy(), backbone[last])


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_backbone_without_one_of_its_weights_is_none(
    backbone: dict[str, np.ndarray], prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor where it has another shape; both are counted."""
    arrays = {f"{prefix}{name}": array for name, array in backbone.items()}
    del arrays[f"{prefix}stages.3.downsample.conv.weight"]
    arrays[f"{prefix}stem.stem1.conv.weight"] = np.zeros((8, 3, 3, 3), np.float32)
    message = "is not a backbone of Mask-RT-DETR-S: 2 weights not in it, such as backbone.stem.down1.conv.weight"
    with pytest.raises(WeightsError, match=message):
        start_from(arrays, tmp_path / "w.pdparams", monkeypatch)


def test_weights_at_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F65: fetched into the cache, under their own name."""
    asked = []

    def fetch(url: str, target: Path) -> Path:
        asked.append(url)
        return target

    monkeypatch.setattr(start, "download_file", fetch)
    monkeypatch.setenv("MASKLINE_HOME", str(tmp_path))
    a, b = (initial_weights_file(f"https://example.com/{n}/mine.pdparams?key=1", ROW) for n in "ab")
    assert a.name == b.name == "mine.pdparams" and a != b and a.is_relative_to(tmp_path)
    assert asked == [f"https://example.com/{n}/mine.pdparams?key=1" for n in "ab"]
