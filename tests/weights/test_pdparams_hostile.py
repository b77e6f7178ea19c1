"""Weights files that are made to do harm: calls, odd types, opcodes by hand, bombs. Nothing of them runs."""

from __future__ import annotations

import collections
import os
import pickle
import pickletools
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.pdparams import DATA, GOOD, GOOD_BYTES, Write, nothing_runs, refused
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import maskline.weights.pdparams as module
from maskline.errors import WeightsError
from maskline.weights.pdparams import read_pdparams

# Files that mean harm


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


class Subclass(np.ndarray[Any, Any]):
    pass


class Custom:
    def __setstate__(self, state: object) -> None:
        raise AssertionError("ran")

    def __getstate__(self) -> dict[str, int]:
        return {"a": 1}


def test_the_given_hostile_file() -> None:
    marker = Path("/tmp/maskline_pwned")
    marker.unlink(missing_ok=True)
    refused(DATA / "hostile.pdparams", "asks for 'posix.system'", "nothing was run")
    assert not marker.exists()


HARMFUL: list[tuple[object, str]] = [
    (Call(os.system, "touch marker"), "system"),
    (Call(eval, "1+1"), "eval"),
    (Call(exec, "1+1"), "exec"),
    (Call(getattr, "text", "join"), "getattr"),
    (Call(getattr, Call(__import__, "os"), "system"), "getattr"),
    (Call(np.load, "x.npy"), "load"),
    (Call(np.fromfile, "/etc/passwd"), "fromfile"),
    (Call(subprocess.Popen, ["true"]), "Popen"),
    (Call(open, "marker", "w"), "open"),
    (Call(bytearray, 1 << 40), "bytearray"),
    (Call(collections.deque, [1]), "deque"),
    (Custom(), "Custom"),
    (np.ones(2).view(Subclass), "Subclass"),
    (np.array([1, "a", None], object), "'O8'"),
    (np.array([Call(os.system, "true")], object), "'O8'"),
    (np.zeros(2, [("x", "f4"), ("y", "i8")]), "'V12'"),
    (np.array(["text"]), "'U4'"),
    (np.array(["2020"], "M8[D]"), "'M8'"),
    (np.zeros(2, np.complex64), "'c8'"),
    (np.float32(1), "scalar"),
    (pickle.PickleBuffer, "PickleBuffer"),
    ({1, 2}, ""),
]
HARM = [(pickle.dumps({"a": np.ones(2), "b": value}, n), word) for value, word in HARMFUL for n in (2, 3, 4, 5)]


