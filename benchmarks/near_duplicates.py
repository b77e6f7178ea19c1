"""Search for identical and near-duplicate images: time, and recall and false pairs on real images.

    python benchmarks/near_duplicates.py DATASET [DATASET ...] [--most 100000] [--tile 128]

Each data set (in COCO format) is used in three ways: unchanged, with all pairs listed for inspection; with an altered
copy of every image, separately for each alteration; and cut into tiles, which are much harder than whole images: many
show a single object, one straight edge or almost nothing.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from maskline.data.check.near_duplicates import SIDE, Fingerprint, find_pairs, fingerprint
from maskline.data.reading import load_splits
from maskline.inputs import read_image
from maskline.instances import ByteArray

Alter = Callable[[ByteArray], ByteArray]

SIZES = ((256, 256), (480, 640), (1080, 1920), (3000, 4000))
COUNTS = (1_000, 10_000, 100_000)


def jpeg(quality: int) -> Alter:
    """Compressed and decoded."""
    return lambda pixels: cv2.imdecode(
        cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR
    )


def resized(factor: float, interpolation: int) -> Alter:
    """Larger or smaller."""
    return lambda pixels: cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=interpolation)


def levels(contrast: float, brightness: float) -> Alter:
    """Other grey levels, clipped."""
    return lambda pixels: np.clip(pixels.astype(np.float32) * contrast + brightness, 0, 255).astype(np.uint8)


def gamma(exponent: float) -> Alter:
    """Another tone curve."""
    return lambda pixels: cv2.LUT(pixels, (255 * (np.arange(256) / 255) ** exponent).astype(np.uint8))


def cropped(left: float, top: float, right: float, bottom: float) -> Alter:
    """Without these shares of the sides."""

    def crop(pixels: ByteArray) -> ByteArray:
        height, width = pixels.shape[:2]
        rows = slice(round(height * top), height - round(height * bottom))
        return np.ascontiguousarray(pixels[rows, round(width * left) : width - round(width * right)])

    return crop


def grey(pixels: ByteArray) -> ByteArray:
    """Three equal channels."""
    return cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def mirrored(pixels: ByteArray) -> ByteArray:
    """Left and right swapped."""
    return np.ascontiguousarray(pixels[:, ::-1])


def several(pixels: ByteArray) -> ByteArray:
    """Cropped, made grey, halved, compressed."""
    return jpeg(30)(resized(0.5, cv2.INTER_AREA)(grey(cropped(0.02, 0.02, 0, 0)(pixels))))


ALTERATIONS: dict[str, Alter] = {
    "PNG (no change)": lambda pixels: pixels,
    "JPEG, quality 75": jpeg(75),
    "JPEG, quality 30": jpeg(30),
    "half the size, by area": resized(0.5, cv2.INTER_AREA),
    "half the size, nearest": resized(0.5, cv2.INTER_NEAREST),
    "twice the size, cubic": resized(2, cv2.INTER_CUBIC),
    "20 levels brighter": levels(1, 20),
    "contrast x 1.2": levels(1.2, 0),
    "contrast x 0.8": levels(0.8, 0),
    "gamma 0.8": gamma(0.8),
    "grey": grey,
    "mirrored": mirrored,
    "cropped, 1.5 % of each side": cropped(0.015, 0.015, 0.015, 0.015),
    "cropped, 3 % of one side": cropped(0.03, 0, 0, 0),
    "cropped, 3 % of two sides": cropped(0.03, 0.03, 0, 0),
    "cropped, 3 % of each side": cropped(0.03, 0.03, 0.03, 0.03),
    "cropped, grey, half, JPEG 30": several,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", type=Path)
    parser.add_argument("--most", type=int, default=COUNTS[-1], help="fingerprints to time")
    parser.add_argument("--tile", type=int, default=128, help="pixels of a side")
    options = parser.parse_args()
    print(table(["image", "fingerprint"], fingerprint_rows()), "\n")
    print(table(["fingerprints", "kind", "pairs()", "found"], time_rows(options.most)), "\n")
    for root in options.datasets:
        report(root, options.tile)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def fingerprint_rows() -> Iterator[list[str]]:
    """Time by image size."""
    rng = np.random.default_rng(0)
    for height, width in SIZES:
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        seconds = min(timed(lambda pixels=pixels: fingerprint(pixels)) for _ in range(5))
        yield [f"{width} x {height}", f"{1000 * seconds:.1f} ms"]


def time_rows(most: int) -> Iterator[list[str]]:
    """Time by number and kind: all different, and three kinds that may lead a search to compare all pairs."""
    rng = np.random.default_rng(0)
    for count in [count for count in COUNTS if count <= most]:
        films = [("near-duplicates", film)] if count <= COUNTS[1] else []
        for name, make in [("different", different), ("black", black), ("black, noise", noise), *films]:
            prints = make(count, rng)
            start = time.perf_counter()
            found = len(find_pairs(prints))
            yield [f"{count:,}", name, f"{time.perf_counter() - start:.2f} s", f"{found:,}"]


def different(count: int, rng: np.random.Generator) -> list[Fingerprint]:
    """Random, with a spectrum that falls with frequency as that of photos does."""
    axis = np.fft.fftfreq(SIDE)
    radius = np.hypot(axis[:, None], axis)
    radius[0, 0] = 1
    found = []
    for _ in range(count):
        field = np.fft.ifft2(np.fft.fft2(rng.standard_normal(radius.shape)) / radius).real
        found.append(of_thumbnail(255 * (field - field.min()) / np.ptp(field), (20, 220), rng))
    return found


def black(count: int, rng: np.random.Generator) -> list[Fingerprint]:
    """Equal."""
    return [of_thumbnail(np.zeros((SIDE, SIDE)), (0, 0), rng)] * count


def noise(count: int, rng: np.random.Generator) -> list[Fingerprint]:
    """Black but for two grey levels of noise."""
    return [of_thumbnail(rng.integers(0, 256, (SIDE, SIDE)), (0, 2), rng) for _ in range(count)]


def film(count: int, rng: np.random.Generator) -> list[Fingerprint]:
    """One scene, a little noise."""
    scene = np.frombuffer(different(1, rng)[0].thumbnail, np.uint8).reshape(SIDE, SIDE)
    return [of_thumbnail(scene + rng.normal(0, 2, scene.shape), (20, 220), rng) for _ in range(count)]


def of_thumbnail(values: np.ndarray, span: tuple[float, float], rng: np.random.Generator) -> Fingerprint:
    """The fingerprint of a synthetic image."""
    return Fingerprint(rng.bytes(16), np.clip(np.rint(values), 0, 255).astype(np.uint8).tobytes(), *span, 1.5)


def report(root: Path, side: int) -> None:
    """Print the pairs found in a data set, in altered copies and in tiles."""
    named = [
        (f"{split}/{image.file_name}", read_image(dataset.path(image)))
        for split, dataset in load_splits(root).items()
        for image in dataset.images
    ]
    prints = [fingerprint(pixels) for _, pixels in named]
    found = find_pairs(prints)
    print(f"{root.name}: {len(named)} images, {len(found)} pairs found")
    for pair in found:
        print(
            f"  {named[pair.first][0]} - {named[pair.second][0]}: {'exact' if pair.exact else f'{pair.similarity:.3f}'}"
        )
    own = {(pair.first, pair.second) for pair in found}
    images = [pixels for _, pixels in named]
    print(table(["alteration", "recall", "exact", "false pairs"], recall_rows(images, prints, own)))
    tiles = [fingerprint(tile) for pixels in images for tile in cut(pixels, side)]
    wrong = len(find_pairs(list({found.digest: found for found in tiles}.values())))
    total = len(tiles) * (len(tiles) - 1) // 2
    print(f"{len(tiles)} distinct tiles of {side} pixels: {wrong} pairs found of {total:,}\n")


def recall_rows(images: list[ByteArray], prints: list[Fingerprint], own: set[tuple[int, int]]) -> Iterator[list[str]]:
    """Recall of altered copies; ``own``: pairs that exist without any alteration."""
    count = len(images)
    for name, alter in ALTERATIONS.items():
        found = find_pairs(prints + [fingerprint(alter(pixels)) for pixels in images])
        right = [pair for pair in found if pair.second - pair.first == count]
        places = {(min(ends), max(ends)) for pair in found if (ends := (pair.first % count, pair.second % count))}
        wrong = len({ends for ends in places if ends[0] != ends[1]} - own)
        exact = sum(pair.exact for pair in right)
        yield [name, f"{len(right)}/{count} = {len(right) / count:.1%}", str(exact), str(wrong)]


def cut(pixels: ByteArray, side: int) -> Iterator[ByteArray]:
    """Squares side by side."""
    height, width = pixels.shape[:2]
    for top in range(0, height - side + 1, side):
        for left in range(0, width - side + 1, side):
            yield np.ascontiguousarray(pixels[top : top + side, left : left + side])


def timed(call: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
