"""Duplicates and near-duplicates of images: a sign that images of the training split are evaluated on.

Of each image a digest of its pixels is kept, which finds the same image in other files, and a grey thumbnail of
32 x 32 pixels. Thumbnails are compared in two steps:

1. All with all by their lowest frequencies (a cosine transform, as in perceptual hashes), which JPEG, scaling and
   slight cropping hardly change. These are products of matrices: quadratic, and yet for 100,000 images far quicker
   than decoding them; nothing is missed, as it would be by tables of hashes.
2. Those that are alike are laid over each other (Lucas and Kanade's registration, 1981, for a shift and a scale of each
   axis), then compared place by place, as SSIM does (Wang et al., 2004). So a bright border, or a background that a
   whole series has in common, does not outweigh what differs.
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
REDUCED = 256  # pixels; larger images are first brought to this, in whole grey levels

FREQUENCIES = 8  # lowest ones compared, both ways
ALIKE = 0.75  # correlation of these, for a closer look; images cropped by 3 % have 0.82 and more
SYMMETRIC = 0.01  # correlation that mirrored images have less of than as they are, for them to be called mirrored
MOST_ALIKE = 4  # images before it, and after it, that one is compared with, where it is like very many
BLOCK = 1024  # images compared with as many at once

STEPS = 3  # of registration
FARTHEST = 1.6  # pixels of a thumbnail that registration may shift or stretch: 5 %; less where little is shown
MARGIN = 2  # pixels at the border that are not compared, since a crop may lack them
WINDOW = 7  # pixels of a place, both ways
SURROUNDINGS = 9  # pixels, both ways, of which a pixel shows a difference
NOISE = 3.0  # grey levels: a place with less contrast counts less
SAME_SHAPE = 1.08  # ratio of two aspect ratios
#: Similarity from which two images are nearly the same, by the share of the thumbnail that shows anything. Images
#: with little in them, such as one cell on black ground, look alike by chance.
SHARES, BARS = (0.0, 0.3), (0.98, 0.88)
LEAST_SHARE = 0.01  # with less in it, an image is compared by its pixels only
AT_ONCE = 512  # pairs looked at closely

INNER = slice(MARGIN, SIDE - MARGIN)
ACROSS = np.linspace(-1, 1, SIDE, dtype=np.float32)  # pixels' places along a line


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What is kept of an image, 1.3 KB.

    Attributes:
        digest: of its size and pixels.
        thumbnail: (32, 32) uint8, row by row: grey, its darkest pixel 0 and its brightest 255.
        darkest, brightest: the grey levels these two stand for, 0 to 255.
        aspect: width / height.
    """

    digest: bytes
    thumbnail: bytes
    darkest: float
    brightest: float
    aspect: float


@dataclass(frozen=True, slots=True, order=True)
class Pair:
    """Two images that are the same, or nearly.

    Attributes:
        first, second: their places in the list given, ``first < second``.
        exact: all pixels are equal.
        similarity: from 0 to 1; 1 if exact.
        mirrored: one is nearly the other with left and right swapped.
    """

    first: int
    second: int
    exact: bool
    similarity: float
    mirrored: bool = False


def fingerprint(pixels: ByteArray) -> Fingerprint:
    """What `pairs` needs to know of an image. 1 ms for 640 x 480 pixels; threads may call it at once.

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


def pairs(fingerprints: Sequence[Fingerprint]) -> list[Pair]:
    """The images of a list that are the same or nearly so, in the order of ``first``, then ``second``.

    Of images that are all the same each is paired with **the last** only, and only that one is compared with others:
    the rest follows. So in a list in the order train, val, test, each image that should go names the one to keep.

    Nearly the same are images of which one was saved as JPEG (of quality 30 or better), resized, made grey, slightly
    brighter or darker, cropped by up to 3 %, mirrored, or several of these. Images with next to nothing in them are
    compared by their pixels only. An image like very many others (a film of a scene without motion) is paired with the
    most alike, so that work and memory stay bounded.
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
    """Pairs with equal pixels, and the places of images that differ."""
    last = {found.digest: place for place, found in enumerate(fingerprints)}
    partners = ((place, last[found.digest]) for place, found in enumerate(fingerprints))
    exact = [Pair(first, second, True, 1.0) for first, second in partners if first != second]
    return exact, sorted(last.values())


def _near(fingerprints: Sequence[Fingerprint]) -> Iterator[tuple[int, int, float, bool]]:
    """First, second, similarity and whether mirrored, in any order."""
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
    """(N, 32, 32), grey levels."""
    levels = np.frombuffer(b"".join(found.thumbnail for found in fingerprints), np.uint8).reshape(-1, SIDE, SIDE)
    darkest = np.asarray([found.darkest for found in fingerprints], np.float32)[:, None, None]
    brightest = np.asarray([found.brightest for found in fingerprints], np.float32)[:, None, None]
    return np.add(levels * ((brightest - darkest) / 255), darkest, dtype=np.float32)


# ---- all with all, by their lowest frequencies


