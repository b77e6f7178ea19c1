"""Read Paddle's ``.pdparams`` files without Paddle, and without trusting them.

A ``.pdparams`` file is a Python pickle of ``{parameter name: array}``. Unpickling runs the calls written in the file,
so Python's unpickler is not used here, not even a restricted one. The small stack machine below replays the few
opcodes that Paddle writes. It has no imports, attribute access or calls: a name in the file is looked up in
`_SYMBOLS` and becomes a token, and "calling" a token is a branch of `_Machine.call`. Anything else is refused by name.

Memory is bounded by the size of the file, so that a few bytes can't claim gigabytes, and nothing here recurses into
nested values.
"""

from __future__ import annotations

import enum
import io
import itertools
import math
import pickletools
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maskline._wording import counted
from maskline.errors import InputNotFoundError, WeightsError

Array = npt.NDArray[Any]

_NAME_TABLE = "StructuredToParameterName@@"  # Paddle's map of layer names to variable names, not weights
_SLICE_TABLE = "UnpackBigParamInfor@@"  # Paddle's table of slices of arrays over 1 GiB, under protocols 2 and 3

_MAX_FILE = 8 << 30  # bytes; official files are smaller than 1 GiB
_MAX_OPERATIONS = 1_000_000  # a network of a thousand parameters takes about thirty thousand
_MAX_AXES = 32

_NUMBERS = ("b1", "i1", "u1", "i2", "u2", "f2", "i4", "u4", "f4", "i8", "u8", "f8")

_EXPECTED = "expected a Paddle .pdparams file, which is what paddle.save(layer.state_dict(), path) writes"
_FETCH_AGAIN = "it is damaged or cut short: download or copy it again"
_DISTRUST = "do not load it with anything else either, unless you trust its author"
_SAVE_AGAIN = "with Paddle, load it and save the plain state dict: paddle.save(layer.state_dict(), path)"


class _FaultError(Exception):
    """A fault of the file and a remedy; `read_pdparams` adds the path and what was expected."""

    def __init__(self, what: str, do: str = _FETCH_AGAIN) -> None:
        super().__init__(what)
        self.what = what
        self.do = do


def read_pdparams(path: Path | str) -> dict[str, Array]:
    """Read a Paddle ``.pdparams`` file; safe for files of unknown origin.

    Supports pickle protocols 2 to 5 as numpy 1 and 2 write them, values that are arrays or ``(name, array)`` pairs, and
    large arrays that Paddle split into slices, which are joined. Paddle's table of variable names is dropped.

    Returns:
        Name -> array, in the order of the file. Arrays own their memory, are C-contiguous and in native byte order, of
        bool, integer or float type and any shape, ``()`` and empty ones included. bfloat16, which Paddle stores as
        unmarked uint16 bit patterns, stays uint16. Two names share an array only if they do in the file.

    Raises:
        InputNotFoundError: the file does not exist.
        WeightsError: the file is of another kind, is damaged, holds more than named arrays, or asks for a name or call
            that such a file never needs. Nothing in the file has been run.
    """
    path = Path(path)
    try:
        allowance = _Allowance(len(data := _read(path)))
        return _named_arrays(_Machine(allowance).run(data), allowance)
    except _FaultError as fault:
        raise WeightsError(f"{path}: {fault.what}; {_EXPECTED}; {fault.do}") from None
    except MemoryError:
        raise WeightsError(f"{path}: needs more memory than is available; {_EXPECTED}; free some memory") from None


def _read(path: Path) -> bytes:
    """Read ``path`` if its head looks like a pickle of protocol 2 to 5."""
    try:
        if path.is_dir():
            raise _FaultError("is a folder", "give the .pdparams file inside it")
        if path.exists() and not path.is_file():
            raise _FaultError("is not a regular file", "copy its contents to a file first")
        with path.open("rb") as file:
            _check_head(file.read(512), path.stat().st_size)
            file.seek(0)
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise InputNotFoundError(f"{path}: no such file; {_EXPECTED}; check the path") from None
    except OSError as error:
        raise _FaultError(f"can't be read ({error.strerror})", "check its permissions and the disk") from None


