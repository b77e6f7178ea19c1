"""The Open Inference Protocol (KServe v2) over HTTP, as pure functions that parse requests and compose responses.

There is one model with one input and one output, both of type BYTES: each element of the input is the JSON of a request
for `POST /instance-segmentation`, and the output element at the same index is the JSON of its response. Tensors come in
three forms: within the JSON; in binary form after it, the default of Triton's client; and as a body without JSON, which
is a single element. `HEADER` distinguishes them.

Source: the REST part of the protocol, and its binary tensor data extension. Cases that these leave open (no JSON at
all, an empty list of outputs, an output named twice) follow the behaviour of Triton 2.51.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from maskline import __version__
from maskline._wording import counted
from maskline.errors import ParameterError
from maskline.serve.protocol import MOST_VALUES, has_too_many_values, is_file_or_form

MODEL, VERSION, INPUT, OUTPUT = "instance-segmentation", "1", "input", "output"
#: Length in bytes of the JSON before binary data; 0: no JSON; header absent: JSON only.
HEADER = "Inference-Header-Content-Length"

_LENGTH = 4  # bytes of the little-endian length before each element in binary form


class Failure(BaseModel):
    """A failed request."""

    model_config = ConfigDict(title="KServeFailure")

    error: str


class Live(BaseModel):
    """Liveness of the process."""

    live: bool


class Ready(BaseModel):
    """Readiness of the service."""

    ready: bool
    error: str | None = Field(None, description="Why not.")


class ModelReady(Ready):
    """Readiness of the model."""

    name: str


class ServerMetadata(BaseModel):
    """Metadata of the service."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """Metadata of the input or the output."""

    name: str
    datatype: str
    shape: list[int] = Field(description="-1: any size.")


class ModelMetadata(BaseModel):
    """Metadata of the model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, Any] = Field(description="Name of the underlying `model`, and its `classes`.")


class OutputTensor(BaseModel):
    """Responses, each the JSON of one from `POST /instance-segmentation`."""

    name: str
    datatype: str
    shape: list[int]
    data: list[str]


class InferResponse(BaseModel):
    """Response to an inference request."""

    id: str | None = Field(None, description="Id of the request.")
    model_name: str
    model_version: str
    outputs: list[OutputTensor]


