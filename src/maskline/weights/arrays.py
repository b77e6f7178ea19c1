"""Weights files as arrays: read under our names and in our layout, without torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from maskline.errors import InputNotFoundError, WeightsError
from maskline.weights.pdparams import Array, read_pdparams

#: Regular expressions and replacements; all are applied to a name, in order.
Rules: TypeAlias = Sequence[tuple[str, str]]


def read_arrays(
    path: Path, rules: Rules, is_linear: Callable[[str], bool], *, part: str = ""
) -> tuple[dict[str, Array], dict[str, str]]:
    """Read a file of PaddleDetection as float32; also return the file's names where they differ from ours.

    Args:
        rules: from the file's names to ours; see `rename_keys`.
        is_linear: whether an array, by our name, is the weight of a linear layer.
        part: module that the file may contain alone, without prefix, such as ``backbone``.

    Raises: as `read_pdparams` and `rename_keys`.
    """
    arrays = read_pdparams(path)
    if part and not any(name.startswith(f"{part}.") for name in arrays):
        arrays = {f"{part}.{name}": array for name, array in arrays.items()}
    renamed = rename_keys(list(arrays), rules, same=lambda a, b: np.array_equal(arrays[a], arrays[b]))
    state = {}
    for old, new in renamed.items():
        array = arrays[old].astype(np.float32, copy=False) if arrays[old].dtype.kind == "f" else arrays[old]
        transposed = array.ndim == 2 and is_linear(new)
        state[new] = np.ascontiguousarray(array.T) if transposed else array  # Paddle's layout is (in, out)
    return state, {new: old for old, new in renamed.items() if new != old}


def weights_path(path: Path) -> Path:
    """Return the path, or ``NAME.safetensors`` next to it if ``NAME.pdparams`` does not exist.

    Raises InputNotFoundError if neither exists.
    """
    for candidate in (path, path.with_suffix(".safetensors")):
        if candidate.is_file():
            return candidate
    raise InputNotFoundError(f"no weights file {path}: give a .pdparams or .safetensors file")


def rename_keys(
    names: list[str], rules: Rules, same: Callable[[str, str], bool] = lambda one, other: False
) -> dict[str, str]:
    """Map old names to new ones; two may not become one.

    Args:
        same: whether the weights of two old names are equal. These may become one; the later name is left out.

    Raises:
        WeightsError: two names with different weights become one.
    """
    renamed: dict[str, str] = {}
    taken: dict[str, str] = {}
    for old in names:
        new = old
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        if new in taken and same(taken[new], old):
            continue
        if new in taken:
            raise WeightsError(f"weights {taken[new]!r} and {old!r} both map to {new!r}")
        renamed[old], taken[new] = new, old
    return renamed


def differences(
    expected: Mapping[str, Sequence[int]],
    given: Mapping[str, Sequence[int]],
    names_in_file: Mapping[str, str] | None = None,
) -> list[str]:
    """List the keys that don't match, by their shapes, a line each; empty if all do."""
    named = {k: f"{k} ({old} in the file)" for k, old in (names_in_file or {}).items()}
    faults = [f"missing: {k} {list(shape)}" for k, shape in expected.items() if k not in given]
    faults += [f"unexpected: {named.get(k, k)} {list(shape)}" for k, shape in given.items() if k not in expected]
    faults += [
        f"misshapen: {named.get(k, k)} is {list(given[k])}, expected {list(shape)}"
        for k, shape in expected.items()
        if k in given and list(given[k]) != list(shape)
    ]
    return faults


def misfit(path: Path, model: str, faults: Sequence[str], fitting: str | None) -> WeightsError:
    """The error for weights that don't fit a model; ``fitting`` is the one that they do fit."""
    counts = {kind: sum(f.startswith(kind) for f in faults) for kind in ("missing", "unexpected", "misshapen")}
    summary = ", ".join(f"{n} {kind}" for kind, n in counts.items()) + " keys"
    fits = f"these are the weights of {fitting}: name that model"
    advice = fits if fitting else "give the weights of that model"
    return WeightsError("\n  ".join([f"{path} does not fit {model}: {summary}; {advice}", *faults]))
