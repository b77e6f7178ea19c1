"""HTTP: one answer at a time, redirects followed, faults sorted into those that may pass and those that stay."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

if TYPE_CHECKING:
    import requests

_MAX_REDIRECTS = 10


class TransientError(Exception):
    """A fault that may pass. ``wait``: seconds the server wants to be left alone; None: it did not say."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class PermanentError(Exception):
    """A fault that asking again would not mend."""


def scheme(url: str) -> str:
    """What stands before the colon, in lower case; nothing if the URL makes no sense."""
    try:
        return urlsplit(url).scheme
    except ValueError:  # brackets that do not hold an address
        return ""


def redacted(url: str) -> str:
    """A URL without user and password, for messages; also one whose password has unescaped slashes or at signs."""
    start, colon, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    if "@" not in authority and not authority.rpartition(":")[2].isdecimal() and ":" in authority:
        authority, slash, path = rest, "", ""  # what looks like a port is a part of a password
    return f"{start}{colon}{authority.rpartition('@')[2]}{slash}{path}"


def new_session() -> requests.Session:
    """A session that leaves redirects to us: requests reads their bodies whole, and trips over odd addresses."""
    import requests

    class Session(requests.Session):
        def get_redirect_target(self, resp: requests.Response) -> None:
            return None

    return Session()


def get(
    session: requests.Session, url: str, headers: Mapping[str, str], timeout: float, ends: float | None = None
) -> requests.Response:
    """The answer to a GET, whatever its status, redirects followed; its body is not read, and the caller closes it.

    Args:
        timeout: seconds of silence.
        ends: by `time.monotonic`, when to give up. A server that sends its headers byte by byte may pass it.

    Raises:
        TransientError, PermanentError: there is none.
    """
    for _ in range(_MAX_REDIRECTS + 1):
        left = timeout if ends is None else min(timeout, ends - time.monotonic())
        if left <= 0:
            raise PermanentError("its redirects take too long")
        response = _get(session, url, headers, left)
        if not response.is_redirect:
            return response
        response.close()
        url = next_url(response)
    raise PermanentError(f"it redirects more than {_MAX_REDIRECTS} times")


def next_url(response: requests.Response) -> str:
    """Where a redirect leads; a PermanentError if that is nowhere, or from https to anything else."""
    try:
        url = urljoin(response.url, response.headers["Location"].encode("latin-1").decode("utf-8"))
    except ValueError:  # also bad UTF-8
        raise PermanentError(f"{response.url} redirects to an invalid address") from None
    if scheme(url) not in ("https", scheme(response.url)):
        raise PermanentError(f"{response.url} redirects to {url}, which is not safe")
    return url


def _get(session: requests.Session, url: str, headers: Mapping[str, str], timeout: float) -> requests.Response:
    import requests

    try:
        return session.get(url, headers=headers, stream=True, allow_redirects=False, timeout=timeout)
    except requests.exceptions.SSLError as error:
        raise PermanentError(f"no safe connection: {_root(error)}") from error
    except (requests.ConnectionError, requests.Timeout) as error:
        raise TransientError(f"no connection: {_root(error)}") from error
    except requests.RequestException as error:
        raise PermanentError(str(error)) from error


def _root(error: BaseException) -> str:
    """The innermost reason of a fault of requests, which wraps those of urllib3, which wrap the system's."""
    while True:
        inner = getattr(error, "reason", None) or error.__cause__ or next(iter(error.args), None)
        if not isinstance(inner, BaseException):
            return str(error)
        error = inner


def retry_after(text: str) -> float | None:
    """Seconds from now, of a header that has seconds or a date; None if it makes no sense."""
    if re.fullmatch("[0-9]{1,9}", text.strip()):
        return float(text)
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0)
    except (TypeError, ValueError, OverflowError):
        return None


def blocks(response: requests.Response, size: int) -> Iterator[bytes]:
    """The body as it is sent, not decoded, in blocks of up to ``size`` bytes, each as soon as it comes.

    A server that sends byte by byte makes small blocks, not a long wait. Network faults become
    `TransientError`, to tell them from faults of the disk.
    """
    import urllib3

    read = getattr(response.raw, "read1", response.raw.read)  # old versions of urllib3 only wait for full blocks
    while True:
        try:
            block = read(size, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise TransientError(f"the connection broke: {_root(error)}") from error
        if not block:
            return
        yield block