def _check_head(head: bytes, size: int) -> None:
    """Refuse other kinds of files, naming the kind. ``size``: of the whole file, in bytes."""
    if not head:
        raise _FaultError("is empty (0 bytes)")
    if foreign := _foreign_kind(head, size):
        raise _FaultError(f"is {foreign}", "give the .pdparams file instead")
    if head[0] != 0x80 or len(head) < 2:
        raise _FaultError(f"is not a pickle of protocol 2 or later (it starts with {head[:8].hex(' ')})")
    if not 2 <= head[1] <= 5:
        raise _FaultError(f"is pickle protocol {head[1]}; protocols 2 to 5 are supported", _SAVE_AGAIN)
    if size > _MAX_FILE:
        raise _FaultError(f"has {size} bytes, more than the {_MAX_FILE} allowed", "give the weights of one network")


def _foreign_kind(head: bytes, size: int) -> str | None:
    """Kind of a file with this ``head`` (its first 512 bytes), for the files most likely given by mistake."""
    if head.startswith(b"PK\x03\x04"):
        return "a zip archive, as PyTorch's .pt and .pth files are"
    if head.startswith(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"):
        return "a PyTorch file of the old format"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        return "a safetensors file"
    if head[257:262] == b"ustar" or head.startswith(b"\x1f\x8b"):
        return "a tar or gzip archive"
    if head.lstrip()[:5].lower() in (b"<html", b"<!doc", b"<?xml"):
        return "a web page (an error message of the server, perhaps)"
    if head[:16] == bytes(16):
        return "not a pickle but begins with zeros, as Paddle's exported .pdiparams files do"
    return None


class _Allowance:
    """Number of bytes that may still be built, initially three times the size of the file.

    Three, because under protocol 2 the bytes of an array come from a string, the array from the bytes, and a large
    array from slices. A file that needs more refers to the same bytes over and over: a memory bomb.
    """

    def __init__(self, file_size: int) -> None:
        self._left = 3 * file_size

    def spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise _FaultError("would build far more data than the file has bytes (a memory bomb)", _DISTRUST)


class _Symbol(enum.Enum):
    """The names a file may mention, as tokens without the numpy or Python object."""

    NDARRAY = enum.auto()
    DTYPE = enum.auto()
    RECONSTRUCT = enum.auto()
    FROMBUFFER = enum.auto()
    ENCODE = enum.auto()
    BYTES = enum.auto()
    TUPLE = enum.auto()
    ORDERED_DICT = enum.auto()


_SYMBOLS = {
    "numpy ndarray": _Symbol.NDARRAY,
    "numpy dtype": _Symbol.DTYPE,
    "numpy.core.multiarray _reconstruct": _Symbol.RECONSTRUCT,  # numpy 1
    "numpy._core.multiarray _reconstruct": _Symbol.RECONSTRUCT,  # numpy 2
    "numpy.core.numeric _frombuffer": _Symbol.FROMBUFFER,  # protocol 5
    "numpy._core.numeric _frombuffer": _Symbol.FROMBUFFER,
    "_codecs encode": _Symbol.ENCODE,  # bytes under protocol 2
    "__builtin__ bytes": _Symbol.BYTES,  # empty bytes under protocol 2
    "__builtin__ tuple": _Symbol.TUPLE,  # Paddle's (name, array) pairs
    "builtins tuple": _Symbol.TUPLE,
    "collections OrderedDict": _Symbol.ORDERED_DICT,
}


class _DType:
    """An element type with a ``code`` such as ``f4``. BUILD sets the byte order."""

    def __init__(self, code: object) -> None:
        if not isinstance(code, str) or code not in _NUMBERS:
            raise _FaultError(f"holds an array of type {_quote(code)}, which is not a plain number type", _DISTRUST)
        self.code = code
        self.order: str | None = None

    def build(self, state: object) -> None:
        match state:
            case (3, "<" | ">" | "|" as order, None, None, None, _, _, _) if self.order is None:
                self.order = order
            case _:
                raise _FaultError("holds an array type with fields or other extras, not a plain number", _DISTRUST)

    def numpy(self) -> np.dtype[Any]:
        if self.order is None:
            raise _FaultError("holds an array type without a byte order")
        return np.dtype(self.order + self.code)


class _Array:
    """An array; empty until BUILD sets shape, type and bytes."""

    def __init__(self) -> None:
        self.value: Array | None = None

    def build(self, state: object, allowance: _Allowance) -> None:
        match state:
            case (1, tuple() as shape, _DType() as dtype, bool() as fortran, bytes() as data) if self.value is None:
                self.value = _make_array(shape, dtype.numpy(), fortran, data, allowance)
            case _:
                raise _FaultError("describes an array in a way NumPy never does", _DISTRUST)


def _sizes(shape: tuple[object, ...]) -> tuple[int, ...]:
    """Check that numpy can hold ``shape``."""
    sizes = tuple(size for size in shape if type(size) is int and size >= 0)
    # Empty axes count as 1: numpy refuses (0, huge) too, where the other axes alone would overflow.
    if sizes != shape or len(sizes) > _MAX_AXES or math.prod(max(size, 1) for size in sizes) > _MAX_FILE:
        raise _FaultError("holds an array with an impossible shape", _DISTRUST)
    return sizes


def _make_array(
    shape: tuple[object, ...], dtype: np.dtype[Any], fortran: bool, data: bytes, allowance: _Allowance
) -> Array:
    """Make an array that owns its memory, C-contiguous, in native byte order; ``data`` must have its exact size."""
    sizes = _sizes(shape)
    if math.prod(sizes) * dtype.itemsize != len(data):
        raise _FaultError(f"holds an array of shape {sizes}, type {dtype}, with {len(data)} bytes of data")
    allowance.spend(len(data))
    # Booleans go through uint8, so that a byte such as 7 becomes True.
    raw = np.frombuffer(data, np.uint8 if dtype.kind == "b" else dtype) if data else np.zeros(0, dtype)
    return raw.reshape(sizes, order="F" if fortran else "C").astype(dtype.newbyteorder("="), order="C", copy=True)


class _Machine:
    """Pickle's stack machine, restricted to data."""

    def __init__(self, allowance: _Allowance) -> None:
        self.allowance = allowance
        self.stack: list[object] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, object] = {}

    def run(self, data: bytes) -> object:
        """Replay the pickle and return what it built: dicts, lists, tuples, strings, numbers, bytes, `_Array`."""
        for count, (step, argument) in enumerate(_operations(data)):
            if count >= _MAX_OPERATIONS:
                raise _FaultError(f"has more than {_MAX_OPERATIONS} pickle opcodes; weights need far fewer", _DISTRUST)
            step(self, argument)
        if len(self.stack) != 1 or self.marks:
            raise _FaultError("ends with its pickle unfinished")
        return self.stack[0]

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self, count: int) -> list[object]:
        """The topmost ``count`` values, in the order they were pushed; not across a mark."""
        start = len(self.stack) - count
        if start < (self.marks[-1] if self.marks else 0):
            raise _FaultError("pops more from its pickle stack than it pushed")
        return self.pop_from(start)

    def pop_mark(self) -> list[object]:
        """All values pushed since the last mark."""
        if not self.marks:
            raise _FaultError("lacks a mark on its pickle stack")
        return self.pop_from(self.marks.pop())

    def pop_from(self, start: int) -> list[object]:
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def top(self) -> object:
        (value,) = self.pop(1)
        self.push(value)
        return value

    def store(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise _FaultError(f"refers to item {index} of its pickle memo, which does not exist")
        self.push(self.memo[index])

    def append(self, values: list[object]) -> None:
        target = self.top()
        if not isinstance(target, list):
            raise _FaultError(f"appends to {_kind(target)}")
        target.extend(values)

    def set_items(self, values: list[object]) -> None:
        target = self.top()
        if not isinstance(target, dict) or len(values) % 2:
            raise _FaultError(f"sets items of {_kind(target)}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Only strings: hashing a deeply nested tuple recurses in C until the process crashes.
            if not isinstance(key, str):
                raise _FaultError(f"holds a dict with {_kind(key)} as a key; keys must be strings", _SAVE_AGAIN)
            target[key] = value

    def name(self, dotted: str) -> None:
        """``dotted``: module, a space, name."""
        symbol = _SYMBOLS.get(dotted)
        if symbol is None:
            asked = _quote(dotted.replace(" ", "."))
            raise _FaultError(f"asks for {asked}, which weights never need; nothing was run", _DISTRUST)
        self.push(symbol)

    def stack_name(self) -> None:
        module, name = self.pop(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise _FaultError(f"asks for a name made of {_kind(module)} and {_kind(name)}", _DISTRUST)
        self.name(f"{module} {name}")

    def reduce(self) -> None:
        symbol, args = self.pop(2)
        if not isinstance(symbol, _Symbol) or not isinstance(args, tuple):
            raise _FaultError(f"calls {_kind(symbol)} with {_kind(args)}", _DISTRUST)
        self.push(self.call(symbol, args))

    def call(self, symbol: _Symbol, args: tuple[object, ...]) -> object:
        """Result of the real call, for the forms that numpy and Paddle write."""
        match symbol, args:
            case _Symbol.RECONSTRUCT, (_Symbol.NDARRAY, (0,), _):
                return _Array()
            case _Symbol.DTYPE, (code, 0 | 1, 0 | 1):
                return _DType(code)
            case _Symbol.FROMBUFFER, (bytes() | bytearray() as data, dtype, shape, "C" | "F" as order):
                array = _Array()
                array.build((1, shape, dtype, order == "F", bytes(data)), self.allowance)
                return array
            case _Symbol.ENCODE, (str() as text, "latin1" | "latin-1"):
                return self.encode(text)
            case _Symbol.BYTES, ():
                return b""
            case _Symbol.TUPLE, (tuple() as values,):
                return values
            case _Symbol.ORDERED_DICT, ():
                return {}
        raise _FaultError(f"calls {symbol.name.lower()} in a way that weights never need", _DISTRUST)

    def encode(self, text: str) -> bytes:
        self.allowance.spend(len(text))
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError:
            raise _FaultError("holds a string where bytes should be") from None

    def build(self) -> None:
        (state,) = self.pop(1)
        target = self.top()
        if isinstance(target, _Array):
            target.build(state, self.allowance)
        elif isinstance(target, _DType):
            target.build(state)
        else:
            raise _FaultError(f"sets the state of {_kind(target)}", _DISTRUST)


_Step = Callable[[_Machine, Any], None]

_STEPS: dict[str, _Step] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda m, arg: None),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), _Machine.push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _Machine.push),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _Machine.push),
    "NONE": lambda m, arg: m.push(None),
    "NEWTRUE": lambda m, arg: m.push(True),
    "NEWFALSE": lambda m, arg: m.push(False),
    "EMPTY_DICT": lambda m, arg: m.push({}),
    "EMPTY_LIST": lambda m, arg: m.push([]),
    "EMPTY_TUPLE": lambda m, arg: m.push(()),
    "MARK": lambda m, arg: m.marks.append(len(m.stack)),
    "TUPLE": lambda m, arg: m.push(tuple(m.pop_mark())),
    "TUPLE1": lambda m, arg: m.push(tuple(m.pop(1))),
    "TUPLE2": lambda m, arg: m.push(tuple(m.pop(2))),
    "TUPLE3": lambda m, arg: m.push(tuple(m.pop(3))),
    "APPEND": lambda m, arg: m.append(m.pop(1)),
    "APPENDS": lambda m, arg: m.append(m.pop_mark()),
    "SETITEM": lambda m, arg: m.set_items(m.pop(2)),
    "SETITEMS": lambda m, arg: m.set_items(m.pop_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.store),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.recall),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": lambda m, arg: m.stack_name(),
    "REDUCE": lambda m, arg: m.reduce(),
    "BUILD": lambda m, arg: m.build(),
}

