"""Join several rings to one polygon, for formats with a single polygon per instance, and separate them again.

The polygon runs along a ring, over a *bridge* to the next, along that, and back over the same bridge. Bridges have zero
width and the fill rule is even-odd, so the pixels are those of the parts minus the holes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from maskline.data.shapes import Ring, Segmentation, area, to_rle
from maskline.masks import Mask, Window, outlines

_ENDS = 2048  # vertices considered for the shortest bridges: time grows with their square


def boundary(mask: Mask, window: Window) -> list[Ring]:
    """All rings of a mask, around regions and holes, on pixel corners; filled even-odd they give the mask.

    Args:
        mask: (bottom - top, right - left).
        window: its position in the image.
    """
    outer, holes = outlines(mask, window.origin)
    return [np.asarray(flat).reshape(-1, 2) for flat in (*outer, *holes)]


def apart(ring: Ring, size: tuple[int, int]) -> Segmentation:
    """The shape of a polygon without bridges: its parts, or RLE if it has holes."""
    rings = _unbridged(ring)
    if len(rings) == 1 and len(rings[0]) == len(ring):
        return (ring,)
    whole = to_rle((ring,), size)
    apart_from_each_other = sum(area((part,), size) for part in rings) == area(whole, size)
    return rings if rings and apart_from_each_other else whole


def _unbridged(ring: Ring) -> tuple[Ring, ...]:
    """The rings of a bridged polygon: what remains without the edges that are traversed in both directions."""
    ends = list(map(tuple, ring.tolist()))
    if len(set(ends)) == len(ends):
        return (ring,)
    twins = _twins(list(zip(ends, ends[1:] + ends[:1], strict=True)))
    rings, done = [], set(twins)
    for first in range(len(ends)):
        edge, members = first, []
        while edge not in done:
            done.add(edge)
            members.append(edge)
            edge = (edge + 1) % len(ends)
            while edge in twins:  # the ring continues on the far side of a bridge
                edge = (twins[edge] + 1) % len(ends)
        if len(members) >= 3:
            rings.append(ring[members])
    return tuple(rings)


def _twins(edges: Sequence[tuple[object, object]]) -> dict[int, int]:
    """Edges that are traversed in both directions, each with its reverse."""
    waiting: defaultdict[tuple[object, object], list[int]] = defaultdict(list)
    twins: dict[int, int] = {}
    for number, (start, end) in enumerate(edges):
        if back := waiting[end, start]:
            other = back.pop()
            twins[number], twins[other] = other, number
        else:
            waiting[start, end].append(number)
    return twins


def bridged(rings: Sequence[Ring]) -> Ring:
    """Join rings to one polygon: each gets a short bridge to an earlier one."""
    if len(rings) == 1:
        return rings[0]
    after: list[int] = []  # next vertex, by vertex of the walk
    for ring in rings:
        first = len(after)
        after += [*range(first + 1, first + len(ring)), first]
    place = list(range(len(after)))  # index among all points, by vertex of the walk
    before = np.argsort(after).tolist()
    for near, far in _bridges(rings):
        back_far, back_near = len(after), len(after) + 1  # the ends of the bridge again, for the way back
        place += [far, near]
        after += [back_near, after[near]]
        after[before[far]], after[near] = back_far, far
    walk, vertex = [], 0
    for _ in after:
        walk.append(place[vertex])
        vertex = after[vertex]
    return np.concatenate(rings)[walk]


def _bridges(rings: Sequence[Ring]) -> Iterator[tuple[int, int]]:
    """A minimum spanning tree of bridges over all rings (Prim): pairs of a joined vertex and a new one.

    Vertices are numbered across all rings. If there are many, only a subset is considered.
    """
    owner = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    ends = np.union1d(first, np.arange(0, len(owner), math.ceil(len(owner) / _ENDS)))
    if len(first) > _ENDS:  # time grows with their square too: join each ring to the one before
        yield from zip(first[:-1].tolist(), first[1:].tolist(), strict=True)
        return
    points, owner = np.concatenate(rings)[ends], owner[ends]
    nearest, distance = np.zeros(len(ends), np.int64), np.full(len(ends), np.inf)
    left, new = np.arange(len(ends)), 0
    for _ in range(len(rings) - 1):
        joined, left = np.flatnonzero(owner == new), left[owner[left] != new]
        gaps = np.square(points[left, None] - points[joined]).sum(axis=2)  # (left, joined)
        closer = gaps.min(axis=1) < distance[left]
        nearest[left[closer]] = joined[gaps[closer].argmin(axis=1)]
        distance[left[closer]] = gaps[closer].min(axis=1)
        far = left[distance[left].argmin()]
        yield int(ends[nearest[far]]), int(ends[far])
        new = owner[far]