@pytest.mark.parametrize(("data", "word"), HARM, ids=[f"{word}-{i % 4 + 2}" for i, (_, word) in enumerate(HARM)])
def test_calls_and_odd_types_are_refused(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(write(data), word)
    assert not (tmp_path / "marker").exists()


def assembled(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
EMPTY = RECONSTRUCT + b"cnumpy\nndarray\nK\x00\x85C\x01b\x87R"  # an array that awaits its state
FLOAT = (
    b"cnumpy\ndtype\n"
    + text("f4")
    + b"\x89\x88\x87R(K\x03"
    + text("<")
    + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)


def state(shape: bytes, dtype: bytes = FLOAT, fortran: bytes = b"\x89", data: bytes = b"C\x00") -> bytes:
    return b"(K\x01" + shape + dtype + fortran + data + b"tb"


def entry(value: bytes) -> bytes:
    return assembled(b"}", text("w"), value, b"s")


HUGE = b"\x8a\x08" + struct.pack("<q", 1 << 60)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (assembled(b"(iposix\nsystem\n"), "opcode INST"),
        (assembled(b"(cposix\nsystem\n", text("true"), b"o"), "posix.system"),
        (assembled(b"(No"), "opcode OBJ"),
        (assembled(b"\x82\x01"), "opcode EXT1"),
        (assembled(b"\x83\x01\x00"), "opcode EXT2"),
        (assembled(b"\x84\x01\x00\x00\x00"), "opcode EXT4"),
        (assembled(b"Pid\n"), "opcode PERSID"),
        (assembled(text("id"), b"Q"), "opcode BINPERSID"),
        (assembled(b"cnumpy\nndarray\n", b")\x81"), "opcode NEWOBJ"),
        (assembled(b"cnumpy\nndarray\n", b")}\x92"), "opcode NEWOBJ_EX"),
        (assembled(b"\x97"), "opcode NEXT_BUFFER"),
        (assembled(b"S'a\\q'\n"), "opcode STRING"),
        (assembled(b"L" + b"9" * 10000 + b"L\n"), "opcode LONG"),
        (assembled(b"(\x90"), "opcode"),
        (assembled(b"cnumpy\nndarray.__class__\n"), "numpy.ndarray.__class__"),
        (assembled(text("numpy"), text("dtype.type.mro"), b"\x93"), "numpy.dtype.type.mro"),
        (assembled(b"cnumpy\nd\\type\n"), r"asks for 'numpy.d\\type'"),
        (assembled(b"cnumpy\n\\x64type\n"), "asks for"),
        (assembled(b"cnumpy\n\xff\n"), "is invalid"),
        (assembled(b"cnumpy"), "asks for 'numpy..'"),
        (assembled(text("os"), b"N\x93"), "a name made of a value of type str and None"),
        (assembled(b"c__builtin__\neval\n", text("1"), b"\x85R"), "__builtin__.eval"),
        (assembled(b"cnumpy\nndarray\n", HUGE, b"\x85\x85R"), "calls ndarray in a way"),
        (assembled(RECONSTRUCT, b"cnumpy\nndarray\n", HUGE, b"\x85C\x01b\x87R"), "calls reconstruct in a way"),
        (assembled(RECONSTRUCT, b"cnumpy\ndtype\nK\x00\x85C\x01b\x87R"), "calls reconstruct in a way"),
        (assembled(b"c_codecs\nencode\n", text("a"), text("rot13"), b"\x86R"), "calls encode in a way"),
        (assembled(b"c_codecs\nencode\n", text("\u20ac"), text("latin1"), b"\x86R"), "a string where bytes should be"),
        (assembled(b"NN\x85R"), "calls None"),
        (assembled(b"cnumpy\nndarray\n", b"]R"), "with a list of 0"),
        (assembled(b"}}b"), "sets the state of an empty dict"),
        (assembled(b"cnumpy\nndarray\n}b"), "sets the state of a piece of an array"),
        (assembled(b"NN"), "unfinished"),
        (assembled(b"(N"), "unfinished"),
        (assembled(b""), "unfinished"),
        (assembled(b"\x85"), "pops more from its pickle stack"),
        (assembled(b"N(\x85"), "pops more from its pickle stack"),
        (assembled(b"Nt"), "lacks a mark"),
        (assembled(b"h\x05"), "item 5 of its pickle memo"),
        (assembled(b"NNa"), "appends to None"),
        (assembled(b"](NNu"), "sets items of a list"),
        (assembled(b"}(Nu"), "sets items of"),
        (entry(EMPTY), "'w' is a piece of an array"),
        (entry(EMPTY + state(HUGE + b"\x85")), "impossible shape"),
        (entry(EMPTY + state(b"J\xff\xff\xff\xff\x85")), "impossible shape"),
        (entry(EMPTY + state(b"\x88\x85", data=b"C\x04abcd")), "impossible shape"),
        (entry(EMPTY + state(b"(" + b"K\x01" * 33 + b"t", data=b"C\x04abcd")), "impossible shape"),
        (entry(EMPTY + state(b"K\x00" + HUGE + b"\x86")), "impossible shape"),
        (entry(EMPTY + state(b"J\x00\x00\x00\x40\x85")), "of shape (1073741824,), type float32, with 0 bytes"),
        (entry(EMPTY + state(b"K\x02\x85", data=b"C\x04abcd")), "with 4 bytes of data"),
        (entry(EMPTY + state(b"K\x01\x85", data=b"]")), "in a way NumPy never does"),
        (entry(EMPTY + state(b"K\x01\x85", dtype=b"N")), "in a way NumPy never does"),
        (entry(EMPTY + state(b"N", data=b"C\x04abcd")), "in a way NumPy never does"),
        (
            entry(EMPTY + state(b"K\x01\x85", data=b"C\x04abcd") + state(b"K\x01\x85", data=b"C\x04abcd")),
            "in a way NumPy never does",
        ),
        (
            entry(EMPTY + state(b"K\x01\x85", b"cnumpy\ndtype\n" + text("f4") + b"\x89\x88\x87R")),
            "without a byte order",
        ),
        (entry(EMPTY + state(b"K\x01\x85", FLOAT + b"(K\x03" + text("<") + b"NNNNNNtb")), "fields or other extras"),
        (entry(b"\x8e" + struct.pack("<Q", 1 << 62) + b"x"), "is invalid"),
        (entry(b"B\xff\xff\xff\xff"), "is invalid"),
        (b"\x80\x05}X\x01\x00\x00\x00w\x96" + struct.pack("<Q", 1 << 50) + b"s.", "is invalid"),
        (entry(b"X\x02\x00\x00\x00\xff\xff"), "is invalid"),
    ],
)
def test_handmade_opcodes(write: Write, data: bytes, word: str) -> None:
    refused(write(data), word)