_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}


def _argument(opcode: pickletools.OpcodeInfo, stream: io.BytesIO) -> Any:
    """Read an opcode's argument from the stream. Raises ValueError if it is invalid."""
    if opcode.name == "GLOBAL":  # pickletools' reader would decode backslashes, which unpicklers don't
        return " ".join(stream.readline().removesuffix(b"\n").decode() for _ in range(2))
    return opcode.arg.reader(stream) if opcode.arg else None


def _operations(data: bytes) -> Iterator[tuple[_Step, Any]]:
    """Yield the steps of a pickle with their arguments. Arguments of unknown steps are not parsed."""
    stream = io.BytesIO(data)
    name = ""
    while name != "STOP":
        position = stream.tell()
        opcode = _OPCODES.get(stream.read(1))
        if opcode is None:
            raise _FaultError(f"is invalid at byte {position} of {len(data)}")
        name = opcode.name
        if name not in _STEPS:
            raise _FaultError(f"uses the pickle opcode {name} at byte {position}, which weights never need", _DISTRUST)
        try:
            argument = _argument(opcode, stream)
        except ValueError:  # also invalid UTF-8, and lengths beyond the end
            raise _FaultError(f"is invalid at byte {position} of {len(data)}") from None
        yield _STEPS[name], argument
    if stream.tell() != len(data):
        raise _FaultError(f"has data after its end, at byte {stream.tell()} of {len(data)}")


