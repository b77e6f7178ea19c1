"""Requests and responses of ``POST /instance-segmentation`` as bytes: no web framework, no model.

The fields are those of PaddleX's service for this pipeline, plus ``maskFormat``, ``maskFrame`` and ``result.size``. A
body is JSON, a form (multipart/form-data) with the image as a file, or the image file alone, recognized by its first
bytes, because clients send arbitrary content types.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError, PydanticKnownError

from maskline.errors import ParameterError
from maskline.inputs.images import is_image
from maskline.runtime.thresholds import Threshold, thresholds_by_class
from maskline.serve.refusal import RefusalError, RequestFault

MaskFormat: TypeAlias = Literal["rle", "polygon"]
MaskFrame: TypeAlias = Literal["box", "image"]
LONGEST_LOG_ID = 200  # characters
MOST_VALUES = 100_000  # in the JSON of a request, which needs only a few
MOST_FIELDS = 100  # in a form
EXPECTED = (
    'send JSON with the image in Base64, {"image": "…"}, a form (multipart/form-data) with the file as its field '
    "`image`, or the file alone: JPEG, PNG, WebP, AVIF, BMP, TIFF, PNM or Sun raster; see /docs"
)

_LONGEST_BOUNDARY = 72  # bytes, including the leading hyphens (RFC 2046, section 5.1.1)
_DISPOSITION = re.compile(
    rb'^content-disposition:\s*form-data\s*;\s*name="?([^";\r\n]*)"?(.*;\s*filename\*?\s*=)?', re.I | re.M
)
_SCORE_SCHEMA = {"type": "number", "minimum": 0, "maximum": 1}


def _image(value: object) -> str | bytes:
    if not isinstance(value, str | bytes):
        raise PydanticKnownError("string_type")
    if value == "":
        raise PydanticKnownError("string_too_short", {"min_length": 1})
    if isinstance(value, str) and not _is_text(value):
        raise PydanticKnownError("string_unicode")
    return value


def _threshold(value: object, info: ValidationInfo) -> object:
    """Validate a threshold as in `maskline.Predictor.predict`, for the classes in the context; None is allowed."""
    try:
        if value is not None:
            thresholds_by_class(value, info.context, default=0)  # type: ignore[arg-type]
    except ParameterError as error:
        raise PydanticCustomError("threshold_invalid", "{reason}", {"reason": str(error)}) from None
    return value


class Request(BaseModel):
    """An image, and options. Unknown fields are ignored."""

    model_config = ConfigDict(title="InstanceSegmentationRequest", hide_input_in_errors=True)

    image: Annotated[
        str | bytes,
        PlainValidator(_image),
        WithJsonSchema({"type": "string", "minLength": 1}),
        Field(
            description="An image file (JPEG, PNG, WebP, AVIF, BMP, TIFF, PNM, Sun raster) in Base64, optionally with "
            "the prefix `data:image/…;base64,`; or a URL, if the service allows it.",
        ),
    ]
    threshold: Annotated[
        Threshold | None,
        PlainValidator(_threshold),
        WithJsonSchema(
            {"anyOf": [_SCORE_SCHEMA, {"type": "object", "additionalProperties": _SCORE_SCHEMA}, {"type": "null"}]}
        ),
        Field(
            description="Return instances with a score above it. Or an object from class names to scores; other "
            "classes use the model's own threshold, which is the default."
        ),
    ] = None
    visualize: Annotated[
        bool | None, Field(description="Include a rendered image in the response. Default: the service's setting.")
    ] = None
    logId: Annotated[  # noqa: N815
        str | None, Field(max_length=LONGEST_LOG_ID, description="Returned in the response. Default: a new UUID.")
    ] = None
    maskFormat: Annotated[  # noqa: N815
        MaskFormat, Field(description="`rle`: COCO's compressed run lengths. `polygon`: outlines, without holes.")
    ] = "rle"
    maskFrame: Annotated[  # noqa: N815
        MaskFrame, Field(description="Whether run lengths cover the rounded box or the whole image.")
    ] = "box"


class Mask(BaseModel):
    """A mask, in the requested format."""

    rleResult: str | None = Field(None, description="COCO's compressed run lengths; absent for polygons.")  # noqa: N815
    polygons: list[list[float]] | None = Field(None, description="Rings `x1, y1, x2, y2, …`; absent for run lengths.")
    size: list[int] = Field(description="Height and width of the rounded box or of the whole image.")


class DetectedInstance(BaseModel):
    """One instance."""

    bbox: list[float] = Field(description="`x1, y1, x2, y2` in pixels of the image.")
    categoryId: int = Field(description="Index of the class, from 0.")  # noqa: N815
    categoryName: str  # noqa: N815
    score: float
    mask: Mask


class PredictionResult(BaseModel):
    """Prediction for one image."""

    instances: list[DetectedInstance] = Field(description="Best first.")
    image: str | None = Field(
        description="The rendered image, a JPEG in Base64; null if not requested or too large for JPEG."
    )
    size: list[int] = Field(description="Height and width of the image.")
    warnings: list[str] | None = Field(
        None, description="Why the result may be poor, such as 12-bit data in 16 bits; absent if there are none."
    )


class Answer(BaseModel):
    """Response to a successful request."""

    logId: str  # noqa: N815
    errorCode: Literal[0]  # noqa: N815
    errorMsg: Literal["Success"]  # noqa: N815
    result: PredictionResult


class Failure(BaseModel):
    """Response to a failed request."""

    logId: str  # noqa: N815
    errorCode: int = Field(description="The HTTP status.")  # noqa: N815
    errorMsg: str = Field(  # noqa: N815
        description="What is wrong; with 422 a list of `type`, `loc` and `msg`, as JSON."
    )


class Health(BaseModel):
    """Response of a healthy service."""

    logId: str  # noqa: N815
    errorCode: Literal[0]  # noqa: N815
    errorMsg: Literal["Healthy"]  # noqa: N815


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """Options of a request, with defaults filled in."""

    threshold: Threshold | None
    visualize: bool
    mask_format: MaskFormat
    mask_frame: MaskFrame

    @classmethod
    def of(cls, request: Request, visualize: bool) -> PredictOptions:
        """Options of a request; ``visualize`` is the default of that field."""
        drawn = visualize if request.visualize is None else request.visualize
        return cls(request.threshold, drawn, request.maskFormat, request.maskFrame)


def new_log_id() -> str:
    """Log id for a request without one."""
    return str(uuid.uuid4())


def parse(body: bytes | str, classes: Sequence[str]) -> Request:
    """Parse a request; ``classes`` are the names allowed in a threshold. Raises RefusalError (422)."""
    values = _file_or_form(body) if isinstance(body, bytes) else None
    if values is None:
        values = _object(body)
    log_id = _log_id(values)
    try:
        return Request.model_validate(values, context=classes)
    except ValidationError as error:
        faults = [RequestFault(e["type"], _place(e["loc"]), e["msg"]) for e in error.errors(include_url=False)]
        raise RefusalError.of(faults, log_id) from None


def is_file_or_form(body: bytes) -> bool:
    """Whether a body is an image file or a form, from its first bytes."""
    return is_image(body) or body.startswith(b"--")


def _file_or_form(body: bytes) -> dict[str, Any] | None:
    """Fields of a request that is an image file or a form; None for anything else."""
    if not is_file_or_form(body):
        return None
    return {"image": body} if is_image(body) else _form(body)


def _form(body: bytes) -> dict[str, Any]:
    """Fields of multipart/form-data: the image as a file or as a string as in JSON; other fields as in JSON.

    The boundary is taken from the start of the body.
    """
    boundary = body[: _LONGEST_BOUNDARY + 2].partition(b"\r\n")[0]
    delimiter = b"\r\n" + boundary
    if len(boundary) > _LONGEST_BOUNDARY or body.count(delimiter) > MOST_FIELDS:
        raise _no_form(f"no boundary of up to 70 characters, or more than {MOST_FIELDS} fields")
    *parts, end = body[len(boundary) :].split(delimiter)
    if not end.startswith(b"--"):
        raise _no_form("it has no closing boundary")
    values: dict[str, Any] = {}
    for part in parts:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        disposition = _DISPOSITION.search(head)
        if disposition is None:
            raise _no_form("a part without Content-Disposition: form-data; name=…")
        name = disposition[1].decode("utf-8", "replace")
        if name in values:
            raise _no_form(f"{name!r} is given twice; send one request per image")
        if name not in Request.model_fields:
            continue
        values[name] = content if name == "image" and disposition[2] else _field(name, content)
    return values


def _field(name: str, content: bytes) -> Any:
    """Value of a form field, which is sent as text."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise _no_form(f"{name!r} is neither UTF-8 text nor a file, which needs a filename=…") from None
    if name not in ("threshold", "visualize"):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _object(body: bytes | str) -> dict[str, Any]:
    """Fields of a JSON request."""
    if has_too_many_values(body):
        raise _no_json(f"more than {MOST_VALUES} values")
    try:
        values = json.loads(body)
    except json.JSONDecodeError as error:
        hint = f"; {EXPECTED}" if error.pos == 0 else ""
        raise _no_json(f"{error.msg}{hint}", f"body[{error.pos}]") from None
    except (ValueError, RecursionError):  # not UTF-8, a number with thousands of digits, or too deep
        reason = f"not UTF-8 JSON, nested too deeply, or with a number of too many digits; {EXPECTED}"
        raise _no_json(reason) from None
    if not isinstance(values, dict):
        reason = f"Input should be a valid dictionary or object to extract fields from; {EXPECTED}"
        raise RefusalError.of([RequestFault("model_attributes_type", "body", reason)])
    return values


