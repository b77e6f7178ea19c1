"""Files: listing without hidden ones, atomic writes, and text, JSON and YAML in the usual encodings."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from maskline._checks import check_path
from maskline.errors import DatasetError, OutputError, ParameterError

AnyPath: TypeAlias = "str | os.PathLike[str]"

ASSETS = Path(__file__).with_name("assets")  # the embedded model and sample images
NAME_BYTES = 255  # longest file name on common file systems

logger = logging.getLogger("maskline")


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or a shadow that macOS adds to archives (``._x``, ``__MACOSX``)."""
    return name.startswith(".") or name == "__MACOSX"


def _log_unlisted(error: OSError) -> None:
    logger.warning("folder %r can't be listed (%s): its files are skipped", error.filename, error.strerror)


def visible_files(
    folder: Path, *, on_error: Callable[[OSError], object] = _log_unlisted, again: bool = False
) -> Iterator[str]:
    """Yield the paths of all files below a folder, relative to it, with forward slashes, sorted within each folder.

    Links are followed. Hidden files and folders are skipped.

    Args:
        folder: where to start.
        on_error: called with the error of each folder that can't be listed; by default, logs a warning.
        again: list a linked folder under each of its names, not only the first. Links to a parent folder are never
            followed.
    """
    seen: set[str] = set()
    chains: dict[str, frozenset[str]] = {}  # by folder: itself and its parents, links resolved
    for here, folders, names in os.walk(folder, followlinks=True, onerror=on_error):
        real, above = os.path.realpath(here), chains.get(os.path.dirname(here), frozenset())  # noqa: PTH120
        if real in (above if again else seen):
            folders.clear()
            continue
        seen.add(real)
        chains[here] = above | {real}
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        inner = os.path.relpath(here, folder).replace(os.sep, "/")
        prefix = "" if inner == "." else f"{inner}/"
        yield from (prefix + name for name in sorted(names) if not is_hidden(name))


def replace_file(path: Path, write: Callable[[Path], object]) -> Path:
    """Write a file atomically: under a temporary name next to ``path``, then rename it.

    Args:
        path: the file; its folder is created if missing.
        write: writes to the path it is given, which does not exist yet.

    Returns:
        ``path``.

    Raises:
        OutputError: it can't be written; an existing file is unchanged.
    """
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        temporary.replace(path)
    except (OSError, ValueError) as error:  # Pillow raises ValueError if a format can't hold the image
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{path} can't be written: {reason}") from error
    finally:
        with contextlib.suppress(OSError, ValueError):
            temporary.unlink(missing_ok=True)
    return path


def replace_files(folder: Path, files: Sequence[Path]) -> None:
    """Copy files into a folder, all or none: all are copied under temporary names before the first is renamed.

    Args:
        folder: created if missing.
        files: in the order in which they are renamed.

    Raises:
        OutputError: they can't be written; existing files are unchanged.
    """
    temporary = [folder / f".{secrets.token_hex(8)}.tmp" for _ in files]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, copy in zip(files, temporary, strict=True):
            shutil.copyfile(file, copy)
        for file, copy in zip(files, temporary, strict=True):
            copy.replace(folder / file.name)
    except OSError as error:
        raise OutputError(f"{folder} can't be written to: {error.strerror or error}") from error
    finally:
        for copy in temporary:
            with contextlib.suppress(OSError):
                copy.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(target: AnyPath, source: AnyPath | None = None) -> Iterator[Path]:
    """Context manager for a temporary folder that becomes ``target`` on success and is removed on failure.

    Args:
        source: the data set that it is made from, which must not change.

    Raises:
        OutputError: ``target`` exists and is not an empty folder, is inside ``source``, or can't be written.
    """
    target, source = check_path(target, "target"), None if source is None else check_path(source, "source")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise OutputError(f"{target} already exists: name a new or an empty folder")
    if source is not None and target.resolve().is_relative_to(source.resolve()):
        raise OutputError(f"{target} is inside {source}, which must not change: name a folder elsewhere")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{cut_name(target.name, '', NAME_BYTES // 2)}."
        with TemporaryDirectory(prefix=prefix, dir=target.parent) as temporary:
            folder = Path(temporary) / "new"
            folder.mkdir()
            yield folder
            if target.exists():
                target.rmdir()
            folder.replace(target)
    except OutputError as error:
        raise OutputError(str(error).replace(str(folder), str(target))) from error
    except OSError as error:
        if isinstance(error, DatasetError):
            raise
        raise OutputError(f"{target} can't be written: {error.strerror or error}") from error


def back_up(path: Path) -> Path | None:
    """Copy a file to ``.bak``, or ``.bak2``, ``.bak3``, ... if that exists; None if the file does not exist."""
    if not path.exists():
        return None
    names = (path.with_name(f"{path.name}.bak{number if number > 1 else ''}") for number in count(1))
    target = next(name for name in names if not name.exists())
    return replace_file(target, lambda temporary: shutil.copy2(path, temporary))


def cut_name(name: str, ending: str, most: int) -> str:
    """Join a name and its ending, truncating the name to keep the result within ``most`` bytes of UTF-8."""
    while name and byte_length(name + ending) > most:
        name = name[:-1]
    return name + ending


def byte_length(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def decode_text(data: bytes, errors: str = "strict") -> str:
    """Decode UTF-8, UTF-16 or UTF-32, with or without a byte order mark, or else GB 18030 (GBK).

    The latter is what Chinese editions of Windows write. Lone surrogates are kept.

    Args:
        data: the content of a file.
        errors: how to handle undecodable bytes, see `bytes.decode`.

    Raises:
        UnicodeDecodeError: undecodable bytes, if ``errors`` is ``strict``.
    """
    encoding = json.detect_encoding(data)
    if not encoding.startswith("utf-8"):
        return data.decode(encoding, errors)
    try:
        return data.decode(encoding, "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("gb18030", errors)


def read_text(path: Path) -> str:
    """Read a text file in any encoding known to `decode_text`. Raises UnicodeDecodeError, OSError."""
    return decode_text(path.read_bytes())


def read_json(path: Path, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Read a JSON file in any encoding known to `decode_text`.

    Args:
        path: the file.
        object_hook: see `json.loads`.

    Raises:
        ValueError: invalid JSON; the message says why.
        OSError: it can't be read.
    """
    try:
        text = decode_text(path.read_bytes())
    except UnicodeDecodeError:
        raise ValueError("neither UTF-8, UTF-16 nor GB 18030") from None
    try:
        return json.loads(text, object_hook=object_hook)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_yaml(path: Path) -> Any:
    """Read a YAML file. Raises ParameterError if it is not valid YAML or not text."""
    import yaml

    try:
        return yaml.safe_load(read_text(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # bytes that are not text, dates, depth
        raise ParameterError(f"{path} is not readable YAML ({' '.join(str(error).split())})") from None