def _named_arrays(root: object, allowance: _Allowance) -> dict[str, Array]:
    """Return the arrays of the state dict ``root``; entries that are not arrays are listed in one fault."""
    if not isinstance(root, dict):
        raise _FaultError(f"holds {_kind(root)}, not a dict of arrays", _SAVE_AGAIN)
    entries = {name: value for name, value in root.items() if name not in (_NAME_TABLE, _SLICE_TABLE)}
    arrays = {name: array for name, value in entries.items() if (array := _array_of(value)) is not None}
    others = [name for name in entries if name not in arrays]
    if others:
        found = _some(others, lambda name: f"{_quote(name)} is {_kind(entries[name])}")
        raise _FaultError(f"entries that are not arrays: {len(others)} of {len(entries)}: {found}", _SAVE_AGAIN)
    if not arrays:
        raise _FaultError("holds no arrays (an empty dict)", _SAVE_AGAIN)
    return _join_slices(arrays, root[_SLICE_TABLE], allowance) if _SLICE_TABLE in root else arrays


def _array_of(value: object) -> Array | None:
    """Return the array of a value, an array or Paddle's pair of variable name and array; else None."""
    match value:
        case (_Array() as array) | (str(), _Array() as array):
            return array.value
    return None


def _join_slices(arrays: dict[str, Array], table: object, allowance: _Allowance) -> dict[str, Array]:
    """Join arrays that Paddle split; ``table``: name -> {"OriginShape": tuple, "slices": names in order}."""
    if not isinstance(table, dict):
        raise _FaultError(f"its table of slices is {_kind(table)}, not a dict")
    arrays = dict(arrays)
    for name, entry in table.items():
        match entry:
            case {"OriginShape": tuple() as shape, "slices": list() as slices} if name not in arrays and slices:
                arrays[name] = _join(name, shape, [_take(arrays, part) for part in slices], allowance)
            case _:
                raise _FaultError(f"its table of slices is invalid at {_quote(name)}")
    return arrays


