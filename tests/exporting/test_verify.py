"""The proof of a graph: of a network that has learned almost nothing it shows as much as of any other."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from fixtures import parts, tiny, tiny_rcnn, tiny_solov2
from fixtures.narrow import f32
from torch import nn

from maskline import catalog
from maskline.errors import ExportError
from maskline.exporting import ExportOptions, export_network, verify
from maskline.exporting.from_network import NetworkSource
from maskline.exporting.graph import fused, write_graph, write_pinned
from maskline.models.backbones.cspresnet import CSPResNetConfig
from maskline.models.deployed import Deployed
from maskline.models.mask_rtdetr.network import MaskRTDETR
from maskline.models.network import Network
from maskline.models.pinned import Call, pinned
from maskline.models.ppyoloe_seg.network import PPYOLOESeg, PPYOLOESegConfig
from maskline.models.rcnn.network import MaskRCNN
from maskline.models.solov2.network import SOLOv2
from maskline.runtime.backend import Acceleration
from maskline.runtime.device import CPU
from maskline.runtime.graph import Raw, Record, open_backend

PPYOLOE = PPYOLOESegConfig(
    CSPResNetConfig(8, (8, 16, 16, 32), (1, 2, 1, 1)),
    neck_channels=(32, 24, 16),
    num_prototypes=8,
    prototype_channels=8,
)
FREE = ("MaskRCNN-ResNet50-FPN", "MaskRCNN-ResNet50", "Cascade-MaskRCNN-ResNet50-FPN")
FAMILIES = ("Mask-RT-DETR-S", "PP-YOLOE_seg-N", *FREE, "SOLOv2")


@dataclass(frozen=True)
class Made:
    """A network after a few steps, and the graph of it."""

    network: Network
    spec: catalog.Model
    record: Record
    graph: Path

    def prove(self, network: Network) -> None:
        """That the graph is of this network."""
        NetworkSource(network, ExportOptions()).verify(self.graph, self.graph, self.record)


def untrained(name: str) -> tuple[Network, catalog.Model]:
    spec = catalog.get(name)
    torch.manual_seed(0)
    if name in FREE:
        return MaskRCNN(tiny_rcnn.shrunk(name), 3), tiny_rcnn.spec(name)
    if name == "SOLOv2":
        return SOLOv2(tiny_solov2.CONFIG, 3), tiny_solov2.SPEC
    padded = 96 if spec.preprocess.pad_stride else 0
    small = replace(spec, preprocess=replace(spec.preprocess, height=96, width=96, pad_stride=padded))
    return (MaskRTDETR(tiny.CONFIG, 3) if name == tiny.SPEC.name else PPYOLOESeg(PPYOLOE, 3)), small


def barely_trained(name: str) -> tuple[Network, catalog.Model]:
    network, row = untrained(name)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    for seed in range(2):
        torch.manual_seed(seed)
        targets = [parts.objects(3, 96, 96, seed=seed)]
        optimizer.zero_grad()
        found = network.train().losses(parts.image(96, 96, seed).repeat(2, 1, 1, 1), targets * 2)
        parts.total(found.values()).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return network.eval(), row


@pytest.fixture(scope="module", params=FAMILIES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    network, row = barely_trained(request.param)
    record = Record(row.name, tiny.CLASSES, row.preprocess, 0.5, network.mask_layout, "test")
    path = tmp_path_factory.mktemp("graph") / "inference.onnx"
    write_graph(Deployed(fused(network), row.preprocess), record, path)
    return Made(network, row, record, path)


def changed_weight(network: Network) -> None:
    next(p for p in network.get_submodule("backbone").parameters() if p.ndim == 4)[0].mul_(-1)


def class_layers(network: Network) -> list[nn.Module]:
    if isinstance(network, MaskRTDETR):
        return [network.decoder.class_head]
    if isinstance(network, PPYOLOESeg):
        return list(network.head.class_heads)
    if isinstance(network, MaskRCNN):
        return [head.score for head in parts.box_heads(network)]
    assert isinstance(network, SOLOv2)
    return [network.head.category]


def swapped_classes(network: Network) -> None:
    for layer in class_layers(network):
        for parameter in layer.parameters():
            parameter[:3] = parameter[:3].roll(1, dims=0)


def shifted_boxes(network: Network) -> None:
    if isinstance(network, MaskRTDETR):
        parts.last(network.decoder.box_head).bias[0] += 0.1
    elif isinstance(network, PPYOLOESeg):
        for layer in parts.layers(network.head.box_heads):
            parts.bias(layer)[16] += 0.2  # more often the farthest from the left
    elif isinstance(network, MaskRCNN):
        parts.box_heads(network)[-1].delta.bias[::4] += 0.02
    else:
        assert isinstance(network, SOLOv2)
        network.head.kernel.weight[:4] *= 1.5  # boxes are those of masks


def other_masks(network: Network) -> None:
    if isinstance(network, MaskRTDETR):
        parts.last(network.decoder.mask_head).weight[0] *= -1
    elif isinstance(network, PPYOLOESeg):
        for layer in parts.layers(network.head.mask_heads):
            layer.weight[:4] *= -1
    elif isinstance(network, MaskRCNN):
        network.mask_head.logits.weight[:, 0] *= -1
    else:
        assert isinstance(network, SOLOv2)
        network.mask_features.merge.conv.weight[0] *= -1


def test_a_network_after_two_steps_is_proved(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    before = copy.deepcopy(made.network.state_dict())
    with caplog.at_level(logging.INFO, "maskline"):
        made.prove(made.network)
    assert "checking the graph against the network" in caplog.text
    after = made.network.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(tensor, before[name]) for name, tensor in after.items())


@pytest.mark.parametrize("change", [changed_weight, swapped_classes, shifted_boxes, other_masks])
def test_the_graph_of_another_network_is_refused(made: Made, change: Callable[[Network], None]) -> None:
    other = copy.deepcopy(made.network)
    with torch.no_grad():
        change(other)
    with pytest.raises(ExportError, match="the graph disagrees with the network at batch 1: .*; not written"):
        made.prove(other)


@pytest.mark.parametrize("name", ["Mask-RT-DETR-S", "PP-YOLOE_seg-N", "MaskRCNN-ResNet50", "SOLOv2"])
def test_layers_that_say_the_same_everywhere(name: str, tmp_path: Path) -> None:
    """Nothing has reached them yet, as in a level that no object has answered for: all that is found is tied."""
    network, row = barely_trained(name)
    with torch.no_grad():
        for decisive in network.decisive():
            decisive.layer.get_parameter("weight").mul_(1e-9)
    export_network(network, row, tmp_path, labels=tiny.CLASSES)


def test_queries_that_all_say_the_same(tmp_path: Path) -> None:
    """A decoder that has not learned to distinguish them."""
    network, row = barely_trained("Mask-RT-DETR-S")
    assert isinstance(network, MaskRTDETR)
    with torch.no_grad():
        network.decoder.norm.weight.zero_()
    export_network(network, row, tmp_path, labels=tiny.CLASSES)


def test_pinned_graph_and_network_find_much(made: Made, tmp_path: Path) -> None:
    """Otherwise there would be nothing to compare."""
    deployed = Deployed(made.network, made.spec.preprocess)
    pixels = verify._verification_inputs(made.record.preprocess)[-1]
    with pinned(made.network) as calls:
        theirs = deployed.run(pixels[None])
    write_pinned(made.graph, calls, tmp_path / "pinned.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "pinned.onnx"))
    backend = open_backend("onnxruntime", tmp_path / "pinned.onnx", CPU, Acceleration())
    found = Raw(*backend.run(pixels[None], *(call.replacement for call in calls))[:4])
    for side in (found, theirs):
        kept = side.scores > verify.KEPT
        assert kept.sum() >= 5 and np.ptp(side.scores[kept]) > 100 * verify.SCORE_TOLERANCE
        assert len(set(side.labels[kept].tolist())) == 3


def test_what_is_pinned_follows_from_name_and_shape(made: Made) -> None:
    deployed = Deployed(made.network, made.spec.preprocess)
    pixels = verify._verification_inputs(made.record.preprocess)[-1]
    runs = []
    for _ in range(2):
        with pinned(made.network) as calls:
            deployed.run(pixels[None])
        runs.append(calls)
    first, second = runs
    assert len({(call.layer, call.number) for call in first}) == len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.replacement.shape == one.output.shape and (one.replacement == other.replacement).all()
    deployed.run(pixels[None])
    assert len(second) == len(first)


def test_a_layer_that_the_graph_does_not_show(made: Made, tmp_path: Path) -> None:
    call = Call("head.unknown", 0, np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32))
    with pytest.raises(ExportError, match="does not have every output of head.unknown; not written"):
        write_pinned(made.graph, [call], tmp_path / "pinned.onnx")


@pytest.mark.parametrize(("form", "half"), [("ort", False), ("openvino", True), ("onnx", True)])
def test_other_forms_and_half_precision_are_proved_too(form: str, half: bool, tmp_path: Path) -> None:
    network, row = barely_trained("PP-YOLOE_seg-N")
    export_network(network, row, tmp_path, labels=tiny.CLASSES, options=ExportOptions(form, half=half))


def test_a_network_that_knows_nothing_is_reported() -> None:
    crowded, clear = np.linspace(0.3, 0.32, 100, dtype=np.float32), np.linspace(0.06, 0.9, 30, dtype=np.float32)
    assert verify._knows_nothing(crowded) and verify._knows_nothing(f32([0.01, 0.011]))
    assert not verify._knows_nothing(clear) and not verify._knows_nothing(f32([0.8]))
