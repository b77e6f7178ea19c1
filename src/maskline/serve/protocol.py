"""Requests and answers of ``POST /instance-segmentation`` as bytes: no web framework, no model.

The fields are those of PaddleX's service for this pipeline; ``maskFormat``, ``maskFrame`` and ``result.size`` are ours.
A body is JSON, a form (multipart/form-data) with the image as a file, or the image file alone. Its first bytes say
which of these, because clients are known to send any content type.
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
from maskline.runtime.thresholds import Threshold, by_class
from maskline.serve.refusal import RefusalError, RequestFault

MaskFormat: TypeAlias = Literal["rle", "polygon"]
MaskFrame: TypeAlias = Literal["box", "image"]
LONGEST_LOG_ID = 200  # characters
MOST_VALUES = 100_000  # in the JSON of a request; there is no need for more than a few
MOST_FIELDS = 100  # of a form
EXPECTED = (
    'send JSON with the image in Base64, {"image": "…"}, a form (multipart/form-data) with the file as its field '
    "`image`, or the file alone: JPEG, PNG, WebP, AVIF, BMP, TIFF, PNM or Sun raster; see /docs"
)

_LONGEST_BOUNDARY = 72  # bytes, with the hyphens before it (RFC 2046, section 5.1.1)
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
    """As `maskline.Predictor.predict` takes it, for the classes in the context; None too."""
    try:
        if value is not None:
            by_class(value, info.context, default=0)  # type: ignore[arg-type]
    except ParameterError as error:
        raise PydanticCustomError("threshold_invalid", "{told}", {"told": str(error)}) from None
    return value


class Request(BaseModel):
    """What to look at, and how to tell. Other fields are ignored."""

    model_config = ConfigDict(title="InstanceSegmentationRequest", hide_input_in_errors=True)

    image: Annotated[
        str | bytes,
        PlainValidator(_image),
        WithJsonSchema({"type": "string", "minLength": 1}),
        Field(
            description="The bytes of an image file (JPEG, PNG, WebP, AVIF, BMP, TIFF, PNM, Sun raster) in Base64, "
            "with or without `data:image/…;base64,` before them; or, where the service allows it, a URL.",
        ),
    ]
    threshold: Annotated[
        Threshold | None,
        PlainValidator(_threshold),
        WithJsonSchema(
            {"anyOf": [_SCORE_SCHEMA, {"type": "object", "additionalProperties": _SCORE_SCHEMA}, {"type": "null"}]}
        ),
        Field(
            description="Keep scores above it. Or an object with the names of classes and a score for each; other "
            "classes have the model's own. Default: the model's own."
        ),
    ] = None
    visualize: Annotated[
        bool | None, Field(description="Whether the answer holds a rendered image. Default: as the service is set.")
    ] = None
    logId: Annotated[  # noqa: N815
        str | None, Field(max_length=LONGEST_LOG_ID, description="Comes back in the answer. Default: a new UUID.")
    ] = None
    maskFormat: Annotated[  # noqa: N815
        MaskFormat, Field(description="`rle`: COCO's compressed run lengths. `polygon`: outlines, which lose holes.")
    ] = "rle"
    maskFrame: Annotated[  # noqa: N815
        MaskFrame, Field(description="Whether run lengths cover the rounded box or the whole image.")
    ] = "box"


class Mask(BaseModel):
    """A mask, in the form that was asked for."""

    rleResult: str | None = Field(None, description="COCO's compressed run lengths; absent with polygons.")  # noqa: N815
    polygons: list[list[float]] | None = Field(None, description="Rings `x1, y1, x2, y2, …`; absent with run lengths.")
    size: list[int] = Field(description="Rows and columns: of the rounded box, or of the whole image.")


class Found(BaseModel):
    """One instance."""

    bbox: list[float] = Field(description="`x1, y1, x2, y2` in pixels of the image.")
    categoryId: int = Field(description="Index of the class, from 0.")  # noqa: N815
    categoryName: str  # noqa: N815
    score: float
    mask: Mask


class PredictionResult(BaseModel):
    """What was found."""

    instances: list[Found] = Field(description="Best first.")
    image: str | None = Field(
        description="The image with everything drawn in, a JPEG in Base64; null if not wanted or longer than a JPEG."
    )
    size: list[int] = Field(description="Height and width of the image.")
    warnings: list[str] | None = Field(
        None, description="Why the result may be poor, such as 12-bit data in 16 bits; absent where nothing is known."
    )


class Answer(BaseModel):
    """A request that was answered."""

    logId: str  # noqa: N815
    errorCode: Literal[0]  # noqa: N815
    errorMsg: Literal["Success"]  # noqa: N815
    result: PredictionResult


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
    """How an image is to be looked at, and what is to be told of it."""

    threshold: Threshold | None
    visualize: bool
    mask_format: MaskFormat
    mask_frame: MaskFrame

    @classmethod
    def of(cls, request: Request, visualize: bool) -> Wanted:
        """What a request wants; ``visualize`` where it does not say."""
        drawn = visualize if request.visualize is None else request.visualize
        return cls(request.threshold, drawn, request.maskFormat, request.maskFrame)


def new_log_id() -> str:
    """For a request that brings none."""
    return str(uuid.uuid4())


def parse(body: bytes | str, classes: Sequence[str]) -> Request:
    """A request from its body; ``classes`` has the names that a threshold may be for. Raises RefusalError (422)."""
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
    """Whether a body is an image file or a form, by its first bytes."""
    return is_image(body) or body.startswith(b"--")


def _file_or_form(body: bytes) -> dict[str, Any] | None:
    """The fields of a request that comes as an image file or as a form; None for anything else."""
    if not is_file_or_form(body):
        return None
    return {"image": body} if is_image(body) else _form(body)


def _form(body: bytes) -> dict[str, Any]:
    """The fields of multipart/form-data: of the image its file, or a text as in JSON, of others what JSON would have.

    A boundary need not be told: it begins the body.
    """
    boundary = body[: _LONGEST_BOUNDARY + 2].partition(b"\r\n")[0]
    delimiter = b"\r\n" + boundary
    if len(boundary) > _LONGEST_BOUNDARY or body.count(delimiter) > MOST_FIELDS:
        raise _no_form(f"no boundary of up to 70 characters, or more than {MOST_FIELDS} fields")
    *parts, end = body[len(boundary) :].split(delimiter)
    if not end.startswith(b"--"):
        raise _no_form("it has no end")
    values: dict[str, Any] = {}
    for part in parts:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        disposition = _DISPOSITION.search(head)
        if disposition is None:
            raise _no_form("a part without Content-Disposition: form-data; name=…")
        name = disposition[1].decode("utf-8", "replace")
        if name in values:
            raise _no_form(f"{name!r} is given twice; each image needs a request of its own")
        if name not in Request.model_fields:
            continue
        values[name] = content if name == "image" and disposition[2] else _field(name, content)
    return values


def _field(name: str, content: bytes) -> Any:
    """The value of a field, which a form has as a text."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise _no_form(f"{name!r} is neither a text in UTF-8 nor a file, which has a filename=…") from None
    if name not in ("threshold", "visualize"):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _object(body: bytes | str) -> dict[str, Any]:
    """The fields of a request that comes as JSON."""
    if has_too_many_values(body):
        raise _no_json(f"more than {MOST_VALUES} values")
    try:
        values = json.loads(body)
    except json.JSONDecodeError as error:
        hint = f"; {EXPECTED}" if error.pos == 0 else ""
        raise _no_json(f"{error.msg}{hint}", f"body[{error.pos}]") from None
    except (ValueError, RecursionError):  # bytes that are not text, a number of thousands of digits, depth
        told = f"not JSON in UTF-8, too deep, or with a number of too many digits; {EXPECTED}"
        raise _no_json(told) from None
    if not isinstance(values, dict):
        told = f"Input should be a valid dictionary or object to extract fields from; {EXPECTED}"
        raise RefusalError.of([RequestFault("model_attributes_type", "body", told)])
    return values


def has_too_many_values(body: bytes | str) -> bool:
    """Whether JSON would take many times its size in memory, and seconds in which nothing else is done."""
    signs = (",", "[", "{") if isinstance(body, str) else (b",", b"[", b"{")
    return sum(map(body.count, signs)) > MOST_VALUES  # type: ignore[arg-type]


def _no_json(told: str, place: str = "body") -> RefusalError:
    return RefusalError.of([RequestFault("json_invalid", place, f"JSON decode error: {told}")])


def _no_form(told: str) -> RefusalError:
    return RefusalError.of(
        [RequestFault("form_invalid", "body", f"the form is damaged or not as expected: {told}; {EXPECTED}")]
    )


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
