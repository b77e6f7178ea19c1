"""Why a request gets no result, as a status of HTTP and the envelope of errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from maskline.errors import MasklineError


@dataclass(frozen=True, slots=True)
class RequestFault:
    """One thing that is wrong with a request: ``loc`` is the place, such as ``body.image``."""

    type: str
    loc: str
    msg: str


class RefusalError(MasklineError):
    """A request that is not answered with a result.

    Attributes:
        status: of HTTP, and the envelope's ``errorCode``.
        retry_after: seconds after which it may be worth to ask again; None: nobody knows.
        log_id: the client's, where it could be read.
    """

    def __init__(self, status: int, message: str, *, retry_after: int | None = None, log_id: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.log_id = log_id

    @classmethod
    def of(cls, faults: Sequence[RequestFault], log_id: str | None = None) -> RefusalError:
        """422, whose message is a list of faults as JSON."""
        return cls(422, json.dumps([asdict(fault) for fault in faults], ensure_ascii=False), log_id=log_id)

    @classmethod
    def of_image(cls, kind: str, message: str) -> RefusalError:
        """422 because of the image."""
        return cls.of([RequestFault(kind, "body.image", message)])
