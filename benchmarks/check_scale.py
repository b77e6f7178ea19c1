"""Time and peak memory of `maskline check`, `convert` and `split` on large data sets, by images and objects per image.

    python benchmarks/check_scale.py [--images 2500 10000] [--objects 2000 20000] [--commands check convert split]

Images are 64 x 64 with ten objects each; those with many objects are 2048 x 2048. Each run is a separate process;
seconds are CPU time. Linux only. 100,000 images need 2 GB of disk and about 20 minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

VERTICES = 12
PER_IMAGE, SIDE, LARGE_SIDE = 10, 64, 2048
COMMANDS = {
    "check": ("check", "{set}", "--output", "{out}"),
    "convert": ("convert", "{set}", "{out}", "--to", "coco"),
    "split": ("split", "{set}", "--output", "{out}", "--stratify"),
}
RUN = """
import sys, time
from maskline.cli import main
try:
    main()
finally:
    with open("/proc/self/status") as file:  # getrusage would include the parent's memory
        peak = next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))
    print(time.process_time(), peak, file=sys.stderr)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="*", type=int, default=[2_500, 10_000])
    parser.add_argument("--objects", nargs="*", type=int, default=[2_000, 20_000], help="objects in one image")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print("| objects in one image | seconds | peak MiB |\n| ---: | ---: | ---: |")
        for count in options.objects:
            root = make(Path(folder) / f"objects{count}", 2, count, LARGE_SIDE)
            print(f"| {count:,} | {' | '.join(measured('check', root))} |", flush=True)
        print("\n| images | annotations | JSON, MiB | command | seconds | peak MiB |\n|" + " ---: |" * 6)
        for count in options.images:
            root = make(Path(folder) / f"images{count}", count, PER_IMAGE, SIDE)
            size = sum(path.stat().st_size for path in (root / "annotations").iterdir()) / 2**20
            for command in options.commands:
                row = f"{count:,} | {PER_IMAGE * count:,} | {size:.0f} | {command}"
                print(f"| {row} | {' | '.join(measured(command, root))} |", flush=True)


def make(root: Path, images: int, per_image: int, side: int) -> Path:
    """A data set of distinct images, four fifths of them for training."""
    rng = np.random.default_rng(0)
    for name in ("images", "annotations"):
        (root / name).mkdir(parents=True)
    train = max(1, images * 4 // 5)
    for split, count, objects in (("train", train, per_image), ("val", images - train, PER_IMAGE)):
        records = [{"id": i, "file_name": f"{split}{i:06}.png", "width": side, "height": side} for i in range(count)]
        for record in records:
            pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            cv2.imwrite(str(root / "images" / record["file_name"]), cv2.resize(pixels, (side, side)))
        content = {
            "images": records,
            "annotations": list(annotations(rng, count, objects, side)),
            "categories": [{"id": i, "name": f"class {i}"} for i in range(5)],
        }
        (root / "annotations" / f"instance_{split}.json").write_text(json.dumps(content))
    return root


def annotations(rng: np.random.Generator, images: int, per_image: int, side: int) -> Iterator[dict[str, object]]:
    for number in range(images * per_image):
        angles = np.sort(rng.uniform(0, 2 * np.pi, VERTICES))
        outline = rng.uniform(4, 10, VERTICES)[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        ring = (rng.uniform(11, side - 11, 2) + outline).round(2)
        low, extent = ring.min(axis=0), np.ptp(ring, axis=0)
        yield {
            "id": number,
            "image_id": number // per_image,
            "category_id": number % 5,
            "segmentation": [ring.ravel().tolist()],
            "bbox": [*low.tolist(), *extent.tolist()],
            "iscrowd": 0,
        }


def measured(command: str, root: Path) -> tuple[str, str]:
    """CPU seconds and peak resident memory."""
    with tempfile.TemporaryDirectory() as out:
        arguments = [part.format(set=root, out=Path(out) / "out") for part in COMMANDS[command]]
        done = subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=True)
    seconds, mebibytes = done.stderr.splitlines()[-1].split()
    return f"{float(seconds):.0f}", f"{float(mebibytes):.0f}"


if __name__ == "__main__":
    main()