def has_too_many_values(body: bytes | str) -> bool:
    """Whether parsing would need many times the JSON's size in memory and block for seconds."""
    signs = (",", "[", "{") if isinstance(body, str) else (b",", b"[", b"{")
    return sum(map(body.count, signs)) > MOST_VALUES  # type: ignore[arg-type]


def _no_json(reason: str, place: str = "body") -> RefusalError:
    return RefusalError.of([RequestFault("json_invalid", place, f"JSON decode error: {reason}")])


def _no_form(reason: str) -> RefusalError:
    return RefusalError.of([RequestFault("form_invalid", "body", f"invalid form: {reason}; {EXPECTED}")])


def _log_id(values: dict[str, Any]) -> str | None:
    """The client's log id, if it can be sent back."""
    given = values.get("logId")
    return given if isinstance(given, str) and len(given) <= LONGEST_LOG_ID and _is_text(given) else None


def _is_text(value: str) -> bool:
    """Whether a string can be encoded: it has no lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _place(loc: tuple[int | str, ...]) -> str:
    return "body" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc)


def success(log_id: str, result: bytes) -> bytes:
    """Response with the JSON of a result."""
    head = json.dumps({"logId": log_id, "errorCode": 0, "errorMsg": "Success"}, ensure_ascii=False)
    return b"".join((head[:-1].encode(), b', "result": ', result, b"}"))


def failure(log_id: str, status: int, message: str) -> bytes:
    """Response to a failed request."""
    return json.dumps({"logId": log_id, "errorCode": status, "errorMsg": message}, ensure_ascii=False).encode()


def health(log_id: str) -> bytes:
    """Response of a healthy service."""
    return json.dumps({"logId": log_id, "errorCode": 0, "errorMsg": "Healthy"}).encode()
