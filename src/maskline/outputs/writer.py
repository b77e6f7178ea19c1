"""What all writers have in common, and where a file waits until it is whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from types import TracebackType
from typing import IO, TYPE_CHECKING, ClassVar

import numpy as np

from maskline._files import replace_file
from maskline.errors import OutputError, ParameterError
from maskline.instances import FloatArray
from maskline.outputs.paths import AnyPath, check_folder

if TYPE_CHECKING:
    from typing_extensions import Self

    from maskline.outputs.result import Result

DECIMALS = 3  # of coordinates: a thousandth of a pixel


class Writer(ABC):
    """Takes results one by one. Not for several threads at once.

    As a context manager it is closed at the end, or, if that is reached by an error, gives up what is not yet written.

    Attributes:
        FILE_NAME: its place in a folder, for `open`.
        path: the file, or the folder, it writes.
    """

    FILE_NAME: ClassVar[str]

    def __init__(self, path: AnyPath) -> None:
        self.path = Path(path)
        self._names: tuple[str, ...] | None = None  # of the classes
        self._closed = False

    @classmethod
    def open(cls, folder: AnyPath, *, tolerance: float = 0) -> Self:
        """A writer to this format's own place in a folder.

        Args:
            folder: made when something is written.
            tolerance: pixels by which polygons may be simplified; only LabelMe's files have polygons.
        """
        return cls(Path(folder) / cls.FILE_NAME)

    def add(self, result: Result) -> None:
        """Take a result.

        Raises:
            ParameterError: the writer is closed, or the result has other class names than those before.
            OutputError: it can't be written.
        """
        if self._closed:
            raise ParameterError(f"the writer of {self.path} is closed: open a new one")
        if self._names is None:
            self._names = result.names
        if result.names != self._names:
            raise ParameterError(f"results of models with different classes can't go to one place, {self.path}")
        self._add(result)

    def close(self) -> Path:
        """Finish; what it wrote is now there. Further calls do nothing. Returns the path. Raises OutputError."""
        if not self._closed:
            self._closed = True
            try:
                self._finish()
            finally:
                self._release()
        return self.path

    def discard(self) -> None:
        """Give up. A file that was there before is left."""
        self._closed = True
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    @abstractmethod
    def _add(self, result: Result) -> None:
        """Write a result that has been checked."""

    @abstractmethod
    def _finish(self) -> None:
        """Put what has been written in its place."""

    @abstractmethod
    def _release(self) -> None:
        """Free what is held, whether or not all is written."""


class Spool:
    """Text that waits on disk, in the folder it is meant for, without a name: so it never outlives the process.

    The folder is made with the first text.
    """

    def __init__(self, target: Path) -> None:
        """Prepare for a file. Raises ParameterError or OutputError if its folder can't be one."""
        check_folder(f"{target.parent}/")
        self._target = target
        self._file: IO[bytes] | None = None

    def write(self, text: str) -> None:
        """Add a text. Raises OutputError."""
        with _telling(self._target):
            if self._file is None:
                self._target.parent.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self._target.parent)  # noqa: SIM115
            self._file.write(text.encode("utf-8", "backslashreplace"))

    def lines(self) -> Iterator[str]:
        """What was written, by line."""
        if self._file is not None:
            self._file.seek(0)
            yield from (line.decode("utf-8") for line in self._file)

    def copy_to(self, file: IO[bytes]) -> None:
        """Append what was written to a file."""
        if self._file is not None:
            self._file.seek(0)
            shutil.copyfileobj(self._file, file, 1 << 20)

    def close(self) -> None:
        """Remove it from the disk."""
        if self._file is not None:
            self._file.close()
            self._file = None


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file of which nothing is there before all is. Raises OutputError."""

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:
            write(file)

    replace_file(path, save)


def relative(path: str, folder: Path) -> str:
    """The way from a folder to a path, with forward slashes; the whole path where it is on another drive."""
    try:
        return PurePath(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        return PurePath(path).as_posix()


def coordinates(box: FloatArray) -> list[float]:
    """``x1 y1 x2 y2`` in pixels, to a thousandth."""
    return [round(value, DECIMALS) for value in box.tolist()]


def score_of(score: np.float32) -> float:
    """A score with the digits it has: 0.9, where widening would give 0.8999999761581421."""
    return float(str(score))


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror or error}") from error
