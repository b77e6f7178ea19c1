"""Pasting Mask R-CNN masks, 28 x 28 over their boxes, into the image: maskline compared with PaddleX's method.

    OMP_NUM_THREADS=1 python benchmarks/paste.py [--rounds 9] [--most-gib 4]

PaddleX samples every kept mask at every pixel of the image (`grid_sample`) and compares with 0.5; the box only defines
the sampling points. maskline computes only the pixels of the box. Boxes are random, with sides log-uniform from 4 % to
60 % of the image; masks are ellipses with a wavy border.

Before measuring, both methods must give the same pixels (except where the probability is within 1e-5 of 0.5, the
rounding error of float32; these pixels are counted). Both alternate in turns of three in one process; the table shows
medians. Memory is the peak added in a separate process, so this part is Linux only. If sampling all masks at once would
take more than ``--most-gib``, PaddleX's method gets as many masks as fit at a time, which favours it: the last column
gives the memory it would need.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from timing import KEPT, ROWS, SIZES, name, paired, table

from maskline.instances import Instances
from maskline.preprocess import Frame
from maskline.runtime.graph import Raw
from maskline.runtime.mask_layout import MaskLayout
from maskline.runtime.postprocess import to_instances

OVER_BOX = MaskLayout(over="box", beyond_boxes=False)
CELLS = 28
TIE = 1e-5
BYTES = 2 * 4 + 4  # per mask pixel: sampling point (x, y) and value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--most-gib", type=float, default=4)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "CASE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    cases = list(product(SIZES, KEPT))
    if options.one:
        way, case = options.one
        print(added_mib(way, *cases[int(case)], options.most_gib))
        return
    print(f"{torch.get_num_threads()} thread(s), median of {options.rounds} rounds, milliseconds and MiB\n")
    print(table([row(case, size, kept, options) for case, (size, kept) in enumerate(cases)]))


def row(case: int, size: tuple[int, int], kept: int, options: argparse.Namespace) -> dict[str, Any]:
    """One image size and number of masks."""
    raw = drawn(size, kept)
    group = at_once(size, options.most_gib)
    found = ours(raw, size)
    apart = different(found, raw, size)
    our_ms, naive_ms = paired([lambda: ours(raw, size), lambda: naive(raw, size, group)], options.rounds)
    our_mib, naive_mib = (in_process(way, case, options.most_gib) for way in ("ours", "naive"))
    return {
        "image": name(size),
        "masks": kept,
        "boxes, share of image": f"{sum(m.size for m in found.masks) / (size[0] * size[1]):.2f}",
        "pixels different": apart,
        "maskline ms": round(our_ms, 2),
        "PaddleX's method ms": round(naive_ms, 1),
        "times faster": round(naive_ms / our_ms),
        "maskline MiB": round(our_mib, 1),
        "PaddleX's method MiB": round(naive_mib),
        "if all at once MiB": round(kept * size[0] * size[1] * BYTES / 2**20),
    }


def drawn(size: tuple[int, int], kept: int) -> Raw:
    """What a graph gives for an image of ``size``: 100 rows, of which ``kept`` have a score."""
    rng = np.random.default_rng(0)
    sides = np.exp(rng.uniform(np.log(0.04), np.log(0.6), (ROWS, 2)))
    corner = rng.uniform(0, 1 - sides)
    boxes = np.concatenate([corner, corner + sides], axis=1) * [size[1], size[0], size[1], size[0]]
    y, x = (np.mgrid[:CELLS, :CELLS] + 0.5) / CELLS * 2 - 1
    waves = [cv2.GaussianBlur(rng.standard_normal((CELLS, CELLS)), (0, 0), 2) for _ in range(ROWS)]
    logits = 8 * (1 - np.hypot(x, y)) + 3 * np.stack(waves)
    masks = np.pad(1 / (1 + np.exp(-logits)) - 0.5, ((0, 0), (1, 1), (1, 1)), constant_values=-0.5)
    scores = np.where(np.arange(ROWS) < kept, np.linspace(0.9, 0.6, ROWS), 0)
    labels = np.zeros(ROWS, np.int64)
    return Raw(boxes.astype(np.float32), scores.astype(np.float32), labels, masks.astype(np.float32))


def ours(raw: Raw, size: tuple[int, int]) -> Instances:
    """As in the predictor."""
    return to_instances(raw, Frame(size, size), size, np.full(1, 0.5, np.float32), mask_layout=OVER_BOX)


def naive(raw: Raw, size: tuple[int, int], group: int) -> torch.Tensor:
    """(kept, H, W) bool."""
    kept = np.flatnonzero(raw.scores > 0.5)
    if len(kept) <= group:
        return sampled(raw, kept, size) >= 0.5
    full = torch.empty((len(kept), *size), dtype=torch.bool)
    for start in range(0, len(kept), group):
        full[start : start + group] = sampled(raw, kept[start : start + group], size) >= 0.5
    return full


def sampled(raw: Raw, rows: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """Probabilities (rows, H, W), zero beyond the boxes."""
    values = torch.from_numpy(raw.masks[rows, 1:-1, 1:-1] + 0.5)
    x1, y1, x2, y2 = torch.from_numpy(raw.boxes[rows]).split(1, dim=1)
    y = (torch.arange(size[0]) + 0.5 - y1) / (y2 - y1) * 2 - 1
    x = (torch.arange(size[1]) + 0.5 - x1) / (x2 - x1) * 2 - 1
    shape = (len(rows), *size)
    points = torch.stack([x[:, None].expand(shape), y[:, :, None].expand(shape)], dim=3)
    return F.grid_sample(values[:, None], points, padding_mode="zeros", align_corners=False)[:, 0]


def different(found: Instances, raw: Raw, size: tuple[int, int]) -> int:
    """Different pixels, all of which must be ties; over the whole image, including beyond the boxes."""
    apart = 0
    for index, kept in enumerate(np.flatnonzero(raw.scores > 0.5)):
        probability = sampled(raw, np.array([kept]), size)[0].numpy()
        other = found.full_mask(index) != (probability >= 0.5)
        assert (np.abs(probability[other] - 0.5) < TIE).all(), "both methods must give the same masks"
        apart += int(other.sum())
    return apart


def at_once(size: tuple[int, int], most_gib: float) -> int:
    """The number of masks that PaddleX's method may process at a time."""
    return max(int(most_gib * 2**30 / (size[0] * size[1] * BYTES)), 1)


def in_process(way: str, case: int, most_gib: float) -> float:
    """Memory of one method, in a new process."""
    command = [sys.executable, __file__, "--one", way, str(case), "--most-gib", str(most_gib)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def added_mib(way: str, size: tuple[int, int], kept: int, most_gib: float) -> float:
    """Peak memory added by one run, after a tiny run that triggers lazy loading."""
    group = at_once(size, most_gib)
    run = {"ours": ours, "naive": partial(naive, group=group)}[way]
    run(drawn((8, 8), 1), (8, 8))
    raw = drawn(size, kept)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current usage
    before = peak_mib()
    run(raw, size)
    return peak_mib() - before


def peak_mib() -> float:
    """Peak memory of this process; getrusage would include the parent's peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
