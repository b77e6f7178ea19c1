"""Downloads into a cache: verified, resumable, atomic.

Next to a file ``NAME`` in the cache there may be ``NAME.sha256`` (its digest, in the format of sha256sum),
``NAME.part`` and ``NAME.part.json`` (an unfinished download and its source), ``NAME.version.json`` (the server's
validators, for files that are kept up to date) and ``NAME.lock``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from maskline._checks import environment_switch
from maskline._progress import shown_bar
from maskline._wording import counted
from maskline.errors import DownloadError, ParameterError
from maskline.fetching.http import (
    PermanentError,
    TransientError,
    blocks,
    get,
    new_session,
    redacted,
    retry_after,
    scheme,
)

__all__ = ["cache_dir", "download_file", "is_offline"]

if TYPE_CHECKING:
    import requests

logger = logging.getLogger("maskline")

_CHUNK = 1 << 16  # bytes
_BACKOFF = 0.5  # seconds before the second attempt, doubled for each further one
_LONGEST_WAIT = 60.0  # seconds, whatever the server asks for
_MAX_BYTES = 16 << 30
_CONDITIONS = {"If-None-Match", "If-Modified-Since"}


def cache_dir() -> Path:
    """Absolute path of the cache folder; not created here.

    ``MASKLINE_HOME``, else ``PADDLE_PDX_CACHE_HOME``, else ``maskline`` in ``XDG_CACHE_HOME``, else
    ``~/.cache/maskline``. Empty variables count as unset; so does a relative ``XDG_CACHE_HOME``, as its specification
    requires.
    """
    for variable in ("MASKLINE_HOME", "PADDLE_PDX_CACHE_HOME"):
        if folder := os.environ.get(variable):
            return Path(folder).expanduser().absolute()
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (caches if caches.is_absolute() else Path.home() / ".cache") / "maskline"


def is_offline() -> bool:
    """Whether ``MASKLINE_OFFLINE`` forbids network access. Raises ParameterError if its value is invalid."""
    return environment_switch("MASKLINE_OFFLINE")


def download_file(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    progress: bool | None = None,
    attempts: int = 5,
    timeout: float = 15.0,
    deadline: float | None = None,
    max_bytes: int = _MAX_BYTES,
    refresh: bool = False,
    advice: str | None = None,
) -> Path:
    """Download ``url`` to the file ``target``, unless a valid copy already exists.

    A copy is valid if it matches ``sha256``, or else the digest recorded when it was downloaded; without either it is
    trusted (placed by hand). A damaged copy is downloaded again. An interrupted download resumes if the server still
    has the same file. Concurrent processes wait for each other.

    Args:
        url: http or https.
        sha256: 64 hexadecimal digits.
        progress: show a progress bar on stderr; None: if stderr is a terminal. Without a bar, progress is logged.
        attempts: maximum number of requests; transient faults (connection, timeout, 408, 429, 5xx) are retried.
        timeout: seconds without data, when connecting and between bytes.
        deadline: total seconds from the first request on (not counting the wait for another process); None: no limit.
            Data received by then is kept, to resume from.
        max_bytes: largest file to accept.
        refresh: ask the server for a newer version even if a valid copy exists. If ``MASKLINE_OFFLINE`` forbids that,
            the copy is used, with a warning.
        advice: last part of the error message, on what to do; None: how to place the file by hand.

    Returns:
        ``target``, a complete file. It is moved into place atomically.

    Raises:
        DownloadError: what failed, the URL, the path, and what to do instead, in one line.
        ParameterError: an invalid argument.
    """
    if scheme(url) not in ("http", "https"):
        raise ParameterError(f"can't download {url!r}: expected an http:// or https:// URL")
    if attempts < 1 or (sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256)):
        given = f"attempts is {attempts}, sha256 {sha256!r}"
        raise ParameterError(f"{given}: expected attempts >= 1 and a sha256 of 64 hexadecimal digits")
    show = sys.stderr.isatty() if progress is None else progress
    job = _Job(
        url=url,
        target=Path(target),
        sha256=sha256.lower() if sha256 else None,
        show=show,
        attempts=attempts,
        timeout=timeout,
        deadline=deadline,
        max_bytes=max_bytes,
        refresh=refresh,
        advice=advice,
    )
    try:
        return _fetch(job)
    except DownloadError:
        raise
    except OSError as error:
        raise job.failure(f"{error.strerror or error} ({error.filename or target})") from error


@dataclass(frozen=True)
class _Job:
    """Arguments of `download_file`, and the paths it uses."""

    url: str
    target: Path
    sha256: str | None
    show: bool
    attempts: int
    timeout: float
    deadline: float | None
    max_bytes: int
    refresh: bool
    advice: str | None

    def sibling(self, suffix: str) -> Path:
        return self.target.with_name(self.target.name + suffix)

    def failure(self, reason: str) -> DownloadError:
        advice = self.advice or self._by_hand()
        return DownloadError(
            f"can't download {redacted(self.url)} to {self.target}: {' '.join(reason.split())}; {advice}"
        )

    def _by_hand(self) -> str:
        advice = f"download it by hand with a browser and save it as {self.target}"
        if self.sibling(".sha256").exists():  # of an earlier copy: the new one would be taken for damaged
            advice += f" (and remove {self.sibling('.sha256').name} next to it)"
        return f"{advice}, or name a file you have: --weights FILE of export, train and evaluate"


@dataclass(frozen=True)
class _Origin:
    """Source of a partial file; ``validator`` (ETag or date) shows whether the server still has the same file."""

    url: str
    validator: str
    length: int  # bytes of the complete file


@dataclass(frozen=True)
class _Version:
    """Validators of a file from the server's headers ``ETag`` and ``Last-Modified``; empty if absent."""

    url: str
    etag: str
    modified: str