def test_memo_index_does_not_reserve_memory(write: Write) -> None:
    good = assembled(b"}r\xff\xff\xff\x7f", text("w"), EMPTY, state(b"K\x01\x85", data=b"C\x04abcd"), b"s")
    assert list(read_pdparams(write(good))) == ["w"]


@pytest.mark.parametrize("wrap", [b"\x85", b"0]"], ids=["tuple", "list"])
@pytest.mark.parametrize("as_key", [False, True])
def test_deep_nesting(write: Write, wrap: bytes, as_key: bool) -> None:
    deep = b")" + b"\x85" * 400_000 if wrap == b"\x85" else b"]" * 200_000 + b"a" * 199_999
    refused(write(assembled(b"}", deep, b"Ns") if as_key else entry(deep)), "tuple" if wrap == b"\x85" else "list")


def test_bytes_used_over_and_over_are_a_bomb(write: Write) -> None:
    data = bytes(1 << 16)
    first = EMPTY + state(
        b"J\x00\x00\x01\x00\x85", dtype=FLOAT.replace(b"f4", b"u1"), data=b"B\x00\x00\x01\x00" + data + b"q\x01"
    )
    again = EMPTY + state(b"J\x00\x00\x01\x00\x85", dtype=FLOAT.replace(b"f4", b"u1"), data=b"h\x01")
    refused(write(assembled(b"}", text("a"), first, b"s", *[text("b") + again + b"s"] * 9)), "memory bomb")


def test_text_encoded_over_and_over_is_a_bomb(write: Write) -> None:
    once = b"c_codecs\nencode\nq\x02" + text("x" * 100_000) + b"q\x01" + text("latin1") + b"q\x03\x86R0"
    with_pop = once.replace(b"R0", b"R")
    again = b"h\x02h\x01h\x03\x86R"
    refused(write(assembled(b"](", with_pop, again * 1000, b"e")), "memory bomb")


def test_too_many_opcodes(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_OPERATIONS", 1000)
    refused(write(assembled(b"](", b"}" * 2000, b"e")), "more than 1000 pickle opcodes")


def test_too_large_a_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_FILE", 1000)
    refused(write(GOOD_BYTES), "more than the 1000 allowed")


def test_no_memory(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> bytes:
        raise MemoryError

    monkeypatch.setattr(module, "_read", fail)
    refused(write(GOOD_BYTES), "more memory than is available")


def test_aliases_stay_one_array(write: Write) -> None:
    ones = np.ones(1000)
    read = read_pdparams(write(pickle.dumps({f"n{i}": ones for i in range(100)}, 4)))
    assert len(read) == 100 and len({id(array) for array in read.values()}) == 1


# Fuzz


def attempt(path: Path) -> None:
    """Read, and take either arrays or a WeightsError; anything else is a failure."""
    try:
        with nothing_runs():
            arrays = read_pdparams(path)
    except WeightsError as error:
        assert "\n" not in str(error)
    else:
        for name, array in arrays.items():
            assert isinstance(name, str) and type(array) is np.ndarray
            assert array.dtype.kind in "biuf" and array.flags.owndata and array.flags.c_contiguous


edits = st.lists(st.tuples(st.integers(0, 3000), st.binary(max_size=3), st.integers(0, 3)), min_size=1, max_size=8)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(GOOD), edits=edits)
def test_fuzz_mutations(write: Write, name: str, edits: list[tuple[int, bytes, int]]) -> None:
    data = bytearray((DATA / f"{name}.pdparams").read_bytes())
    for at, new, drop in edits:
        at %= len(data) or 1
        data[at : at + drop] = new
    attempt(write(bytes(data)))


opcodes = st.sampled_from([op.code.encode("latin-1") for op in pickletools.opcodes] + [EMPTY, FLOAT, text("w"), b"(("])


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.one_of(opcodes, st.binary(max_size=4)), max_size=30))
@example(parts=[b"}", b"}", b"s"])
def test_fuzz_opcodes(write: Write, parts: list[bytes]) -> None:
    attempt(write(assembled(*parts)))
