"""What a network takes over from weights: all but what belongs to other classes, or a backbone alone."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import stand_in
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from maskline import catalog, models
from maskline.errors import WeightsError
from maskline.train import start
from maskline.train.settings import BACKBONE, Settings
from maskline.train.start import file_of, load_all_but_classes, new_network

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
    monkeypatch.setattr(models, "build", lambda name, num_classes, unaligned: TwoStage(num_classes))


def weights(classes: int, width: int = 5) -> dict[str, Tensor]:
    """Of a file: no value is one that a new network has."""
    return {name: tensor + 100 for name, tensor in TwoStage(classes, width).state_dict().items()}


@pytest.mark.usefixtures("_two_stage")
@pytest.mark.parametrize(("given", "wanted"), [(80, 1), (80, 2), (1, 80), (3, 4), (4, 3), (1, 2), (2, 1), (80, 79)])
def test_layers_of_the_classes_stay_new_and_all_others_are_loaded(given: int, wanted: int) -> None:
    """Scores, with one row more, boxes, with four rows for each, and masks."""
    network, state = TwoStage(wanted), weights(given)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert load_all_but_classes(network, state, FILE, ROW) == ", ".join(REMADE)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name] if name in REMADE else state[name]), name


@pytest.mark.usefixtures("_two_stage")
@pytest.mark.parametrize("classes", [1, 80])
def test_as_many_classes_are_the_same_classes(classes: int) -> None:
    network, state = TwoStage(classes), weights(classes)
    assert load_all_but_classes(network, state, FILE, ROW) == ""
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


@pytest.mark.usefixtures("_two_stage")
@pytest.mark.parametrize(("given", "wanted", "width"), [(7, 5, 7), (6, 4, 7), (8, 5, 32), (2, 5, 3), (80, 5, 1)])
def test_lengths_like_those_of_the_classes_are_no_excuse(given: int, wanted: int, width: int) -> None:
    """A layer of another width does not fit, whether it is as long as there are classes, or one or four times more."""
    network = TwoStage(wanted)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_all_but_classes(network, weights(given, width), FILE, ROW)
    assert str(caught.value).split("\n  ") == [
        "w.pdparams does not fit MaskRCNN-ResNet50-FPN: give weights of that model",
        f"misshapen: rpn.weight is [{width}, 3, 1, 1], expected [5, 3, 1, 1]",
        f"misshapen: rpn.bias is [{width}], expected [5]",
    ]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.usefixtures("_two_stage")
@pytest.mark.parametrize(
    ("name", "shape", "told"),
    [
        ("box_heads.0.score.bias", (3,), "misshapen: box_heads.0.score.bias is [3], expected [4]"),
        ("box_heads.0.delta.weight", (4, 6), "misshapen: box_heads.0.delta.weight is [4, 6], expected [12, 6]"),
        ("mask_head.logits.weight", (3, 7, 1, 1), "mask_head.logits.weight is [3, 7, 1, 1], expected [3, 6, 1, 1]"),
        ("mask_head.logits.bias", None, "missing: mask_head.logits.bias"),
        ("box_heads.0.score.weight", None, "missing: box_heads.0.score.weight [4, 6]"),
        ("box_heads.1.score.weight", (4, 6), "unexpected: box_heads.1.score.weight [4, 6]"),
    ],
)  # fmt: skip
def test_classes_that_contradict_each_other_are_told(name: str, shape: tuple[int, ...] | None, told: str) -> None:
    state = weights(3)
    if shape is None:
        del state[name]
    else:
        state[name] = torch.zeros(shape)
    with pytest.raises(WeightsError) as caught:
        load_all_but_classes(TwoStage(2), state, FILE, ROW)
    assert told in str(caught.value)


@pytest.mark.usefixtures("_two_stage")
def test_the_user_is_told_what_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_file(weights(80), tmp_path / "w.safetensors")
    with caplog.at_level(logging.INFO, "maskline"):
        new_network(Settings(model=ROW.name, data=tmp_path, weights=str(tmp_path / "w.safetensors")), 2)
    reason, _, names = caplog.messages[-1].rpartition(": ")
    assert reason == "made anew, because the file has other classes than the data set's 2"
    assert sorted(names.split(", ")) == sorted(REMADE)


# A backbone


DETR = "Mask-RT-DETR-S"


@pytest.fixture(scope="module")
def backbone() -> dict[str, np.ndarray]:
    """Of the reference's format and names, without the part's own."""
    state = stand_in.state(DETR)
    return {name.removeprefix("backbone."): a for name, a in state.items() if name.startswith("backbone.")}


def start_from(arrays: dict[str, np.ndarray], file: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """A new network's weights, where the recipe's file holds these."""
    file.write_bytes(pickle.dumps(arrays, protocol=4))
    monkeypatch.setattr(start, "fetch", lambda url, path: file)
    return new_network(Settings(model=DETR, data=file.parent, weights=BACKBONE), 3).state_dict()


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_backbone_is_loaded_with_or_without_the_name_of_the_part(
    backbone: dict[str, np.ndarray], prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A classifier behind it is left."""
    arrays = {f"{prefix}{name}": array for name, array in backbone.items()}
    arrays |= {f"{prefix}fc.weight": np.zeros((4, 7), np.float32), f"{prefix}fc.bias": np.zeros(7, np.float32)}
    found = start_from(arrays, tmp_path / "w.pdparams", monkeypatch)
    scratch = new_network(Settings(model=DETR, data=tmp_path, weights="scratch"), 3).state_dict()
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
    told = "is not a backbone of Mask-RT-DETR-S: 2 weights not in it, such as backbone.stem.down1.conv.weight"
    with pytest.raises(WeightsError, match=told):
        start_from(arrays, tmp_path / "w.pdparams", monkeypatch)


def test_weights_at_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F65: fetched into the cache, under their own name."""
    asked = []

    def fetch(url: str, target: Path) -> Path:
        asked.append(url)
        return target

    monkeypatch.setattr(start, "fetch", fetch)
    monkeypatch.setenv("MASKLINE_HOME", str(tmp_path))
    a, b = (file_of(f"https://example.com/{n}/mine.pdparams?key=1", ROW) for n in "ab")
    assert a.name == b.name == "mine.pdparams" and a != b and a.is_relative_to(tmp_path)
    assert asked == [f"https://example.com/{n}/mine.pdparams?key=1" for n in "ab"]
