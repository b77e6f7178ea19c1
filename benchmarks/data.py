"""Time and memory to read a large COCO file, compared with pycocotools.

Each method runs in its own process, alternately; the table shows the best time and the peak memory added by reading
(beyond the imports). Linux only.

    python benchmarks/data.py [--annotations 100000] [--turns 3]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

VERTICES = 22  # about COCO's mean
SHARE_RLE = 0.2

PREFIX = """
import sys, time
def peak():  # in MiB; getrusage would include the parent's peak
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))
"""
WAYS = {
    "maskline: Dataset, all records checked": """
from pathlib import Path
from maskline.data.formats.coco import coco_json
before, start = peak(), time.perf_counter()
dataset, faults, _ = coco_json.read(Path(sys.argv[1]), Path(), "train")
assert not faults and len(dataset.annotations) == int(sys.argv[2])
""",
    "pycocotools: COCO, nothing checked": """
import contextlib, io
from pycocotools.coco import COCO
before, start = peak(), time.perf_counter()
with contextlib.redirect_stdout(io.StringIO()):
    coco = COCO(sys.argv[1])
assert len(coco.anns) == int(sys.argv[2])
""",
    "json.load alone": """
import json
before, start = peak(), time.perf_counter()
with open(sys.argv[1]) as file:
    content = json.load(file)
assert len(content["annotations"]) == int(sys.argv[2])
""",
}
SUFFIX = "\nprint(time.perf_counter() - start, peak() - before)"


def make(path: Path, annotations: int) -> None:
    """Polygons and RLE of the size of COCO's, seven per image."""
    from maskline.masks import Window, place_rle

    rng = np.random.default_rng(0)
    images = annotations // 7 + 1
    content = {
        "images": [{"id": i, "file_name": f"{i:012}.jpg", "width": 640, "height": 480} for i in range(images)],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(80)],
        "annotations": [],
    }
    for number in range(annotations):
        x, y = rng.uniform(60, 420, 2)
        angles = np.sort(rng.uniform(0, 2 * np.pi, VERTICES))
        radius = rng.uniform(20, 60, VERTICES)
        ring = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1).round(2)
        shape: object = [ring.ravel().tolist()]
        if rng.random() < SHARE_RLE:
            blob = np.hypot(*np.ogrid[-20:20, -20:20]) < rng.uniform(8, 20)
            top, left = int(y), int(x)
            counts = place_rle(blob, Window(top - 20, top + 20, left - 20, left + 20), (480, 640))
            shape = {"size": [480, 640], "counts": counts}
        record = {"id": number, "image_id": number // 7, "category_id": number % 80, "segmentation": shape}
        content["annotations"].append(record | {"bbox": [x, y, 50, 50], "area": 2000.0, "iscrowd": 0})
    path.write_text(json.dumps(content))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--annotations", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances.json"
        make(path, options.annotations)
        print(f"{options.annotations} annotations, {path.stat().st_size / 1e6:.0f} MB of JSON")
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
        for _ in range(options.turns):
            for name, code in WAYS.items():
                command = [sys.executable, "-c", PREFIX + code + SUFFIX, str(path), str(options.annotations)]
                seconds, mebibytes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
                results[name].append((float(seconds), float(mebibytes)))
    print(f"| {'':40} | seconds | MiB |\n| {'-' * 40} | ------: | --: |")
    for name, runs in results.items():
        print(f"| {name:40} | {min(s for s, _ in runs):7.2f} | {min(m for _, m in runs):3.0f} |")


if __name__ == "__main__":
    main()