_BINARY = {"type": "string", "format": "binary"}
#: Response to an inference request, for OpenAPI.
ANSWER: dict[str, Any] = {
    "model": InferResponse,
    "content": {"application/octet-stream": {"schema": _BINARY}},
    "description": f"The responses; if requested, in binary form after JSON of the length in {HEADER}.",
}
#: The body of an inference request, for OpenAPI.
REQUEST_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["inputs"],
                "properties": {
                    "id": {"type": ["string", "null"]},
                    "inputs": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": 1,
                        "items": {
                            "type": "object",
                            "required": ["name", "datatype", "shape", "data"],
                            "properties": {
                                "name": {"const": "input"},
                                "datatype": {"const": "BYTES"},
                                "shape": {
                                    "type": "array",
                                    "items": {"type": "integer", "minimum": 1},
                                    "minItems": 1,
                                    "maxItems": 2,
                                    "description": "`[N, 1]` or `[N]` for N requests.",
                                },
                                "data": {
                                    "type": "array",
                                    "items": {"type": "string"},
                                    "minItems": 1,
                                    "description": "Each the JSON of a request for `POST /instance-segmentation`.",
                                },
                            },
                        },
                    },
                    "outputs": {
                        "type": ["array", "null"],
                        "items": {"type": "object", "required": ["name"], "properties": {"name": {"const": "output"}}},
                    },
                },
            }
        },
        "application/octet-stream": {
            "schema": _BINARY | {"description": f"JSON, of the length in {HEADER}, and the tensor in binary form."}
        },
    },
}


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A parsed inference request.

    Attributes:
        id: the client's id, returned in the response.
        texts: elements of the input; valid Unicode, but not necessarily JSON.
        shape: of input and output: ``(N,)`` or ``(N, 1)`` for N texts.
        binary: whether the output is requested in binary form.
    """

    id: str | None
    texts: tuple[str, ...]
    shape: tuple[int, ...]
    binary: bool


def header_length(value: str | None) -> int | None:
    """Parse the value of `HEADER`; None if absent. Raises ParameterError if it is not a length."""
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 20):
        raise ParameterError(f"the header {HEADER} is {reprlib.repr(value)}: expected the length of the JSON in bytes")
    return int(value)


def parse(body: bytes, header_length: int | None, *, limit: int) -> InferRequest:
    """Parse the body of ``POST /v2/models/instance-segmentation/infer``.

    Args:
        body: as received, decompressed.
        header_length: value of `HEADER`.
        limit: maximum number of elements.

    Raises:
        ParameterError: not a valid request.
    """
    if header_length == 0:
        return InferRequest(None, (_decoded(body, "the body"),), (1, 1), binary=True)
    if is_file_or_form(body):
        raise ParameterError("the body is an image or a form: expected JSON; send it to POST /instance-segmentation")
    if header_length is not None and not 0 < header_length <= len(body):
        raise ParameterError(f"the header {HEADER} is {header_length}, the body has {counted(len(body), 'byte')}")
    head, tail = body[:header_length], memoryview(body)[len(body) if header_length is None else header_length :]
    request = _object(_json(head), "the request")
    if not isinstance(request.get("id"), str | None):
        raise ParameterError(f"id is {reprlib.repr(request['id'])}: expected a string")
    tensor = _input(request)
    shape = _shape(tensor.get("shape"), limit)
    return InferRequest(request.get("id"), tuple(_elements(tensor, tail, shape)), shape, _wants_binary(request))


def compose(request: InferRequest, texts: Sequence[str]) -> tuple[bytes, int | None]:
    """Compose the body of the response, and the value of its `HEADER` (None: not sent).

    Args:
        texts: responses to ``request.texts``, in the same order.
    """
    if len(texts) != len(request.texts):
        raise ValueError(f"{counted(len(texts), 'response')} to {counted(len(request.texts), 'request')}")
    output: dict[str, Any] = {"name": OUTPUT, "datatype": "BYTES", "shape": request.shape}
    answer: dict[str, Any] = {} if request.id is None else {"id": request.id}
    answer |= {"model_name": MODEL, "model_version": VERSION, "outputs": [output]}
    if not request.binary:
        output["data"] = texts
        return _dump(answer), None
    tail = b"".join(len(data).to_bytes(_LENGTH, "little") + data for data in map(str.encode, texts))
    output["parameters"] = {"binary_data_size": len(tail)}
    head = _dump(answer)
    return head + tail, len(head)


def error(message: str) -> bytes:
    """Body of an error response."""
    return _dump({"error": message})


def readiness(name: str | None, reason: str | None) -> bytes:
    """Body of a readiness response.

    Args:
        name: of the model; None for the server.
        reason: why it is not ready; None if it is.
    """
    answer: dict[str, Any] = {} if name is None else {"name": name}
    answer["ready"] = reason is None
    return _dump(answer if reason is None else answer | {"error": reason})


def server_metadata() -> dict[str, Any]:
    """Response to ``GET /v2``."""
    return {"name": "maskline", "version": __version__, "extensions": ["binary_tensor_data"]}


def model_metadata(model: str, classes: Sequence[str]) -> dict[str, Any]:
    """Response to ``GET /v2/models/instance-segmentation``.

    Args:
        model: name of the underlying model, as in the catalog.
        classes: class names, by class index.
    """
    tensor = {"datatype": "BYTES", "shape": [-1, 1]}
    return {
        "name": MODEL,
        "versions": [VERSION],
        "platform": "maskline_onnx",  # <project>_<format>, as in the protocol
        "inputs": [{"name": INPUT, **tensor}],
        "outputs": [{"name": OUTPUT, **tensor}],
        "parameters": {"model": model, "classes": list(classes)},
    }


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _json(data: bytes) -> Any:
    if has_too_many_values(data):
        raise ParameterError(f"the JSON has more than {MOST_VALUES} values")
    text = _decoded(data, "the JSON")
    try:
        return json.loads(text)
    except RecursionError:
        raise ParameterError("the JSON is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ParameterError(f"the request is not JSON: {error.msg} at character {error.pos}") from None
    except ValueError:
        raise ParameterError("the JSON has a number with too many digits") from None


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ParameterError(f"{what} is {reprlib.repr(value)}: expected an object")
    return value


def _parameters(value: dict[str, Any]) -> dict[str, Any]:
    """Parameters of a request or tensor; empty if absent."""
    given = value.get("parameters")
    return {} if given is None else _object(given, "parameters")


def _input(request: dict[str, Any]) -> dict[str, Any]:
    """The single input tensor, with name and datatype checked."""
    tensors = request.get("inputs")
    if not isinstance(tensors, list) or len(tensors) != 1:
        raise ParameterError(f"inputs is {reprlib.repr(tensors)}: expected a list of one tensor, named {INPUT!r}")
    tensor = _object(tensors[0], "the input")
    for key, expected in (("name", INPUT), ("datatype", "BYTES")):
        if tensor.get(key) != expected:
            raise ParameterError(f"{key} of the input is {reprlib.repr(tensor.get(key))}: expected {expected!r}")
    return tensor


def _shape(value: Any, limit: int) -> tuple[int, ...]:
    sound = isinstance(value, list) and all(type(side) is int for side in value)
    if not (sound and len(value) in (1, 2) and value[1:] in ([], [1]) and 1 <= value[0] <= limit):
        raise ParameterError(f"shape is {reprlib.repr(value)}: expected [N, 1] for N requests, at most {limit}")
    return tuple(value)


def _elements(tensor: dict[str, Any], tail: memoryview, shape: tuple[int, ...]) -> list[str]:
    """Elements of the input, in JSON or binary form, with their number checked against the shape."""
    data, size = tensor.get("data"), _parameters(tensor).get("binary_data_size")
    if (data is None) == (size is None):
        raise ParameterError("the input needs either its strings in data or binary_data_size in its parameters")
    if type(size or 0) is not int or len(tail) != (size or 0):
        named = "not given" if size is None else reprlib.repr(size)
        raise ParameterError(
            f"binary_data_size is {named}, but {counted(len(tail), 'byte')} follow the JSON (see {HEADER})"
        )
    texts = _from_json(data, shape) if size is None else _from_bytes(tail, shape[0])
    if len(texts) != shape[0]:
        raise ParameterError(f"data has {counted(len(texts), 'element')}: expected {shape[0]}, as in the shape")
    return texts


def _from_json(data: Any, shape: tuple[int, ...]) -> list[str]:
    """Strings in a list or, with two axes, in a list of one-element lists."""
    if not isinstance(data, list):
        raise ParameterError(f"data is {reprlib.repr(data)}: expected a list of strings")
    nested = len(shape) == 2 and all(isinstance(row, list) and len(row) == 1 for row in data)
    texts = [row[0] for row in data] if nested else data
    for text in texts:
        if not isinstance(text, str):
            raise ParameterError(f"data contains {reprlib.repr(text)}: expected the JSON of a request as a string")
        _check_encodable(text)
    return texts


def _check_encodable(text: str) -> None:
    """Reject a lone surrogate, which JSON can escape but UTF-8 can't encode."""
    try:
        _ = text.isascii() or text.encode()
    except UnicodeEncodeError:
        raise ParameterError("data contains a lone surrogate: expected a string that UTF-8 can encode") from None