def _fetch(job: _Job) -> Path:
    if not job.refresh and _is_good(job):
        return job.target
    if is_offline():
        if not job.refresh or not _is_good(job):
            raise job.failure("MASKLINE_OFFLINE forbids network access, and the cache has no valid copy")
        logger.warning("MASKLINE_OFFLINE is set: using the cached copy of %s", redacted(job.url))
        return job.target
    job.target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(job.sibling(".lock")):
        good = _is_good(job)  # another process may have fetched it meanwhile
        if job.refresh or not good:
            _download(job, _conditions(job) if good else {})
    return job.target


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        logger.info("waiting for another process to download the same file (%s)", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _is_good(job: _Job) -> bool:
    """Whether ``target`` exists and has the expected digest; logs a warning if it is damaged."""
    if job.target.is_dir():
        raise job.failure("it is a folder")
    if not job.target.exists():
        return False
    record, expected = job.sibling(".sha256"), job.sha256
    if expected is None and record.exists():
        expected = record.read_text("ascii", "replace").partition(" ")[0]
    if expected is None:
        return True
    found = _digest(job.target)
    if found != expected:
        logger.warning("%s is damaged or not the expected file (sha256 %s, not %s)", job.target, found, expected)
    return found == expected


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# All functions below are called with the lock held.


def _download(job: _Job, conditions: dict[str, str]) -> None:
    """Download the file and move it into place. With the headers ``conditions``, the server may answer 304."""
    logger.info("downloading %s to %s", redacted(job.url), job.target)
    ends = None if job.deadline is None else time.monotonic() + job.deadline
    with new_session() as session:
        for attempt in range(1, job.attempts + 1):
            try:
                _attempt(job, session, conditions, ends)
                return
            except PermanentError as error:
                raise job.failure(str(error)) from error
            except TransientError as error:
                if attempt == job.attempts:
                    raise job.failure(f"{error} (tried {counted(attempt, 'time')})") from error
                wait = min(_BACKOFF * 2 ** (attempt - 1) if error.wait is None else error.wait, _LONGEST_WAIT)
                _check_time(job, ends, wait, f"; {error}")
                logger.info("%s: %s; retrying in %.1f s", redacted(job.url), error, wait)
                time.sleep(wait)


def _check_time(job: _Job, ends: float | None, needed: float = 0.0, reason: str = "") -> None:
    """Raise DownloadError if the deadline is less than ``needed`` seconds away."""
    if ends is not None and time.monotonic() + needed > ends:
        raise job.failure(f"it takes longer than {job.deadline:g} s{reason}")


def _attempt(job: _Job, session: requests.Session, conditions: dict[str, str], ends: float | None) -> None:
    """One request, up to the file in place. Raises TransientError or PermanentError."""
    part, origin = job.sibling(".part"), _read_origin(job)
    have = part.stat().st_size if origin else 0
    headers = {"Accept-Encoding": "identity"}  # so that lengths are those of the file
    headers |= {"Range": f"bytes={have}-", "If-Range": origin.validator} if origin else conditions
    with contextlib.closing(get(session, job.url, headers, job.timeout, ends)) as response:
        _check_status(job, response, headers)
        if response.status_code == 304:
            return
        if response.status_code != 206:
            have = 0
        length = _promised(job, response, origin, have)
        _check_room(job, length, have)
        if not have:
            _write_origin(job, response, length)
        _receive(job, response, have, length, ends)
    size = part.stat().st_size
    if length is not None and size != length:
        _discard(job)
        raise TransientError(f"received {counted(size, 'byte')} of {length}")
    _finish(job, part, resumed=have > 0)
    if job.refresh:
        _write_version(job, response)


def _finish(job: _Job, part: Path, resumed: bool) -> None:
    """Verify the digest and move the file into place; the digest is recorded first, so that it is never outdated."""
    found = _digest(part)
    if job.sha256 not in (None, found):
        _discard(job)
        reason = f"its sha256 is {found}, expected {job.sha256}"
        # A file assembled from two responses may be wrong where a fresh one is right.
        raise TransientError(reason) if resumed else job.failure(reason)
    record = job.sibling(".sha256.new")
    record.write_text(f"{found}  {job.target.name}\n", "utf-8")
    record.replace(job.sibling(".sha256"))
    job.sibling(".version.json").unlink(missing_ok=True)  # belongs to the old file
    part.replace(job.target)
    job.sibling(".part.json").unlink(missing_ok=True)


def _conditions(job: _Job) -> dict[str, str]:
    """Headers of a conditional request for a version other than ours; empty if ours has no validators."""
    try:
        version = _Version(**json.loads(job.sibling(".version.json").read_text("utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return {}
    if version.url != job.url:
        return {}
    headers = {"If-None-Match": version.etag, "If-Modified-Since": version.modified}
    return {name: value for name, value in headers.items() if value}


def _write_version(job: _Job, response: requests.Response) -> None:
    version = _Version(job.url, response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""))
    if version.etag or version.modified:
        job.sibling(".version.json").write_text(json.dumps(asdict(version)), "utf-8")


def _check_status(job: _Job, response: requests.Response, asked: dict[str, str]) -> None:
    """Raise unless the status is as requested, or 304 to a conditional request."""
    status = response.status_code
    if status == 200 or (status == 206 and "Range" in asked) or (status == 304 and _CONDITIONS & asked.keys()):
        return
    reason = f"the server responds {status} {response.reason or ''}".rstrip()
    if status == 416:  # our part is longer than the file is now
        _discard(job)
        raise TransientError(reason, wait=0)
    if status in (408, 429) or status >= 500:
        raise TransientError(reason, retry_after(response.headers.get("Retry-After", "")))
    raise PermanentError(reason)


def _promised(job: _Job, response: requests.Response, origin: _Origin | None, have: int) -> int | None:
    """Length of the complete file in bytes, from the response headers; None if unknown."""
    if not have or origin is None:
        length = response.headers.get("Content-Length", "")
        return int(length) if re.fullmatch("[0-9]{1,18}", length) else None
    etag = response.headers.get("ETag", origin.validator)
    asked = f"bytes {have}-{origin.length - 1}/{origin.length}"
    given = response.headers.get("Content-Range", "")
    if given != asked or (origin.validator.startswith('"') and etag != origin.validator):
        _discard(job)
        raise TransientError(f"the server sent a different range than requested ({given}, not {asked})", wait=0)
    return origin.length


def _check_room(job: _Job, length: int | None, have: int) -> None:
    if length is not None and length > job.max_bytes:
        raise job.failure(f"it has {length} bytes: expected at most {job.max_bytes}")
    free = shutil.disk_usage(job.target.parent).free
    if length is not None and length - have > free:
        raise job.failure(f"it needs {length - have} bytes, but the disk has {free} free")


def _read_origin(job: _Job) -> _Origin | None:
    """Source of the partial file if it can be resumed; else remove the partial file."""
    part, note = job.sibling(".part"), job.sibling(".part.json")
    try:
        origin = _Origin(**json.loads(note.read_text("utf-8")))
        if origin.url == job.url and 0 < part.stat().st_size < origin.length:
            return origin
    except (FileNotFoundError, ValueError, TypeError):
        pass
    _discard(job)
    return None


def _write_origin(job: _Job, response: requests.Response, length: int | None) -> None:
    """Record the source of the file before its first byte is written, if the download can be resumed."""
    _discard(job)
    etag = response.headers.get("ETag", "")
    validator = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")  # a weak ETag can't be used
    if validator and length:
        job.sibling(".part.json").write_text(json.dumps(asdict(_Origin(job.url, validator, length))), "utf-8")


def _discard(job: _Job) -> None:
    for suffix in (".part", ".part.json"):
        job.sibling(suffix).unlink(missing_ok=True)


def _receive(job: _Job, response: requests.Response, have: int, length: int | None, ends: float | None) -> None:
    """Append the body to the partial file, which has ``have`` bytes, and sync it to disk."""
    with job.sibling(".part").open("ab") as file, _progress(job, have, length) as advance:
        for block in blocks(response, _CHUNK):
            have += len(block)
            if have > job.max_bytes:
                _discard(job)
                raise job.failure(f"it is too large: expected at most {job.max_bytes} bytes")
            file.write(block)
            _check_time(job, ends)
            advance(len(block))
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _progress(job: _Job, have: int, length: int | None) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of bytes received."""
    if not job.show:
        yield lambda count: None
        return
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn

    name = TextColumn("{task.description}", markup=False)
    with shown_bar(name, BarColumn(), DownloadColumn(), TransferSpeedColumn(), transient=False) as bar:
        task = bar.add_task(job.target.name, total=length, completed=have)
        yield lambda count: bar.advance(task, count)
