"""HTTP GET with redirects, and faults classified as transient or permanent."""

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
    """A fault worth retrying. ``wait``: seconds that the server asks to wait; None: not stated."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class PermanentError(Exception):
    """A fault that a retry would not fix."""


def scheme(url: str) -> str:
    """Scheme of a URL, in lower case; empty if the URL is invalid."""
    try:
        return urlsplit(url).scheme
    except ValueError:  # brackets without an address
        return ""


def redacted(url: str) -> str:
    """A URL without user and password, for messages; handles passwords with unescaped slashes and at signs."""
    start, colon, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    if "@" not in authority and not authority.rpartition(":")[2].isdecimal() and ":" in authority:
        authority, slash, path = rest, "", ""  # what looks like a port is part of a password
    return f"{start}{colon}{authority.rpartition('@')[2]}{slash}{path}"


def new_session() -> requests.Session:
    """A session that leaves redirects to us: requests reads their whole bodies, and fails on unusual addresses."""
    import requests

    class Session(requests.Session):
        def get_redirect_target(self, resp: requests.Response) -> None:
            return None

    return Session()


def get(
    session: requests.Session, url: str, headers: Mapping[str, str], timeout: float, ends: float | None = None
) -> requests.Response:
    """Send a GET request, follow redirects, and return the response of any status, unread; the caller closes it.

    Args:
        timeout: seconds without data.
        ends: time to give up, by `time.monotonic`. A server that sends its headers byte by byte may exceed it.

    Raises:
        TransientError, PermanentError: no response.
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
    """Target of a redirect. Raises PermanentError if it is invalid, or leads from https to anything else."""
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
        raise PermanentError(f"no secure connection: {_root(error)}") from error
    except (requests.ConnectionError, requests.Timeout) as error:
        raise TransientError(f"no connection: {_root(error)}") from error
    except requests.RequestException as error:
        raise PermanentError(str(error)) from error


def _root(error: BaseException) -> str:
    """Innermost cause: requests wraps the exceptions of urllib3, which wraps the system's."""
    while True:
        inner = getattr(error, "reason", None) or error.__cause__ or next(iter(error.args), None)
        if not isinstance(inner, BaseException):
            return str(error)
        error = inner


def retry_after(text: str) -> float | None:
    """Seconds from a ``Retry-After`` header, which holds seconds or a date; None if it is invalid."""
    if re.fullmatch("[0-9]{1,9}", text.strip()):
        return float(text)
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0)
    except (TypeError, ValueError, OverflowError):
        return None


def blocks(response: requests.Response, size: int) -> Iterator[bytes]:
    """Yield the raw body, not decoded, in blocks of up to ``size`` bytes, each as soon as it arrives.

    A server that sends byte by byte yields small blocks rather than a long wait. Network faults become
    `TransientError`, which distinguishes them from disk faults.
    """
    import urllib3

    read = getattr(response.raw, "read1", response.raw.read)  # older urllib3 can only wait for full blocks
    while True:
        try:
            block = read(size, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise TransientError(f"connection lost: {_root(error)}") from error
        if not block:
            return
        yield block
