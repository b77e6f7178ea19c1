"""read_pdparams: every dialect of Paddle's files is read; nothing in a file is ever run."""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.pdparams import DATA, GOOD, GOOD_BYTES, Write, nothing_runs, refused

from maskline.errors import InputNotFoundError
from maskline.weights.pdparams import read_pdparams


def test_the_watch_sees_harm() -> None:
    with pytest.raises(AssertionError), nothing_runs():
        pickle.loads(pickle.dumps(os.getcwd))


# What good files hold


@pytest.mark.parametrize("name", GOOD)
def test_every_dialect_gives_the_same_arrays(name: str) -> None:
    arrays = read_pdparams(DATA / f"{name}.pdparams")
    with np.load(DATA / "small_layer.npz") as expected:
        assert set(arrays) == set(expected.files)
        for key, array in arrays.items():
            np.testing.assert_array_equal(array, expected[key], strict=True)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "array",
    [
        np.array(3.5, np.float32),
        np.zeros((0, 3), np.float32),
        np.arange(24, dtype=np.float64).reshape(2, 3, 4),
        np.asfortranarray(np.arange(6, dtype=np.float16).reshape(2, 3)),
        np.arange(6, dtype=">i4").reshape(3, 2),
        np.array([[True, False]]),
        np.arange(200, dtype=np.uint8),
        np.array([-1, 2**62], np.int64),
        np.array([0x3F80, 0xFFFF], np.uint16),  # bfloat16 as Paddle stores it
    ],
    ids=lambda a: f"{a.dtype.str}{a.shape}",
)
def test_round_trip(write: Write, protocol: int, array: np.ndarray[Any, Any]) -> None:
    given = {"a": array, "b.c": np.ones(2, np.float32)}
    read = read_pdparams(write(pickle.dumps(given, protocol)))
    assert list(read) == ["a", "b.c"]
    np.testing.assert_array_equal(read["a"], array)
    assert read["a"].shape == array.shape and read["a"].dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_own_their_memory(write: Write, protocol: int) -> None:
    given = {"a": np.asfortranarray(np.ones((4, 5), ">f4")), "b": np.ones(3, np.int8)}
    for array in read_pdparams(write(pickle.dumps(given, protocol))).values():
        assert array.flags.owndata and array.flags.c_contiguous and array.flags.writeable and array.dtype.isnative


def test_name_table_is_dropped_and_pairs_are_opened(write: Write) -> None:
    ones = np.ones(2, np.float32)
    given = {"a": ("linear_0.w_0", ones), "b": ones * 2, "StructuredToParameterName@@": {"a": "linear_0.w_0"}}
    read = read_pdparams(write(pickle.dumps(given, 4)))
    assert list(read) == ["a", "b"]
    np.testing.assert_array_equal(read["a"], ones)


class Tensor:
    """Pickles as a Paddle tensor does outside of a plain state dict."""

    def __init__(self, name: str, value: np.ndarray[Any, Any]) -> None:
        self.pair = (name, value)

    def __reduce__(self) -> tuple[type[tuple[Any, ...]], tuple[object]]:
        return tuple, (self.pair,)


@pytest.mark.parametrize("protocol", [2, 4])
def test_tensors_in_an_ordered_dict(write: Write, protocol: int) -> None:
    given = collections.OrderedDict(a=Tensor("w_0", np.arange(3.0)))
    np.testing.assert_array_equal(read_pdparams(write(pickle.dumps(given, protocol)))["a"], np.arange(3.0))


def sliced(slices: list[str], shape: object = (2, 5)) -> bytes:
    parts = {f"w@@.{i}": np.arange(4 * i, min(4 * i + 4, 10), dtype=np.float32) for i in range(3)}
    table = {"w": {"OriginShape": shape, "slices": slices}}
    return pickle.dumps({"b": np.ones(2, np.float32), **parts, "UnpackBigParamInfor@@": table}, 2)