def _descriptors(fingerprints: Sequence[Fingerprint]) -> tuple[IntArray, FloatArray, FloatArray]:
    """Vectors whose product is the correlation of two images: what is even from left to right, and what is odd.

    The even part plus the odd compares two images as they are; minus, one with the other mirrored.

    Returns:
        (M,) the places of those that show enough, then their vectors, (M, 31) and (M, 32).
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
    """The lowest frequencies of the cosine transform: (N, 64), row by row, of length 1, but for the mean, which is 0.

    Lower frequencies, which are stronger in every image, are weighed down.
    """
    waves = np.cos(np.pi * (np.arange(SIDE)[:, None] + 0.5) * np.arange(FREQUENCIES) / SIDE).astype(np.float32)
    waves[:, 0] /= np.sqrt(2)
    weights = np.sqrt(np.hypot(*np.mgrid[:FREQUENCIES, :FREQUENCIES])).astype(np.float32)
    spectra = (waves.T @ thumbnails @ waves * weights).reshape(-1, FREQUENCIES**2)
    return cast("FloatArray", spectra / np.maximum(np.linalg.norm(spectra, axis=1, keepdims=True), 1e-6))


def _shown(thumbnails: FloatArray) -> FloatArray:
    """(N,) shares of the places of a thumbnail that show anything."""
    inner = _detail(thumbnails)
    return cast("FloatArray", _weights(_covariance(inner, inner), NOISE).mean((1, 2)))


def _candidates(even: FloatArray, odd: FloatArray) -> tuple[IntArray, FloatArray]:
    """Pairs of images that are roughly alike, as they are or mirrored.

    Returns:
        (P, 2) places, the first lower than the second, and (P,) correlations, below 0 for mirrored.
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
    """Where a block of products is high, its two parts added or subtracted; of very many, the highest of each line.

    Args:
        diagonal: rows and columns are the same images.

    Returns:
        (P, 2) rows and columns, and (P,) correlations, below 0 for mirrored.
    """
    highest = np.abs(odd)
    highest += even
    if diagonal:
        highest[np.tri(len(highest), dtype=np.bool_)] = 0
    places = np.flatnonzero(highest > ALIKE)  # much quicker than nonzero, if there is little
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
    """Of pairs and their correlations those that are among the highest of their first or their second image."""
    places = np.concatenate([places for places, _ in found])
    correlations = np.concatenate([correlations for _, correlations in found])
    ranks = [_ranks(image, np.abs(correlations)) for image in places.T]
    kept = np.minimum(*ranks) < MOST_ALIKE
    return places[kept], correlations[kept]


def _ranks(keys: IntArray, values: FloatArray) -> IntArray:
    """The place of each value among those of its key, 0 for the highest."""
    order = np.lexsort((-values, keys))
    starts = np.flatnonzero(np.diff(keys[order], prepend=-1))
    ranks = np.empty_like(keys)
    ranks[order] = np.arange(len(keys)) - np.repeat(starts, np.diff(starts, append=len(keys)))
    return ranks


# ---- one with one, place by place


def _likeness(a: FloatArray, b: FloatArray, mirrored: npt.NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """How alike images are, in [-1, 1], and the share of places where they show anything, in [0, 1]: (N,) both.

    A place tells how well its contents agree, in structure and in contrast; where there is no contrast it has no say.

    Args:
        a, b: (N, 32, 32) grey levels.
        mirrored: whether ``b`` is to be taken mirrored.
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
    """``moved`` laid over ``fixed``, by a shift and a stretch of each axis: (N, 32, 32) all.

    ``farthest``, (N, 1), is the most pixels these may be: where little is shown, so that one object is not laid over
    any other. Each step solves for brightness, contrast, shifts and stretches at once, in which change is about linear.
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
    """(N, T) factors of the (N, T, P) terms whose sum comes nearest to the (N, P, 1) target."""
    normal = terms @ terms.transpose(0, 2, 1)
    scale = np.einsum("nii->n", normal)[:, None, None]
    ridge = np.eye(terms.shape[1], dtype=np.float32) * (1e-5 * scale + 1e-6)
    return cast("FloatArray", np.linalg.solve(normal + ridge, terms @ target)[:, :, 0])


def _resampling(motion: FloatArray) -> FloatArray:
    """(N, 32, 32) matrices that resample lines of 32 pixels: shifted, and stretched about their middle."""
    places = np.clip(np.arange(SIDE, dtype=np.float32) + motion[:, :1] + motion[:, 1:] * ACROSS, 0, SIDE - 1)
    return cast("FloatArray", np.maximum(0, 1 - np.abs(places[:, :, None] - np.arange(SIDE, dtype=np.float32))))


def _smooth(thumbnails: FloatArray) -> FloatArray:
    """Without the finest detail, which scaling changes."""
    return _filtered(thumbnails, (0.25, 0.5, 0.25))


def _centred(images: FloatArray) -> FloatArray:
    """With a mean of 0."""
    return cast("FloatArray", images - images.mean((1, 2), keepdims=True))


def _detail(thumbnails: FloatArray) -> FloatArray:
    """(N, 28, 28): what stands out from its surroundings, without slopes such as a clear sky or uneven light."""
    return (thumbnails - _filtered(thumbnails, [1 / SURROUNDINGS] * SURROUNDINGS))[:, INNER, INNER]


def _covariance(a: FloatArray, b: FloatArray) -> FloatArray:
    """Of two images, around each of their pixels."""
    box = [1 / WINDOW] * WINDOW
    return _filtered(a * b, box) - _filtered(a, box) * _filtered(b, box)


def _weights(variance: FloatArray, noise: float | FloatArray) -> FloatArray:
    """From 0 for places that show nothing but noise, to 1."""
    return cast("FloatArray", variance / (variance + noise * noise))


def _filtered(images: FloatArray, kernel: Sequence[float]) -> FloatArray:
    """(N, S, S) images convolved with a kernel of odd length, both ways; borders repeat."""
    lines, reach = np.arange(images.shape[-1]), len(kernel) // 2
    matrix = np.zeros((len(lines), len(lines)), np.float32)
    for offset, weight in enumerate(kernel, -reach):
        matrix[lines, np.clip(lines + offset, 0, len(lines) - 1)] += np.float32(weight)
    return cast("FloatArray", matrix @ images @ matrix.T)