def _from_bytes(tail: memoryview, count: int) -> list[str]:
    """Parse ``count`` length-prefixed elements, with nothing left over."""
    texts, start = [], 0
    for number in range(count):
        first = start + _LENGTH
        end = first + int.from_bytes(tail[start:first], "little")
        if end > len(tail):
            raise ParameterError(
                f"element {number} of the binary data extends {counted(end - len(tail), 'byte')} past the body"
            )
        texts.append(_decoded(tail[first:end], f"element {number}"))
        start = end
    if start != len(tail):
        raise ParameterError(
            f"{counted(len(tail) - start, 'byte')} left after {counted(count, 'element')}, as many as in the shape"
        )
    return texts


def _decoded(data: bytes | memoryview, what: str) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise ParameterError(f"{what} is not UTF-8 text (byte {error.start})") from None


def _wants_binary(request: dict[str, Any]) -> bool:
    """Whether the output is requested in binary form: by its own parameter, else by that for all outputs."""
    default = _switch(_parameters(request), "binary_data_output", default=False)
    outputs = request.get("outputs")
    if not isinstance(outputs, list | None):
        raise ParameterError(f"outputs is {reprlib.repr(outputs)}: expected a list of one, named {OUTPUT!r}")
    requested = [_object(output, "an output") for output in outputs or []]
    for output in requested:
        if output.get("name") != OUTPUT:
            raise ParameterError(f"unknown output {reprlib.repr(output.get('name'))}: the only one is {OUTPUT!r}")
    binary = [_switch(_parameters(output), "binary_data", default) for output in requested]
    return any(binary) if binary else default


def _switch(parameters: dict[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise ParameterError(f"{name} is {reprlib.repr(value)}: expected true or false")
    return value
