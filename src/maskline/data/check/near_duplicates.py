"""Find duplicate and near-duplicate images, which leak between splits.

A fingerprint of an image is a digest of its pixels, which finds exact copies, and a grey thumbnail of 32 x 32 pixels.
Thumbnails are compared in two steps:

1. All pairs by their lowest frequencies (a cosine transform, as in perceptual hashes), which JPEG, scaling and slight
   cropping hardly change. These are matrix products: quadratic, yet far faster than decoding up to 100,000 images, and
   exhaustive, unlike hash tables.
2. Similar pairs are registered (Lucas and Kanade, 1981, with shift and scale per axis), then compared locally, as SSIM
   does (Wang et al., 2004). So a bright border, or a background shared by a series, does not hide differences.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from maskline.instances import ByteArray, FloatArray, IntArray

SIDE = 32  # pixels of a thumbnail, both ways
REDUCED = 256  # pixels; larger images are first resized to this, in integer grey levels

FREQUENCIES = 8  # lowest ones compared, both ways
ALIKE = 0.75  # least correlation of these for the second step; images cropped by 3 % have 0.82 and more
SYMMETRIC = 0.01  # least gain in correlation by mirroring for a pair to be called mirrored
MOST_ALIKE = 4  # best matches kept per image, before it and after it, where very many are similar
BLOCK = 1024  # images per side of a block of products

STEPS = 3  # of registration
FARTHEST = 1.6  # largest shift or stretch in thumbnail pixels: 5 %; less where there is little detail
MARGIN = 2  # border pixels left out, since a crop may lack them
WINDOW = 7  # side of the comparison window, in pixels
SURROUNDINGS = 9  # side of the neighbourhood that a pixel is compared with, in pixels
NOISE = 3.0  # grey levels; windows with less contrast weigh less
SAME_SHAPE = 1.08  # ratio of two aspect ratios
#: Least similarity of near-duplicates, by the share of the thumbnail that has detail. Images with little detail, such
#: as one cell on a black background, are similar by chance.
SHARES, BARS = (0.0, 0.3), (0.98, 0.88)
LEAST_SHARE = 0.01  # images with less detail are compared by digest only
AT_ONCE = 512  # pairs per batch of the second step

INNER = slice(MARGIN, SIDE - MARGIN)
ACROSS = np.linspace(-1, 1, SIDE, dtype=np.float32)  # pixel positions along an axis


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Fingerprint of an image, 1.3 KB.

    Attributes:
        digest: of its size and pixels.
        thumbnail: (32, 32) uint8, row by row: grey, scaled so that its darkest pixel is 0 and its brightest 255.
        darkest, brightest: the grey levels of these two pixels, 0 to 255.
        aspect: width / height.
    """

    digest: bytes
    thumbnail: bytes
    darkest: float
    brightest: float
    aspect: float


@dataclass(frozen=True, slots=True, order=True)
class Pair:
    """Two images that are duplicates or near-duplicates.

    Attributes:
        first, second: their indices in the list, ``first < second``.
        exact: all pixels are equal.
        similarity: from 0 to 1; 1 if exact.
        mirrored: one is nearly the mirror image of the other.
    """

    first: int
    second: int
    exact: bool
    similarity: float
    mirrored: bool = False