def test_cut_arrays_are_joined(write: Write) -> None:
    read = read_pdparams(write(sliced(["w@@.0", "w@@.1", "w@@.2"])))
    assert list(read) == ["b", "w"]
    np.testing.assert_array_equal(read["w"], np.arange(10, dtype=np.float32).reshape(2, 5), strict=True)
    assert read["w"].flags.owndata


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (sliced(["w@@.0", "w@@.1"]), "8 elements"),
        (sliced(["w@@.0", "w@@.0", "w@@.2"]), "names 'w@@.0'"),
        (sliced(["w@@.0", "w@@.1", "w@@.9"]), "names 'w@@.9'"),
        (sliced([]), "is invalid at 'w'"),
        (sliced(["w@@.0", "w@@.1", "w@@.2"], (2, -5)), "impossible shape"),
        (sliced(["w@@.0", "w@@.1", "w@@.2"], (2, "5")), "impossible shape"),
        (pickle.dumps({"a": np.ones(2), "UnpackBigParamInfor@@": [1]}, 2), "a list of 1, not a dict"),
    ],
)
def test_nonsense_about_cut_arrays(write: Write, data: bytes, word: str) -> None:
    refused(write(data), word)


# Files given by mistake


def zip_bytes() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("archive/data.pkl"), b"x")  # with a fixed date: it names a test
    return buffer.getvalue()


SAFETENSORS = struct.pack("<Q", 2) + b"{}" + b"\0" * 8


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "is empty"),
        (zip_bytes(), "zip archive"),
        (SAFETENSORS, "a safetensors file"),
        (bytes(257) + b"ustar" + bytes(250), "a tar or gzip archive"),
        (b"\n<html><body>404</body></html>", "a web page"),
        (bytes(40), ".pdiparams"),
        (pickle.dumps(0x1950A86A20F9469CFC6C, 2) + b"rest", "PyTorch file of the old format"),
        (b"hello", "starts with 68 65 6c"),
        (b"\x80", "starts with 80"),
        (b"\x80\x07.", "protocol 7"),
        (pickle.dumps({"a": 1}, 0), "not a pickle of protocol 2"),
        (GOOD_BYTES[:-100], "is invalid at byte"),
        (GOOD_BYTES[:2], "is invalid at byte 2"),
        (GOOD_BYTES + b"tail", "has data after its end"),
        (b"\x80\x04\xff.", "is invalid at byte 2"),
    ],
)
def test_other_files_are_named(write: Write, data: bytes, word: str) -> None:
    refused(write(data), word)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match=r"nothing\.pdparams: no such file; expected .*; check the path"):
        read_pdparams(tmp_path / "nothing.pdparams")
    with pytest.raises(FileNotFoundError):
        read_pdparams(str(tmp_path / "a" / "b"))


def test_folder_pipe_and_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    refused(tmp_path, "is a folder", "file inside it")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        refused(tmp_path / "pipe", "not a regular file")
    path = write(GOOD_BYTES)

    def deny(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    refused(path, "can't be read (Permission denied)")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"model": {"w": np.ones(2), "b": np.ones(2)}, "epoch": 3}, ["2 of 2", "'model' is a dict of 2 ('w', 'b')"]),
        (
            {f"k{i}": i for i in range(9)},
            ["entries that are not arrays: 9 of 9", "'k4' is a value of type int", "and 4 more"],
        ),
        ({"a": np.ones(2), "b": [1, 2]}, ["entries that are not arrays: 1 of 2", "'b' is a list of 2"]),
        ({"a": ("x", "y")}, ["'a' is a tuple of 2"]),
        ({"a": None}, ["'a' is None"]),
        ({"line\nbreak" + "x" * 99: {}}, [r"line\nbreak", "..."]),
        ({}, ["holds no arrays"]),
        ([np.ones(2)], ["holds a list of 1"]),
        (np.ones(2), ["holds a piece of an array"]),
        ({1: np.ones(2)}, ["type int as a key"]),
    ],
)
def test_other_contents_are_listed(write: Write, value: object, words: list[str]) -> None:
    refused(write(pickle.dumps(value, 4)), *words)
