"""Memory and throughput for a large folder: every image is predicted and saved in every format.

    python benchmarks/folder.py [--images 2000] [--naive 300] [--side 192 256] [--model-dir DIR] [--json FILE]

The images are crops of the packaged photo of nuclei, mirrored and rotated so that all are distinct, in a temporary
folder. The naive method keeps all results in a list before saving them. Each method runs in its own process, one after
the other, with the embedded model unless another is given.

Memory is the process's RSS in addition to that after its first image.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil

import maskline
from maskline.outputs.formats import WRITERS, open_writers
from maskline.outputs.result import Result

PHOTO = Path(maskline.__file__).with_name("assets") / "nuclei.png"
STEPS = 20  # columns of the memory table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--naive", type=int, default=300, help="images for the naive method")
    parser.add_argument("--side", type=int, nargs=2, default=(192, 256), metavar=("FROM", "TO"), help="pixels")
    parser.add_argument("--model-dir", help="an exported model; default: the embedded one")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images, few = Path(folder, "images"), Path(folder, "few")
        make_images(images, options.images, options.side)
        make_images(few, options.naive, options.side)
        print(
            f"{options.images} images of {options.side[0]} to {options.side[1]} pixels; saved: image, JSON, ",
            end="",
        )
        print(", ".join(WRITERS), "\n")
        report = {
            "streamed": in_process(streamed, images, Path(folder, "streamed"), options.model_dir),
            "naive": in_process(naive, few, Path(folder, "naive"), options.model_dir),
        }
    for name, figures in report.items():
        print(f"{name}: {figures['images per second']} images per second, {figures['instances']} instances")
        print("| images | " + " | ".join(str(count) for count, _ in figures["MiB"]) + " |")
        print("| MiB | " + " | ".join(f"{mib:+.1f}" for _, mib in figures["MiB"]) + " |\n")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


def make_images(folder: Path, count: int, side: tuple[int, int]) -> None:
    """Write ``count`` distinct PNG files, in sub-folders of 100."""
    photo, rng = cv2.imread(str(PHOTO)), np.random.default_rng(0)
    for number in range(count):
        height, width = (min(int(rng.integers(side[0], side[1] + 1)), limit) for limit in photo.shape[:2])
        top, left = (int(rng.integers(0, whole - part + 1)) for whole, part in zip(photo.shape, (height, width)))  # noqa: B905
        image = np.rot90(photo[top : top + height, left : left + width], number % 4)
        path = folder / f"{number // 100:03d}" / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.ascontiguousarray(image[:, :: 1 - 2 * (number // 4 % 2)]))


def in_process(way: Any, images: Path, output: Path, model_dir: str | None) -> dict[str, Any]:
    """Run one method in a new process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=run, args=(theirs, way, images, output, model_dir))
    process.start()
    theirs.close()
    figures = ours.recv()
    process.join()
    return dict(figures)


def run(pipe: Connection, way: Any, images: Path, output: Path, model_dir: str | None) -> None:
    pipe.send(way(images, output, model_dir))


class Gauge:
    """The memory of this process over the images."""

    def __init__(self, total: int) -> None:
        self.total, self.count, self.instances = total, 0, 0
        self.process, self.rows = psutil.Process(), [[0, 0.0]]
        self.start, self.first = time.perf_counter(), 0

    def tick(self, result: Result) -> None:
        self.count, self.instances = self.count + 1, self.instances + len(result.instances)
        if self.count == 1:
            self.first, self.start = self.process.memory_info().rss, time.perf_counter()
        if self.count in (1, self.total) or self.count % max(1, self.total // STEPS) == 0:
            self.rows.append([self.count, round((self.process.memory_info().rss - self.first) / 2**20, 1)])

    def figures(self) -> dict[str, Any]:
        rate = (self.count - 1) / (time.perf_counter() - self.start)
        return {"MiB": self.rows[1:], "images per second": round(rate, 1), "instances": self.instances}


def streamed(images: Path, output: Path, model_dir: str | None) -> dict[str, Any]:
    gauge = Gauge(sum(1 for _ in images.rglob("*.png")))
    with open_writers(list(WRITERS), output) as writers:
        for result in maskline.create_model(model_dir=model_dir).predict(images):
            result.save_all(output)
            for writer in writers:
                writer.add(result)
            gauge.tick(result)
    return gauge.figures()


def naive(images: Path, output: Path, model_dir: str | None) -> dict[str, Any]:
    gauge = Gauge(sum(1 for _ in images.rglob("*.png")))
    results = []
    for result in maskline.create_model(model_dir=model_dir).predict(images):
        results.append(result)
        gauge.tick(result)
    with open_writers(list(WRITERS), output) as writers:
        for result in results:
            result.save_all(output)
            for writer in writers:
                writer.add(result)
    return gauge.figures()


if __name__ == "__main__":
    main()
