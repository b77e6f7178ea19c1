"""Requests and answers of ``POST /instance-segmentation`` as bytes: no web framework, no model.

The form is that of PaddleX's service for this pipeline; ``maskFormat``, ``maskFrame`` and ``result.size`` are ours.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from maskline.serve.refusal import Fault, RefusalError

MaskFormat: TypeAlias = Literal["rle", "polygon"]
MaskFrame: TypeAlias = Literal["box", "image"]
LONGEST_LOG_ID = 200  # characters
MOST_VALUES = 100_000  # in the JSON of a request; there is no need for more than a few


class Request(BaseModel):
    """What to look at, and how to tell. Other fields are ignored."""

    model_config = ConfigDict(title="InstanceSegmentationRequest", hide_input_in_errors=True)

    image: Annotated[
        str,
        Field(
            min_length=1,
            description="The bytes of a picture (JPEG, PNG, WebP, AVIF, BMP, TIFF, PNM, Sun raster) in Base64, with or "
            "without `data:image/…;base64,` before them; or, where the service allows it, a URL.",
        ),
    ]
    threshold: Annotated[
        float | None,
        Field(allow_inf_nan=False, description="Keep scores above it. Default: the model's own."),
    ] = None
    visualize: Annotated[
        bool | None, Field(description="Whether the answer holds a rendered picture. Default: as the service is set.")
    ] = None
    logId: Annotated[  # noqa: N815
        str | None, Field(max_length=LONGEST_LOG_ID, description="Comes back in the answer. Default: a new UUID.")
    ] = None
    maskFormat: Annotated[  # noqa: N815
        MaskFormat, Field(description="`rle`: COCO's compressed run lengths. `polygon`: outlines, which lose holes.")
    ] = "rle"
    maskFrame: Annotated[  # noqa: N815
        MaskFrame, Field(description="Whether run lengths cover the rounded box or the whole picture.")
    ] = "box"


class Mask(BaseModel):
    """A mask, in the form that was asked for."""

    rleResult: str | None = Field(None, description="COCO's compressed run lengths; absent with polygons.")  # noqa: N815
    polygons: list[list[float]] | None = Field(None, description="Rings `x1, y1, x2, y2, …`; absent with run lengths.")
    size: list[int] = Field(description="Rows and columns: of the rounded box, or of the whole picture.")


class Found(BaseModel):
    """One instance."""

    bbox: list[float] = Field(description="`x1, y1, x2, y2` in pixels of the picture.")
    categoryId: int = Field(description="Index of the class, from 0.")  # noqa: N815
    categoryName: str  # noqa: N815
    score: float
    mask: Mask


class Outcome(BaseModel):
    """What was found."""

    instances: list[Found] = Field(description="Best first.")
    image: str | None = Field(
        description="The picture with everything drawn in, a JPEG in Base64; null if not wanted or longer than a JPEG."
    )
    size: list[int] = Field(description="Height and width of the picture.")
    warnings: list[str] | None = Field(
        None, description="Why the result may be poor, such as 12-bit data in 16 bits; absent where nothing is known."
    )


class Answer(BaseModel):
    """A request that was answered."""

    logId: str  # noqa: N815
    errorCode: Literal[0]  # noqa: N815
    errorMsg: Literal["Success"]  # noqa: N815
    result: Outcome


class Failure(BaseModel):
    """A request that was not."""

    logId: str  # noqa: N815
    errorCode: int = Field(description="The status of HTTP.")  # noqa: N815
    errorMsg: str = Field(  # noqa: N815
        description="What is wrong; with 422 a list of `type`, `loc` and `msg`, as JSON."
    )


class Health(BaseModel):
    """That the service can answer."""

    logId: str  # noqa: N815
    errorCode: Literal[0]  # noqa: N815
    errorMsg: Literal["Healthy"]  # noqa: N815


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a picture is to be looked at, and what is to be told of it."""

    threshold: float | None
    visualize: bool
    mask_format: MaskFormat
    mask_frame: MaskFrame

    @classmethod
    def of(cls, request: Request, visualize: bool) -> Wanted:
        """What a request wants; ``visualize`` where it does not say. Any threshold is legal, as in the reference."""
        threshold = None if request.threshold is None else min(max(request.threshold, 0.0), 1.0)
        drawn = visualize if request.visualize is None else request.visualize
        return cls(threshold, drawn, request.maskFormat, request.maskFrame)


def new_log_id() -> str:
    """For a request that brings none."""
    return str(uuid.uuid4())


def parse(body: bytes | str) -> Request:
    """A request from its JSON, whatever their content type was said to be. Raises RefusalError (422)."""
    if has_too_many_values(body):
        raise _no_json(f"more than {MOST_VALUES} values")
    try:
        values = json.loads(body)
    except json.JSONDecodeError as error:
        raise _no_json(error.msg, f"body[{error.pos}]") from None
    except (ValueError, RecursionError):  # bytes that are no text, a number of thousands of digits, depth
        raise _no_json("not JSON in UTF-8, too deep, or with a number of too many digits") from None
    if not isinstance(values, dict):
        told = "Input should be a valid dictionary or object to extract fields from"
        raise RefusalError.of([Fault("model_attributes_type", "body", told)])
    log_id = _log_id(values)
    try:
        request = Request.model_validate(values)
    except ValidationError as error:
        faults = [Fault(e["type"], _place(e["loc"]), e["msg"]) for e in error.errors(include_url=False)]
        raise RefusalError.of(faults, log_id) from None
    if not _is_text(request.image):
        raise RefusalError.of([Fault("string_unicode", "body.image", "Input should be valid Unicode")], log_id)
    return request


def has_too_many_values(body: bytes | str) -> bool:
    """Whether JSON would take many times its size in memory, and seconds in which nothing else is done."""
    signs = (",", "[", "{") if isinstance(body, str) else (b",", b"[", b"{")
    return sum(map(body.count, signs)) > MOST_VALUES  # type: ignore[arg-type]


def _no_json(told: str, place: str = "body") -> RefusalError:
    return RefusalError.of([Fault("json_invalid", place, f"JSON decode error: {told}")])


def _log_id(values: dict[str, Any]) -> str | None:
    """The client's, if it is one that can be sent back."""
    given = values.get("logId")
    return given if isinstance(given, str) and len(given) <= LONGEST_LOG_ID and _is_text(given) else None


def _is_text(value: str) -> bool:
    """Whether it can be encoded: has no half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _place(loc: tuple[int | str, ...]) -> str:
    return "body" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc)


def success(log_id: str, result: bytes) -> bytes:
    """The envelope round the JSON of a result."""
    head = json.dumps({"logId": log_id, "errorCode": 0, "errorMsg": "Success"}, ensure_ascii=False)
    return b"".join((head[:-1].encode(), b', "result": ', result, b"}"))


def failure(log_id: str, status: int, message: str) -> bytes:
    """The envelope of an error."""
    return json.dumps({"logId": log_id, "errorCode": status, "errorMsg": message}, ensure_ascii=False).encode()


def health(log_id: str) -> bytes:
    """The answer of a service that can answer."""
    return json.dumps({"logId": log_id, "errorCode": 0, "errorMsg": "Healthy"}).encode()
