"""Errors of requests, with HTTP status and error message."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from maskline.errors import MasklineError


@dataclass(frozen=True, slots=True)
class RequestFault:
    """One fault of a request; ``loc`` is its location, such as ``body.image``."""

    type: str
    loc: str
    msg: str


class RefusalError(MasklineError):
    """A request failed or was rejected.

    Attributes:
        status: HTTP status, also the response's ``errorCode``.
        retry_after: seconds after which to retry; None: unknown.
        log_id: the client's log id, if it could be read.
    """

    def __init__(self, status: int, message: str, *, retry_after: int | None = None, log_id: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.log_id = log_id

    @classmethod
    def of(cls, faults: Sequence[RequestFault], log_id: str | None = None) -> RefusalError:
        """Status 422 with a JSON list of faults as the message."""
        return cls(422, json.dumps([asdict(fault) for fault in faults], ensure_ascii=False), log_id=log_id)

    @classmethod
    def of_image(cls, kind: str, message: str) -> RefusalError:
        """Status 422 for a fault of the image."""
        return cls.of([RequestFault(kind, "body.image", message)])