def _take(arrays: dict[str, Array], part: object) -> Array:
    """Remove a slice from ``arrays``, so that none is used twice or left over."""
    if not isinstance(part, str) or part not in arrays:
        raise _FaultError(f"its table of slices names {_quote(part)}, which is not in the file")
    return arrays.pop(part)


def _join(name: str, shape: tuple[object, ...], parts: list[Array], allowance: _Allowance) -> Array:
    if len({part.dtype for part in parts}) != 1 or any(part.ndim != 1 for part in parts):
        raise _FaultError(f"the slices of {_quote(name)} do not belong together")
    sizes, count = _sizes(shape), sum(part.size for part in parts)
    if math.prod(sizes) != count:
        raise _FaultError(f"the slices of {_quote(name)} have {counted(count, 'element')}, its shape is {sizes}")
    allowance.spend(sum(part.nbytes for part in parts))
    whole = np.empty(sizes, parts[0].dtype)
    np.concatenate(parts, out=whole.reshape(-1))
    return whole


def _quote(value: object) -> str:
    """Quote a value from the file for a message: one short line."""
    text = value if isinstance(value, str) else _kind(value)
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _some(names: Collection[str], describe: Callable[[str], str]) -> str:
    """Describe the first few of ``names``, and count the rest."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(describe(name) for name in itertools.islice(names, 5)) + more


def _kind(value: object) -> str:
    """Describe a value from the file without recursion, because nesting may be endless."""
    match value:
        case dict():
            return f"a dict of {len(value)} ({_some(value, _quote)})" if value else "an empty dict"
        case list() | tuple():
            return f"a {type(value).__name__} of {len(value)}"
        case _Array() | _DType() | _Symbol():
            return "a piece of an array"
        case None:
            return "None"
    return f"a value of type {type(value).__name__}"
