"""Unpack archives of unknown origin: everything or nothing, and never outside of the folder."""

from __future__ import annotations

import contextlib
import gzip
import tarfile
import tempfile
import zlib
from pathlib import Path, PureWindowsPath
from typing import IO, cast

from maskline.errors import DownloadError

_MAX_BYTES = 16 << 30
_MAX_MEMBERS = 200_000
_MAX_READ = 1 << 20  # bytes; names and headers of honest archives are far shorter


def extract_tar(archive: Path, folder: Path, *, max_bytes: int = _MAX_BYTES, max_members: int = _MAX_MEMBERS) -> Path:
    """Unpack a ``.tar`` or ``.tar.gz`` of unknown origin into ``folder``, which must not exist yet.

    Only files and folders are accepted, below ``folder``: no links, no devices, no absolute paths, no ``..``. What the
    archive has at its top stays as it is, also where that is a single folder. Everything or nothing is unpacked.

    Args:
        max_bytes: of all files together, unpacked.
        max_members: of files and folders.

    Returns:
        ``folder``.

    Raises:
        DownloadError: the archive is damaged, unsafe or too large, or ``folder`` is there already.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.exists():
        raise DownloadError(
            f"can't unpack {archive} to {folder}: that is there already; remove it or choose another folder"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
            content = Path(scratch) / "content"  # the scratch folder itself is closed to other users
            content.mkdir()
            _unpack(archive, content, max_bytes, max_members)
            content.rename(folder)
    except DownloadError:
        raise
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise DownloadError(f"can't unpack {archive} to {folder}: {reason}; download the archive again") from error
    return folder


def _unpack(archive: Path, folder: Path, max_bytes: int, max_members: int) -> None:
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(archive.open("rb"))
        zipped = raw.peek(2)[:2] == b"\x1f\x8b"
        file = cast("IO[bytes]", stack.enter_context(gzip.GzipFile(fileobj=raw))) if zipped else raw
        tar = stack.enter_context(tarfile.open(fileobj=cast("IO[bytes]", _SmallReads(file)), mode="r:"))
        for count, member in enumerate(tar, start=1):
            max_bytes -= member.size
            if count > max_members or max_bytes < 0:
                raise tarfile.TarError("it holds more than is allowed")
            _check_member(member)
            tar.extract(member, folder, filter="data")
        # tarfile takes a damaged header for the end; a proper end is zeros, and reading them makes gzip check its sum.
        file.seek(tar.offset)
        if file.read(_MAX_READ).strip(b"\0") or file.read(1):
            raise tarfile.TarError("it is damaged")


def _check_member(member: tarfile.TarInfo) -> None:
    path = PureWindowsPath(member.name)  # knows both kinds of separators, and drives
    if path.anchor or ".." in path.parts:
        raise tarfile.TarError(f"it wants to write outside of the folder ({member.name!r})")
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) or member.size < 0:
        raise tarfile.TarError(f"{member.name!r} is neither a file nor a folder")


class _SmallReads:
    """A file for tarfile, which reads names and headers of whatever size they claim in one go: a memory bomb."""

    def __init__(self, file: IO[bytes]) -> None:
        self.seek, self.tell, self._read = file.seek, file.tell, file.read

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= _MAX_READ:
            raise tarfile.TarError("it has a header of senseless length")
        return self._read(count)
