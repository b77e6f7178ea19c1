"""Training throughput and memory; each configuration in its own process, interleaved.

    python benchmarks/train.py DATASET [--models PP-YOLOE_seg-N Mask-RT-DETR-S] [--batch-size 2] [--side 320 640]
        [--device cpu] [--precision fp32 bf16] [--processes 1 2] [--rounds 3]

Each row gives images per second over whole steps (images read and augmented as in the recipe, network, loss, gradients,
optimizer, EMA), the fraction of that time spent waiting for images, and the peak memory of the process. Only the last
20 of 40 steps count, because the first are several times slower. With several processes, the batch size is per process,
and the memory is that of the first.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from maskline.data.dataset import Dataset
from maskline.data.formats import coco
from maskline.data.reading import load_splits
from maskline.training import TrainSettings, train
from maskline.training.logger import RECENT

STEPS = 2 * RECENT  # the log's means cover the last half


@dataclass(frozen=True, slots=True)
class Case:
    """One row."""

    model: str
    side: int
    precision: str
    processes: int


def measure(case: Case, data: Path, batch_size: int, device: str) -> None:
    """Train for some steps on the number of images they need; print rates and memory as JSON."""
    with tempfile.TemporaryDirectory() as scratch:
        few = Path(scratch, "data")
        few.mkdir()
        images = STEPS * batch_size * case.processes
        coco.write({"train": enough(load_splits(data)["train"], images)}, few)
        settings = TrainSettings(
            model=case.model,
            data=few,
            output=Path(scratch, "run"),
            epochs=1,
            batch_size=batch_size,
            weights="scratch",
            device=device,
            processes=case.processes,
            precision=case.precision,  # type: ignore[arg-type]
            augment={"sizes": (case.side,)},
            log_interval=1,
            export=False,
        )
        train(settings)
        print(json.dumps(read_log(Path(scratch, "run", "train.log").read_text(), batch_size * case.processes)))


def enough(dataset: Dataset, images: int) -> Dataset:
    """The first ``images`` images of a split. Raises SystemExit if it has fewer."""
    if len(dataset.images) < images:
        sys.exit(
            f"{dataset.source} has {len(dataset.images)} training images, {images} are needed: a smaller --batch-size"
        )
    return dataset.select(dataset.images[:images])


def read_log(text: str, images: int) -> dict[str, float]:
    """The values of the last line, whose costs are means over the last steps."""
    lines = re.findall(r"batch_cost: (\S+) data_cost: (\S+) .*max_mem_reserved: (\d+)", text)
    spent, waited, memory = map(float, lines[-1])
    return {"rate": images / spent, "waiting": waited / spent, "memory": memory}


def in_process(case: Case, arguments: argparse.Namespace) -> dict[str, float]:
    """Measure in a new process."""
    chosen = ["--models", case.model, "--side", str(case.side), "--precision", case.precision]
    chosen += ["--processes", str(case.processes), "--batch-size", str(arguments.batch_size)]
    chosen += ["--device", arguments.device, "--one"]
    done = subprocess.run(
        [sys.executable, __file__, str(arguments.data), *chosen], stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """All combinations."""
    for row in product(arguments.models, arguments.side, arguments.precision, arguments.processes):
        yield Case(*row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", nargs="+", default=["PP-YOLOE_seg-N", "Mask-RT-DETR-S"])
    parser.add_argument("--side", type=int, nargs="+", default=[320])
    parser.add_argument("--precision", nargs="+", default=["fp32"])
    parser.add_argument("--processes", type=int, nargs="+", default=[1])
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        measure(next(cases(arguments)), arguments.data, arguments.batch_size, arguments.device)
        return
    found: dict[Case, list[dict[str, float]]] = {case: [] for case in cases(arguments)}
    for _ in range(arguments.rounds):  # interleaved, so that other load affects all alike
        for case, rounds in found.items():
            rounds.append(in_process(case, arguments))
    print("| model | side | precision | processes | images/s | waiting for images | memory MB |")
    print("|---|---:|---|---:|---:|---:|---:|")
    for case, rounds in found.items():
        rate, waiting, memory = (statistics.median(r[key] for r in rounds) for key in ("rate", "waiting", "memory"))
        row = f"| {case.model} | {case.side} | {case.precision} | {case.processes} "
        print(f"{row}| {rate:.2f} | {waiting:.0%} | {memory:.0f} |")


if __name__ == "__main__":
    main()
