"""Parse values in records of COCO's JSON: ids, sizes, polygons, RLE; None for invalid ones."""

from __future__ import annotations

import gc
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard, cast

import numpy as np

from maskline._files import read_json
from maskline._wording import short
from maskline.data.dataset import NOTHING, Extra, Id
from maskline.data.safe_json import is_plain, plain
from maskline.data.shapes import Polygons, Ring
from maskline.errors import DatasetError, DatasetNotFoundError, ParameterError
from maskline.masks import rle_runs, runs_rle

Json: TypeAlias = dict[str, Any]

MAX_COORDINATE = 1e9  # pixels; larger coordinates are invalid

# A number in compressed RLE is up to 12 characters, all but the last with the sixth bit set.
_COMPRESSED = re.compile(r"(?:[P-o]{0,11}[0-O])+")


class Rings:
    """Polygons of one annotation, packed during JSON parsing: Python floats take 4 times the memory."""

    __slots__ = ("rings",)

    def __init__(self, rings: Polygons) -> None:
        self.rings = rings

    def __repr__(self) -> str:
        return repr(self.lists())

    def lists(self) -> list[list[float]]:
        """The polygons as flat lists, as in JSON."""
        return [ring.ravel().tolist() for ring in self.rings]


def parse_json(path: Path) -> Json:
    """Parse a file, with polygons packed as `Rings`. Raises DatasetNotFoundError, DatasetError."""
    try:
        with _no_garbage_collection():
            content = read_json(path, object_hook=_pack)
    except FileNotFoundError:
        raise DatasetNotFoundError(f"{path} does not exist") from None
    except OSError as error:
        raise DatasetError(f"{path} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise DatasetError(f"{path} is not readable JSON ({error})") from None
    if not isinstance(content, dict):
        raise DatasetError(f"{path} holds {type(content).__name__}: expected images, annotations and categories")
    return content


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Disable garbage collection: parsed JSON has no cycles, and the search for them takes half the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def records(content: Json, key: str, path: Path) -> list[Any]:
    """One of the lists ``images``, ``annotations`` and ``categories``. Raises DatasetError."""
    found = content.get(key)
    if not isinstance(found, list):
        given = "is missing" if key not in content else f"is {short(found)}"
        raise DatasetError(f"{path}: {key} {given}, expected a list (COCO instances: images, annotations, categories)")
    return found


def _pack(record: Json) -> Json:
    """Pack the polygons of a JSON object; called as soon as each is parsed."""
    given = record.get("segmentation")
    if isinstance(given, list) and given:
        rings = [flat_ring(flat) for flat in given]
        if all(ring is not None for ring in rings):
            record["segmentation"] = Rings(tuple(cast("list[Any]", rings)))
    return record


# ---- shapes


def flat_ring(flat: Any) -> Ring | None:
    """A flat list ``x y x y ...`` as (V, 2), without a repeated first vertex at the end; None if not a polygon."""
    if not isinstance(flat, list) or len(flat) < 6 or len(flat) % 2:
        return None
    try:
        values = np.array(flat)
    except (ValueError, OverflowError):
        return None
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        return None
    ring = values.astype(np.float64).reshape(-1, 2)
    low, high = ring.min(axis=0), ring.max(axis=0)
    if not (low > -MAX_COORDINATE).all() or not (high < MAX_COORDINATE).all() or not (high > low).all():
        return None
    if len(ring) > 3 and (ring[0] == ring[-1]).all():
        ring = ring[:-1]
    alone: Ring = ring.copy()  # a view would keep a second array alive
    return alone


def ring_of_points(points: Any) -> Ring | None:
    """A list of points ``[x, y]`` as (V, 2); None if it is something else."""
    pairs = isinstance(points, list) and all(isinstance(point, list) and len(point) == 2 for point in points)
    return flat_ring([value for point in points for value in point]) if pairs else None


def compressed_rle(given: Json, size: tuple[int, int]) -> str:
    """RLE of either form as compressed counts. Raises ParameterError if invalid or not of ``size``."""
    counts, stated = given.get("counts"), given.get("size")
    if stated is not None and stated != list(size):
        raise ParameterError(f"the run lengths are of size {short(stated)}: expected {list(size)} (height, width)")
    if isinstance(counts, list):
        if not counts or not all(type(n) is int and 0 <= n <= size[0] * size[1] for n in counts):
            raise ParameterError(f"counts are {short(counts)}: expected integers, numbers of pixels")
        if sum(counts) != size[0] * size[1]:
            raise ParameterError(f"counts add up to {sum(counts)}: expected {size[0] * size[1]}, the image's pixels")
        return runs_rle(np.asarray(counts, np.int64))
    if not isinstance(counts, str) or not _COMPRESSED.fullmatch(counts):
        raise ParameterError(f"counts are {short(counts)}: expected a list or COCO's compressed string")
    rle_runs(counts, size)
    return counts


# ---- numbers and the rest


def box(given: Any) -> tuple[float, float, float, float] | None:
    """A box ``x y width height``; None if invalid."""
    if isinstance(given, list) and len(given) == 4 and all(map(is_number, given)):
        x, y, width, height = map(float, given)
        return x, y, width, height
    return None


def size(run_lengths: Json) -> tuple[int, int] | None:
    """The ``(height, width)`` stated by an RLE; None if invalid."""
    given = run_lengths.get("size")
    if isinstance(given, list) and len(given) == 2:
        height, width = map(as_integer, given)
        return None if height is None or width is None else (height, width)
    return None


def value_of(record: Any, key: str) -> Any:
    """A value of a record; None if it is missing, or if the record is not an object."""
    return record.get(key) if isinstance(record, dict) else None


def id_of(record: Any, key: str) -> Id | None:
    """An id: a string or an integer; None if invalid."""
    value = value_of(record, key)
    if isinstance(value, str):
        return value
    return value if type(value) is int else as_integer(value)


class Ids:
    """The ids of a list, as annotations refer to them."""

    def __init__(self, ids: Iterable[Id | None]) -> None:
        self._known = {key for key in ids if key is not None}
        self._by_text = {str(key): key for key in self._known}

    def meant(self, given: Id | None) -> Id | None:
        """The id itself, or, if it is unknown, a known one that differs in type only, as "1" from 1."""
        return given if given is None or given in self._known else self._by_text.get(str(given).strip(), given)


def as_integer(value: Any) -> int | None:
    """An integer, also written as 3.0; None if invalid."""
    return int(value) if is_number(value) and float(value).is_integer() else None


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 1 << 63 if isinstance(value, int) else math.isfinite(value)


def extra(record: Json, known: Iterable[str]) -> tuple[Extra, list[str]]:
    """Unknown keys of a record as valid JSON, and those of them in which a value became null."""
    found = {key: _unpacked(value) for key, value in record.items() if key not in known}
    odd = [key for key, value in found.items() if not is_plain(value)]
    return (plain(found) if odd else found) or NOTHING, odd


def _unpacked(value: Any) -> Any:
    """A value without the `Rings` that `parse_json` packs under any key ``segmentation``."""
    if isinstance(value, Rings):
        return value.lists()
    if isinstance(value, dict):
        return {key: _unpacked(part) for key, part in value.items()}
    return list(map(_unpacked, value)) if isinstance(value, list) else value
