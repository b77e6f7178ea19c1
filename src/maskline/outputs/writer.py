"""Base class of all writers, and temporary storage for incomplete files."""

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

from maskline._files import AnyPath, replace_file
from maskline.errors import OutputError, ParameterError
from maskline.instances import FloatArray
from maskline.outputs.paths import check_folder

if TYPE_CHECKING:
    from typing_extensions import Self

    from maskline.outputs.result import Result

DECIMALS = 3  # of coordinates, in pixels


class Writer(ABC):
    """Base class of writers, which take results one by one. Not thread-safe.

    As a context manager, it is closed at the end; after an exception, it discards what is not yet written.

    Attributes:
        FILE_NAME: default path within a folder, for `open`.
        path: output file or folder.
    """

    FILE_NAME: ClassVar[str]

    def __init__(self, path: AnyPath) -> None:
        self.path = Path(path)
        self._names: tuple[str, ...] | None = None  # class names
        self._closed = False

    @classmethod
    def open(cls, folder: AnyPath, *, tolerance: float = 0) -> Self:
        """Open a writer at this format's default path in a folder.

        Args:
            folder: created when something is written.
            tolerance: maximum error of simplified polygons in pixels; used by LabelMe only.
        """
        return cls(Path(folder) / cls.FILE_NAME)

    def add(self, result: Result) -> None:
        """Add a result.

        Raises:
            ParameterError: the writer is closed, or the class names differ from those of earlier results.
            OutputError: it can't be written.
        """
        if self._closed:
            raise ParameterError(f"the writer of {self.path} is closed: open a new one")
        if self._names is None:
            self._names = result.names
        if result.names != self._names:
            raise ParameterError(f"{self.path} can't hold results of models with different classes: use one per model")
        self._add(result)

    def close(self) -> Path:
        """Finish the output and return its path. Further calls do nothing. Raises OutputError."""
        if not self._closed:
            self._closed = True
            try:
                self._finish()
            finally:
                self._release()
        return self.path

    def discard(self) -> None:
        """Discard the output. An existing file is unchanged."""
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
        """Write a checked result."""

    @abstractmethod
    def _finish(self) -> None:
        """Move the output into place."""

    @abstractmethod
    def _release(self) -> None:
        """Release resources, whether or not everything was written."""


class Spool:
    """Text spooled to an unnamed temporary file in the target's folder, which never outlives the process.

    The folder is created with the first text.
    """

    def __init__(self, target: Path) -> None:
        """Prepare for a file. Raises ParameterError or OutputError if its folder is invalid."""
        check_folder(f"{target.parent}/")
        self._target = target
        self._file: IO[bytes] | None = None

    def write(self, text: str) -> None:
        """Append text. Raises OutputError."""
        with _output_errors(self._target):
            if self._file is None:
                self._target.parent.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self._target.parent)  # noqa: SIM115
            self._file.write(text.encode("utf-8", "backslashreplace"))

    def lines(self) -> Iterator[str]:
        """Yield the written text by line."""
        if self._file is not None:
            self._file.seek(0)
            yield from (line.decode("utf-8") for line in self._file)

    def copy_to(self, file: IO[bytes]) -> None:
        """Append the written text to a file."""
        if self._file is not None:
            self._file.seek(0)
            shutil.copyfileobj(self._file, file, 1 << 20)

    def close(self) -> None:
        """Delete the temporary file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file atomically. Raises OutputError."""

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:
            write(file)

    replace_file(path, save)


def relative(path: str, folder: Path) -> str:
    """Relative path from a folder, with forward slashes; the full path if it is on another drive."""
    try:
        return PurePath(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        return PurePath(path).as_posix()


def coordinates(box: FloatArray) -> list[float]:
    """``x1 y1 x2 y2`` in pixels, rounded to `DECIMALS`."""
    return [round(value, DECIMALS) for value in box.tolist()]


def score_of(score: np.float32) -> float:
    """A score with float32's digits: 0.9, where a plain conversion would give 0.8999999761581421."""
    return float(str(score))


@contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror or error}") from error
