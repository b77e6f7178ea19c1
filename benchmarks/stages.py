"""Stages of Mask R-CNN: time of each in ONNX Runtime and in PyTorch, on the CPU.

    python benchmarks/stages.py [--threads 2] [--processor-time] [--rounds 9] [--only NAME]

The network is MaskRCNN-ResNet50-FPN with random weights and folded batch norm, at 800 x 1333. Each stage is exported as
a graph of its own, as is the whole network. After the convolutions, stages receive typical inputs of a trained network:
scores and boxes as for twenty objects, and regions with sides log-uniform from 4 % to 60 % of the image. "Many" is the
input from a badly calibrated network: thousands of scores above the threshold.

Both sides get the same inputs and must agree before measuring: values within 1e-4 of the largest; boxes after NMS
except for one in a hundred, because rounding decides for a pair whose IoU equals the threshold. They alternate in turns
of three in one process; the tables show medians. On a shared machine, ``--threads 1 --processor-time`` excludes other
processes.

The second table compares maskline's RoIAlign in PyTorch with one `grid_sample` per region, and its NMS with the loop
over boxes.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import onnxruntime
import paste
import torch
import torch.nn.functional as F
from timing import paired, table
from torch import Tensor, nn

from maskline import models
from maskline.exporting import OPSET, fused, onnx_translations
from maskline.models import nms, roi_align
from maskline.models.iou import box_iou
from maskline.models.rcnn.network import MaskRCNN
from maskline.models.rcnn.rpn import Predictions, propose
from maskline.models.roi_align import Regions

MODEL = "MaskRCNN-ResNet50-FPN"
SIZE = (800, 1333)
CLASSES = 80
OBJECTS = 20
REGIONS, DETECTIONS = 1000, 100
TOLERANCE = 1e-4  # of the largest value
LEFT_TO_ROUNDING = 0.01  # of boxes

Measure = Callable[[list[Callable[[], Any]]], list[float]]  # median milliseconds of each


class Stage(NamedTuple):
    """Part of the network.

    Attributes:
        run: tensors in, tensors out, nested as they like.
        inputs: tensors.
        boxes: the first output has boxes (..., 4), in any order, compared where the last output is positive or true.
    """

    name: str
    run: Callable[..., Any]
    inputs: Sequence[Tensor]
    boxes: bool = False


class Part(nn.Module):
    """A stage as a module, as required for export; it has all weights of the network, used or not."""

    def __init__(self, network: nn.Module, run: Callable[..., Any]) -> None:
        super().__init__()
        self.network, self.run = network, run

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return flat(self.run(*inputs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of each side (default: all)")
    parser.add_argument(
        "--processor-time", action="store_true", help="measure CPU time of all threads, including waiting ones"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="only stages whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    clock = time.process_time if options.processor_time else time.perf_counter
    measure = partial(paired, rounds=options.rounds, clock=clock)
    print(
        f"{MODEL} at {SIZE[0]} x {SIZE[1]}, {options.threads} thread(s), "
        f"{'processor' if options.processor_time else 'wall'} time, median of {options.rounds} rounds\n"
    )
    with torch.no_grad():
        network = fused(models.build(MODEL).eval())
        assert isinstance(network, MaskRCNN)
        chosen = [stage for stage in stages(network) if options.only in stage.name]
        others = [ways for ways in other_ways() if options.only in ways[0]]
        for rows in (
            [row(stage, network, options.threads, measure) for stage in chosen],
            [compared(*ways, measure) for ways in others],
        ):
            if rows:
                print(table(rows), "\n")
        raw = paste.drawn(SIZE, DETECTIONS)
        (paste_ms,) = measure([lambda: paste.ours(raw, SIZE)])
        print(f"after the network, pasting {DETECTIONS} masks into the image (NumPy): {paste_ms:.1f} ms")


def row(stage: Stage, network: nn.Module, threads: int, measure: Measure) -> dict[str, Any]:
    """One stage in both."""
    part = Part(network, stage.run)
    session = exported(part, stage.inputs, threads)
    wanted = {i.name for i in session.get_inputs()}
    feed = {name: x.numpy() for name, x in zip(names(stage.inputs), stage.inputs, strict=True) if name in wanted}
    found = [torch.from_numpy(value) for value in session.run(None, feed)]
    apart = (boxes_apart if stage.boxes else values_apart)(found, part(*stage.inputs))
    assert apart <= (LEFT_TO_ROUNDING if stage.boxes else TOLERANCE), f"{stage.name}: {apart} apart"
    onnx_ms, torch_ms = measure([lambda: session.run(None, feed), lambda: part(*stage.inputs)])
    return {
        "stage": stage.name,
        "ONNX Runtime ms": round(onnx_ms, 1),
        "PyTorch ms": round(torch_ms, 1),
        "ONNX Runtime / PyTorch": round(onnx_ms / torch_ms, 2),
        "difference": f"{apart:.0e}",
    }


def exported(part: nn.Module, inputs: Sequence[Tensor], threads: int) -> Any:
    """A session of ONNX Runtime, for a graph as `maskline.exporting` writes it, except for the fixed size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            part,
            tuple(inputs),
            dynamo=True,
            input_names=names(inputs),
            opset_version=OPSET,
            custom_translation_table=onnx_translations(),
            verbose=False,
        )
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = program.model_proto.SerializeToString()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def names(inputs: Sequence[Tensor]) -> list[str]:
    return [f"x{i}" for i in range(len(inputs))]