def fingerprint(pixels: ByteArray) -> Fingerprint:
    """Compute the fingerprint of an image: 1 ms for 640 x 480 pixels. Thread-safe.

    Args:
        pixels: (H, W, 3) uint8, BGR.
    """
    height, width = pixels.shape[:2]
    digest = hashlib.blake2b(f"{width} x {height}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    if min(height, width) > REDUCED:
        grey = cv2.resize(grey, (REDUCED, REDUCED), interpolation=cv2.INTER_AREA)
    small = cv2.resize(grey.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    darkest, brightest = float(small.min()), float(small.max())
    levels = np.rint((small - darkest) * (255 / max(brightest - darkest, 1e-6))).astype(np.uint8)
    return Fingerprint(digest.digest(), levels.tobytes(), darkest, brightest, width / height)


def find_pairs(fingerprints: Sequence[Fingerprint]) -> list[Pair]:
    """Find duplicates and near-duplicates, sorted by ``first``, then ``second``.

    Each of several exact copies is paired with **the last** only, and only that one is compared with other images. So
    in a list in the order train, val, test, each image to remove is paired with the one to keep.

    Near-duplicates differ by JPEG compression (quality 30 or better), resizing, conversion to grey, slight changes of
    brightness, cropping by up to 3 %, mirroring, or several of these. Images with almost no detail are compared by
    digest only. An image similar to very many others (a video of a static scene) is paired with the most similar, so
    that time and memory stay bounded.
    """
    exact, places = _same(fingerprints)
    near = _near([fingerprints[place] for place in places])
    return sorted(
        exact
        + [
            Pair(places[first], places[second], False, similarity, mirrored)
            for first, second, similarity, mirrored in near
        ]
    )


def _same(fingerprints: Sequence[Fingerprint]) -> tuple[list[Pair], list[int]]:
    """Pairs with equal pixels, and the indices of the distinct images."""
    last = {found.digest: place for place, found in enumerate(fingerprints)}
    partners = ((place, last[found.digest]) for place, found in enumerate(fingerprints))
    exact = [Pair(first, second, True, 1.0) for first, second in partners if first != second]
    return exact, sorted(last.values())


def _near(fingerprints: Sequence[Fingerprint]) -> Iterator[tuple[int, int, float, bool]]:
    """Near-duplicates in any order: first, second, similarity, mirrored."""
    shapes = np.log([found.aspect for found in fingerprints])
    worth, even, odd = _descriptors(fingerprints)
    places, correlations = _candidates(even, odd)
    places = worth[places]
    fits = np.abs(shapes[places[:, 0]] - shapes[places[:, 1]]) < np.log(SAME_SHAPE)
    places, mirrored = places[fits], correlations[fits] < 0
    for part in _parts(len(places)):
        first, second = places[part].T.tolist()
        a, b = (_thumbnails([fingerprints[place] for place in side]) for side in (first, second))
        similarities, shares = _likeness(a, b, mirrored[part])
        for k in np.flatnonzero(similarities >= np.interp(shares, SHARES, BARS)):
            yield first[k], second[k], min(float(similarities[k]), 1.0), bool(mirrored[part][k])


def _parts(total: int) -> Iterator[slice]:
    return (slice(start, start + AT_ONCE) for start in range(0, total, AT_ONCE))


def _thumbnails(fingerprints: Sequence[Fingerprint]) -> FloatArray:
    """Thumbnails in grey levels: (N, 32, 32)."""
    levels = np.frombuffer(b"".join(found.thumbnail for found in fingerprints), np.uint8).reshape(-1, SIDE, SIDE)
    darkest = np.asarray([found.darkest for found in fingerprints], np.float32)[:, None, None]
    brightest = np.asarray([found.brightest for found in fingerprints], np.float32)[:, None, None]
    return np.add(levels * ((brightest - darkest) / 255), darkest, dtype=np.float32)


# ---- first step: all pairs, by their lowest frequencies


def _descriptors(fingerprints: Sequence[Fingerprint]) -> tuple[IntArray, FloatArray, FloatArray]:
    """Vectors whose dot products give the correlation of two images, as an even and an odd part along x.

    Even plus odd compares two images as they are; even minus odd compares one with the mirror image of the other.

    Returns:
        (M,) the indices of images with enough detail, then their vectors, (M, 31) even and (M, 32) odd.
    """
    spectra = np.zeros((len(fingerprints), FREQUENCIES**2), np.float32)
    shown = np.zeros(len(fingerprints), np.float32)
    for part in _parts(len(fingerprints)):
        thumbnails = _thumbnails(fingerprints[part])
        spectra[part], shown[part] = _spectra(thumbnails), _shown(_smooth(thumbnails))
    worth = np.flatnonzero(shown >= LEAST_SHARE)
    odd = np.arange(FREQUENCIES**2) % 2 == 1
    return worth, spectra[worth][:, ~odd][:, 1:], spectra[worth][:, odd]


def _spectra(thumbnails: FloatArray) -> FloatArray:
    """The lowest frequencies of the cosine transform: (N, 64), row by row, of length 1, with the mean set to 0.

    Lower frequencies, which are stronger in every image, are weighted down.
    """
    waves = np.cos(np.pi * (np.arange(SIDE)[:, None] + 0.5) * np.arange(FREQUENCIES) / SIDE).astype(np.float32)
    waves[:, 0] /= np.sqrt(2)
    weights = np.sqrt(np.hypot(*np.mgrid[:FREQUENCIES, :FREQUENCIES])).astype(np.float32)
    spectra = (waves.T @ thumbnails @ waves * weights).reshape(-1, FREQUENCIES**2)
    return cast("FloatArray", spectra / np.maximum(np.linalg.norm(spectra, axis=1, keepdims=True), 1e-6))


def _shown(thumbnails: FloatArray) -> FloatArray:
    """Share of each thumbnail that has detail: (N,), from 0 to 1."""
    inner = _detail(thumbnails)
    return cast("FloatArray", _weights(_covariance(inner, inner), NOISE).mean((1, 2)))


def _candidates(even: FloatArray, odd: FloatArray) -> tuple[IntArray, FloatArray]:
    """Pairs of roughly similar images, as they are or mirrored.

    Returns:
        (P, 2) indices, the first lower than the second, and (P,) correlations, negative for mirrored pairs.
    """
    found = [(np.zeros((0, 2), np.int64), np.zeros(0, np.float32))]
    for top in range(0, len(even), BLOCK):
        for left in range(top, len(even), BLOCK):
            rows, columns = slice(top, top + BLOCK), slice(left, left + BLOCK)
            direct, swapped = even[rows] @ even[columns].T, odd[rows] @ odd[columns].T
            places, correlations = _peaks(direct, swapped, diagonal=top == left)
            found.append((places + np.asarray((top, left)), correlations))
            if sum(len(places) for places, _ in found) > 8 * MOST_ALIKE * max(len(even), BLOCK):
                found = [_most_alike(found)]
    return _most_alike(found)


def _peaks(even: FloatArray, odd: FloatArray, *, diagonal: bool) -> tuple[IntArray, FloatArray]:
    """The high values of a block of products, even plus or minus odd; if there are very many, the highest per line.

    Args:
        diagonal: rows and columns are the same images.

    Returns:
        (P, 2) rows and columns, and (P,) correlations, negative for mirrored pairs.
    """
    highest = np.abs(odd)
    highest += even
    if diagonal:
        highest[np.tri(len(highest), dtype=np.bool_)] = 0
    places = np.flatnonzero(highest > ALIKE)  # much faster than nonzero if there are few
    if len(places) > MOST_ALIKE * sum(highest.shape):
        by_row = np.argpartition(highest, -MOST_ALIKE, axis=1)[:, -MOST_ALIKE:]
        by_column = np.argpartition(highest, -MOST_ALIKE, axis=0)[-MOST_ALIKE:]
        kept = np.zeros(highest.shape, np.bool_)
        np.put_along_axis(kept, by_row, True, axis=1)
        np.put_along_axis(kept, by_column, True, axis=0)
        places = np.flatnonzero(kept & (highest > ALIKE))
    rows, columns = np.divmod(places, highest.shape[1])
    return np.stack([rows, columns], axis=1), np.copysign(highest[rows, columns], odd[rows, columns] + SYMMETRIC)


def _most_alike(found: Sequence[tuple[IntArray, FloatArray]]) -> tuple[IntArray, FloatArray]:
    """Keep the pairs whose correlation is among the highest of their first or their second image."""
    places = np.concatenate([places for places, _ in found])
    correlations = np.concatenate([correlations for _, correlations in found])
    ranks = [_ranks(image, np.abs(correlations)) for image in places.T]
    kept = np.minimum(*ranks) < MOST_ALIKE
    return places[kept], correlations[kept]


def _ranks(keys: IntArray, values: FloatArray) -> IntArray:
    """The rank of each value among those of its key, 0 for the highest."""
    order = np.lexsort((-values, keys))
    starts = np.flatnonzero(np.diff(keys[order], prepend=-1))
    ranks = np.empty_like(keys)
    ranks[order] = np.arange(len(keys)) - np.repeat(starts, np.diff(starts, append=len(keys)))
    return ranks


# ---- second step: registered pairs, window by window


def _likeness(a: FloatArray, b: FloatArray, mirrored: npt.NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """Similarity of image pairs in [-1, 1], and the share of windows with detail in [0, 1]: (N,) both.

    Each window measures agreement in structure and contrast, weighted by its contrast.

    Args:
        a, b: (N, 32, 32) grey levels.
        mirrored: (N,) whether ``b`` is mirrored first.
    """
    a, b = _smooth(a), _smooth(np.where(mirrored[:, None, None], b[:, :, ::-1], b))
    shown = np.minimum(_shown(a), _shown(b))
    farthest = (FARTHEST * np.minimum(1, shown / SHARES[1])).astype(np.float32)
    a, b = _detail(a), _detail(_registered(a, b, farthest[:, None]))
    gain = np.sqrt((a * a).sum((1, 2)) / np.maximum((b * b).sum((1, 2)), 1e-6))[:, None, None]
    b = b * gain
    contrast = np.maximum((_covariance(a, a) + _covariance(b, b)) / 2, 1e-6)
    weights = _weights(contrast, NOISE * np.maximum(1, gain))
    return (weights * _covariance(a, b) / contrast).sum((1, 2)) / weights.sum((1, 2)), weights.mean((1, 2))


def _registered(fixed: FloatArray, moved: FloatArray, farthest: FloatArray) -> FloatArray:
    """Register ``moved`` to ``fixed`` by a shift and a stretch of each axis: (N, 32, 32) all.

    ``farthest``, (N, 1), bounds both in pixels, so that with little detail one object is not registered to a different
    one. Each step solves for brightness, contrast, shifts and stretches at once, linearised.
    """
    target = _centred(fixed[:, INNER, INNER]).reshape(len(fixed), -1, 1)
    motion = np.zeros((len(fixed), 4), np.float32)  # pixels: shift and stretch across, shift and stretch down
    laid = moved
    for _ in range(STEPS):
        dy, dx = (cast("FloatArray", np.gradient(laid, axis=axis))[:, INNER, INNER] for axis in (1, 2))
        inner = _centred(laid[:, INNER, INNER])
        terms = (inner, dx, dx * ACROSS[INNER], dy, dy * ACROSS[INNER, None], np.ones_like(inner))
        solved = _least_squares(np.stack(terms, axis=1).reshape(len(fixed), len(terms), -1), target)
        motion = np.clip(motion + solved[:, 1:5] / np.maximum(solved[:, :1], 0.3), -farthest, farthest)
        laid = _resampling(motion[:, 2:]) @ moved @ _resampling(motion[:, :2]).transpose(0, 2, 1)
    return laid


def _least_squares(terms: FloatArray, target: FloatArray) -> FloatArray:
    """Solve (N, T, P) terms for the (N, P, 1) target in least squares: (N, T) factors, slightly regularised."""
    normal = terms @ terms.transpose(0, 2, 1)
    scale = np.einsum("nii->n", normal)[:, None, None]
    ridge = np.eye(terms.shape[1], dtype=np.float32) * (1e-5 * scale + 1e-6)
    return cast("FloatArray", np.linalg.solve(normal + ridge, terms @ target)[:, :, 0])


def _resampling(motion: FloatArray) -> FloatArray:
    """(N, 32, 32) matrices that resample lines of 32 pixels: shifted, and stretched about their centre."""
    places = np.clip(np.arange(SIDE, dtype=np.float32) + motion[:, :1] + motion[:, 1:] * ACROSS, 0, SIDE - 1)
    return cast("FloatArray", np.maximum(0, 1 - np.abs(places[:, :, None] - np.arange(SIDE, dtype=np.float32))))


def _smooth(thumbnails: FloatArray) -> FloatArray:
    """Remove the finest detail, which scaling changes."""
    return _filtered(thumbnails, (0.25, 0.5, 0.25))


def _centred(images: FloatArray) -> FloatArray:
    """Subtract the mean of each image."""
    return cast("FloatArray", images - images.mean((1, 2), keepdims=True))


def _detail(thumbnails: FloatArray) -> FloatArray:
    """(N, 28, 28) local detail, without gradients such as a clear sky or uneven light."""
    return (thumbnails - _filtered(thumbnails, [1 / SURROUNDINGS] * SURROUNDINGS))[:, INNER, INNER]


def _covariance(a: FloatArray, b: FloatArray) -> FloatArray:
    """Local covariance of two images around each pixel."""
    box = [1 / WINDOW] * WINDOW
    return _filtered(a * b, box) - _filtered(a, box) * _filtered(b, box)


def _weights(variance: FloatArray, noise: float | FloatArray) -> FloatArray:
    """Weights from 0, for windows of pure noise, to 1."""
    return cast("FloatArray", variance / (variance + noise * noise))


def _filtered(images: FloatArray, kernel: Sequence[float]) -> FloatArray:
    """(N, S, S) images convolved with a kernel of odd length along both axes; borders repeat."""
    lines, reach = np.arange(images.shape[-1]), len(kernel) // 2
    matrix = np.zeros((len(lines), len(lines)), np.float32)
    for offset, weight in enumerate(kernel, -reach):
        matrix[lines, np.clip(lines + offset, 0, len(lines) - 1)] += np.float32(weight)
    return cast("FloatArray", matrix @ images @ matrix.T)