def flat(nested: Any) -> list[Tensor]:
    """The tensors in lists and tuples of them."""
    return [nested] if isinstance(nested, Tensor) else [tensor for part in nested for tensor in flat(part)]


def values_apart(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest difference in any output, relative to its largest value."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))


def boxes_apart(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Fraction of boxes missing on the other side, within a hundredth of a pixel."""
    a, b = (found[0][found[-1] > 0] for found in (ours, theirs))
    distance = (a[:, None] - b).abs().amax(dim=2)
    alone = sum(int((distance.amin(dim=dim) > 0.01).sum()) for dim in (0, 1))
    return alone / (len(a) + len(b))


# ---- stages and their inputs


def stages(network: MaskRCNN) -> list[Stage]:
    """In the order of the network, followed by those of C4."""
    image = torch.randn(1, 3, *SIZE)
    levels = network.features(image)
    anchors = network.rpn(levels).anchors
    scores, deltas = zip(*(answers(level) for level in anchors), strict=True)
    regions, few = Regions(drawn(REGIONS), zeros(REGIONS)), Regions(drawn(DETECTIONS), zeros(DETECTIONS))
    labels = torch.arange(DETECTIONS) % CLASSES
    box_features = torch.rand(REGIONS, 256, 7, 7)
    mask_features = torch.rand(DETECTIONS, 256, 14, 14)
    typical, many = classified(6.0), classified(0.0)
    c4_map, c4 = torch.rand(1, 1024, 50, 84), Regions(drawn(300), zeros(300))
    number = len(levels)

    def rpn(*maps: Tensor) -> Any:
        return network.rpn(list(maps))[:2]

    def proposals(*predicted: Tensor) -> Any:
        groups = (list(predicted[i : i + number]) for i in range(0, 3 * number, number))
        return propose(Predictions(*groups), torch.tensor([SIZE], dtype=torch.float32), network.config.proposals)

    def roi_features(side: int, boxes: Tensor, image: Tensor, *maps: Tensor) -> Any:
        return network.roi_features(list(maps), Regions(boxes, image), side)

    def best(boxes: Tensor, scores: Tensor) -> Any:
        boxes, scores, labels = network.best(boxes, scores)
        return boxes, labels, scores

    return [
        Stage("backbone and pyramid", network.features, [image]),
        Stage("RPN head", rpn, levels),
        Stage("proposals", proposals, [*scores, *deltas, *anchors], boxes=True),
        Stage(f"RoIAlign 7 x 7, {REGIONS}", partial(roi_features, 7), [*regions, *levels]),
        Stage(f"box head, {REGIONS}", network.box_heads[0], [box_features]),
        Stage(f"best of {REGIONS} x {CLASSES}, {above(typical)} above threshold", best, typical, boxes=True),
        Stage(f"best of {REGIONS} x {CLASSES}, many: {above(many)}", best, many, boxes=True),
        Stage(f"RoIAlign 14 x 14, {DETECTIONS}", partial(roi_features, 14), [*few, *levels]),
        Stage(f"mask head, {DETECTIONS}", network.mask_head, [mask_features, labels]),
        Stage("C4: NMS of 6000", suppressed, ranked(6000), boxes=True),
        Stage("C4: RoIAlign 14 x 14 of 1024 channels, 300", pooled, [*c4, c4_map]),
    ]


def suppressed(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """As `propose` calls it."""
    return boxes, nms.batched_nms(boxes, scores, iou_threshold=0.7, max_detections=1000)[:, 0]


def pooled(boxes: Tensor, image: Tensor, cells: Tensor) -> Tensor:
    """As C4 calls it."""
    level = torch.zeros_like(image)
    return roi_align.roi_align([cells], Regions(boxes, image), level, strides=(16,), side=14, aligned=True)


def zeros(number: int) -> Tensor:
    return torch.zeros(number, dtype=torch.int64)


def drawn(number: int, seed: int = 0) -> Tensor:
    """Boxes (number, 4) in the image, with sides log-uniform from 4 % to 60 % of the image's."""
    random = torch.Generator().manual_seed(seed)
    sides = 0.04 * 15 ** torch.rand(number, 2, generator=random)
    corner = torch.rand(number, 2, generator=random) * (1 - sides)
    return torch.cat([corner, corner + sides], dim=1) * torch.tensor([*SIZE[::-1], *SIZE[::-1]])


def near_objects(number: int) -> tuple[Tensor, Tensor]:
    """Boxes (number, 4) like proposals, half of them around objects, and the object index of each, -1 for none."""
    which = torch.randint(OBJECTS, (number,))
    boxes = drawn(OBJECTS, seed=1)[which]
    moved = boxes + torch.randn(number, 4) * 0.08 * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    away = torch.arange(number) % 2 == 0
    return torch.where(away[:, None], drawn(number, seed=2), moved), which.masked_fill(away, -1)


def answers(anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (1, l) and deltas (1, l, 4) of an RPN: high where an anchor overlaps an object."""
    overlap = box_iou(anchors[:, None], drawn(OBJECTS, seed=1)).amax(dim=1)
    return (8 * overlap - 4 + 0.5 * torch.randn(len(anchors)))[None], 0.1 * torch.randn(1, len(anchors), 4)


def classified(certainty: float) -> tuple[Tensor, Tensor]:
    """Outputs of a box head for `near_objects`: boxes (1, N, classes, 4) and scores (1, N, classes)."""
    boxes, which = near_objects(REGIONS)
    each = boxes[:, None] + 3 * torch.randn(REGIONS, CLASSES, 4)
    logits = 1.5 * torch.randn(REGIONS, CLASSES + 1)
    label = torch.where(which < 0, CLASSES, which * 4 % CLASSES)  # background is last
    logits[torch.arange(REGIONS), label] += certainty
    return each[None], logits.softmax(dim=1)[None, :, :-1]


def above(case: tuple[Tensor, Tensor]) -> int:
    return int((case[1] > 0.05).sum())


def ranked(number: int) -> tuple[Tensor, Tensor]:
    """Boxes (1, number, 4) and scores (1, 1, number)."""
    return near_objects(number)[0][None], torch.rand(1, 1, number)


# ---- other implementations in PyTorch


def other_ways() -> list[tuple[str, Callable[[], Any], str, Callable[[], Any]]]:
    """Name, maskline's function, the name of the other, and that function."""
    regions, cells = drawn(300), torch.rand(1, 256, 200, 336)
    wide = torch.rand(1, 1024, 50, 84)
    boxes, scores = ranked(6000)
    many = classified(0.0)
    groups, rows = many[0][0].transpose(0, 1).contiguous(), many[1][0].T[:, None].contiguous()

    def ours(maps: Tensor, stride: int, side: int) -> Tensor:
        level = zeros(len(regions))
        return roi_align.roi_align([maps], Regions(regions, level), level, strides=(stride,), side=side, aligned=True)

    return [
        (
            "RoIAlign 7 x 7 of 256 channels at stride 4, 300",
            lambda: ours(cells, 4, 7),
            "grid_sample",
            lambda: sampled(cells, regions, 4, 7),
        ),
        (
            "RoIAlign 14 x 14 of 1024 channels at stride 16, 300",
            lambda: ours(wide, 16, 14),
            "grid_sample",
            lambda: sampled(wide, regions, 16, 14),
        ),
        (
            "NMS of 6000 boxes",
            lambda: nms.batched_nms(boxes, scores, iou_threshold=0.7, max_detections=6000)[0, 0],
            "loop over boxes",
            lambda: looped(boxes[0], scores[0, 0], 0.7),
        ),
        (
            f"NMS of {above(many)} boxes in {CLASSES} classes",
            lambda: nms.batched_nms(groups, rows, score_threshold=0.05, iou_threshold=0.5, max_detections=REGIONS)[
                :, 0
            ],
            "loop over boxes",
            lambda: torch.stack([looped(b, s[0], 0.5, 0.05) for b, s in zip(groups, rows, strict=True)]),
        ),
    ]


def compared(
    name: str, ours: Callable[[], Tensor], way: str, other: Callable[[], Tensor], measure: Measure
) -> dict[str, Any]:
    """One row of the second table."""
    a, b = ours().float(), other().float()
    assert (a - b).abs().max() < 1e-3, f"{name}: both methods must give the same result"
    our_ms, other_ms = measure([ours, other])
    return {
        "in PyTorch": name,
        "maskline ms": round(our_ms, 1),
        "other way": way,
        "other ms": round(other_ms, 1),
        "times faster": round(other_ms / our_ms, 1),
    }


def sampled(cells: Tensor, boxes: Tensor, stride: int, side: int) -> Tensor:
    """RoIAlign region by region: bilinear interpolation at the points of all bins, then the mean of each bin."""
    size = torch.tensor(cells.shape[:1:-1])  # width, height
    features = []
    for low, high in boxes.div(stride).view(-1, 2, 2):
        points = ((high - low) / side).ceil().int().tolist()
        x, y = (
            2 * (low[i] + (high - low)[i] * (torch.arange(side * n) + 0.5) / (side * n)) / size[i] - 1
            for i, n in enumerate(points)
        )
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=2)[None]
        values = F.grid_sample(cells, grid, padding_mode="border", align_corners=False)
        features.append(F.avg_pool2d(values, points[::-1]))
    return torch.cat(features)


def looped(boxes: Tensor, scores: Tensor, overlap: float, score: float = nms.LOWEST) -> Tensor:
    """Greedy NMS by definition: keep the best box, remove those it overlaps, repeat. (N,) bool."""
    stays = torch.zeros(len(boxes), dtype=torch.bool)
    rest = torch.nonzero(scores > score).flatten()
    rest = rest[scores[rest].argsort(descending=True, stable=True)]
    while len(rest):
        stays[rest[0]] = True
        rest = rest[1:][box_iou(boxes[rest[0]], boxes[rest[1:]]) <= overlap]
    return stays


if __name__ == "__main__":
    main()
