"""The Open Inference Protocol (KServe v2) over HTTP, as pure functions: what a body says, and what an answer is.

There is one model with one input and one output, both of BYTES: each element of the input is the JSON text of a request
for `POST /instance-segmentation`, the element of the output at the same place is the JSON text of its answer. Tensors
come in three forms: in the JSON itself; after it in binary form, as Triton's own client sends them unless told
otherwise; and as a body without any JSON, which is one element. `HEADER` tells them apart.

Source: the protocol's text on REST, and its binary tensor data extension. What these leave open (no JSON at all, an
empty list of outputs, an output named twice) is as a Triton server, 2.51, was found to have it.
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
#: Bytes of JSON at the start of a body that goes on in binary form; 0: there is none; without it: all is JSON.
HEADER = "Inference-Header-Content-Length"

_LENGTH = 4  # bytes of the little-endian number before each element in binary form


class Failure(BaseModel):
    """A request without an answer."""

    model_config = ConfigDict(title="KServeFailure")

    error: str


class Live(BaseModel):
    """That the process answers."""

    live: bool


class Ready(BaseModel):
    """Whether requests are answered."""

    ready: bool
    error: str | None = Field(None, description="Why not.")


class ModelReady(Ready):
    """Whether requests to the model are answered."""

    name: str


class ServerMetadata(BaseModel):
    """Of the service."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """Of the input or the output."""

    name: str
    datatype: str
    shape: list[int] = Field(description="-1: any number.")


class ModelMetadata(BaseModel):
    """Of the model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, Any] = Field(description="The `model` behind it, and the names of its `classes`.")


class OutputTensor(BaseModel):
    """The answers, each the JSON of one of `POST /instance-segmentation`."""

    name: str
    datatype: str
    shape: list[int]
    data: list[str]


class InferResponse(BaseModel):
    """An inference request's answer."""

    id: str | None = Field(None, description="The request's.")
    model_name: str
    model_version: str
    outputs: list[OutputTensor]


_BINARY = {"type": "string", "format": "binary"}
#: An answer to an inference request, for OpenAPI.
ANSWER: dict[str, Any] = {
    "model": InferResponse,
    "content": {"application/octet-stream": {"schema": _BINARY}},
    "description": f"The answers; in binary form where that is asked for, after JSON whose length {HEADER} tells.",
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
                                    "description": "The JSON of a request for `POST /instance-segmentation` each.",
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
            "schema": _BINARY | {"description": f"JSON, whose length {HEADER} tells, and the tensor in binary form."}
        },
    },
}


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What an inference request asks for.

    Attributes:
        id: the client's own name for it, to be sent back.
        texts: one for each element of the input; can be encoded in UTF-8, but need not be JSON.
        shape: of input and output: ``(N,)`` or ``(N, 1)`` for N texts.
        binary: the output is wanted in binary form.
    """

    id: str | None
    texts: tuple[str, ...]
    shape: tuple[int, ...]
    binary: bool


def header_length(value: str | None) -> int | None:
    """The number that `HEADER` holds, None where it was not sent. Raises ParameterError if it is not such a number."""
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 20):
        raise ParameterError(f"the header {HEADER} is {reprlib.repr(value)}: expected the length of the JSON in bytes")
    return int(value)


def parse(body: bytes, header_length: int | None, *, limit: int) -> InferRequest:
    """Read the body of ``POST /v2/models/instance-segmentation/infer``.

    Args:
        body: as received, decompressed.
        header_length: what `HEADER` says, see there.
        limit: elements that a request may have at most.

    Raises:
        ParameterError: it is not such a request.
    """
    if header_length == 0:
        return InferRequest(None, (_decoded(body, "the body"),), (1, 1), binary=True)
    if is_file_or_form(body):
        raise ParameterError("the body is an image or a form, which POST /instance-segmentation takes: expected JSON")
    if header_length is not None and not 0 < header_length <= len(body):
        raise ParameterError(f"the header {HEADER} is {header_length}, the body has {counted(len(body), 'byte')}")
    head, tail = body[:header_length], memoryview(body)[len(body) if header_length is None else header_length :]
    request = _object(_json(head), "the request")
    if not isinstance(request.get("id"), str | None):
        raise ParameterError(f"id is {reprlib.repr(request['id'])}: expected a text")
    tensor = _input(request)
    shape = _shape(tensor.get("shape"), limit)
    return InferRequest(request.get("id"), tuple(_elements(tensor, tail, shape)), shape, _wants_binary(request))


def compose(request: InferRequest, texts: Sequence[str]) -> tuple[bytes, int | None]:
    """The body of the answer, and what `HEADER` has to say of it; None: the header is not sent.

    Args:
        texts: an answer to each of ``request.texts``, in their order.
    """
    if len(texts) != len(request.texts):
        raise ValueError(f"{counted(len(texts), 'answer')} to {counted(len(request.texts), 'text')}")
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
    """The body of an answer to what can't be answered; its status says what kind of fault it is."""
    return _dump({"error": message})


def readiness(name: str | None, reason: str | None) -> bytes:
    """What questions for readiness are answered.

    Args:
        name: of the model; None: the server is asked for.
        reason: why it is not ready; None: it is.
    """
    answer: dict[str, Any] = {} if name is None else {"name": name}
    answer["ready"] = reason is None
    return _dump(answer if reason is None else answer | {"error": reason})


def server_metadata() -> dict[str, Any]:
    """What ``GET /v2`` answers."""
    return {"name": "maskline", "version": __version__, "extensions": ["binary_tensor_data"]}


def model_metadata(model: str, classes: Sequence[str]) -> dict[str, Any]:
    """What ``GET /v2/models/instance-segmentation`` answers.

    Args:
        model: name of the model behind it, as in the catalog.
        classes: their names, in the order of class indices.
    """
    tensor = {"datatype": "BYTES", "shape": [-1, 1]}
    return {
        "name": MODEL,
        "versions": [VERSION],
        "platform": "maskline_onnx",  # the protocol's form: a project, and a format of it
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
        raise ParameterError("the JSON has a number of too many digits") from None


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ParameterError(f"{what} is {reprlib.repr(value)}: expected an object")
    return value


def _parameters(value: dict[str, Any]) -> dict[str, Any]:
    """Those of a request or tensor, none where there are none."""
    given = value.get("parameters")
    return {} if given is None else _object(given, "parameters")


def _input(request: dict[str, Any]) -> dict[str, Any]:
    """The one input tensor, of the right name and datatype."""
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
        raise ParameterError(f"shape is {reprlib.repr(value)}: expected [N, 1] for N requests, {limit} at most")
    return tuple(value)


def _elements(tensor: dict[str, Any], tail: memoryview, shape: tuple[int, ...]) -> list[str]:
    """The texts of the input, as many as its shape says, from wherever they are."""
    data, size = tensor.get("data"), _parameters(tensor).get("binary_data_size")
    if (data is None) == (size is None):
        raise ParameterError("the input needs its texts in data, or else binary_data_size among its parameters")
    if type(size or 0) is not int or len(tail) != (size or 0):
        named = "not given" if size is None else reprlib.repr(size)
        raise ParameterError(
            f"binary_data_size is {named}, but {counted(len(tail), 'byte')} follow the JSON (see {HEADER})"
        )
    texts = _from_json(data, shape) if size is None else _from_bytes(tail, shape[0])
    if len(texts) != shape[0]:
        raise ParameterError(f"data has {counted(len(texts), 'element')}, the shape says {shape[0]}")
    return texts


def _from_json(data: Any, shape: tuple[int, ...]) -> list[str]:
    """Texts in a list or, with two axes, in lists of one in a list."""
    if not isinstance(data, list):
        raise ParameterError(f"data is {reprlib.repr(data)}: expected a list of texts")
    nested = len(shape) == 2 and all(isinstance(row, list) and len(row) == 1 for row in data)
    texts = [row[0] for row in data] if nested else data
    for text in texts:
        if not isinstance(text, str):
            raise ParameterError(f"data holds {reprlib.repr(text)}: expected the JSON of a request as a text")
        _check_encodable(text)
    return texts


def _check_encodable(text: str) -> None:
    """Refuse half a surrogate pair, which JSON can spell though no text can hold it."""
    try:
        _ = text.isascii() or text.encode()
    except UnicodeEncodeError:
        raise ParameterError("data holds half a surrogate pair: expected a text that UTF-8 can encode") from None


def _from_bytes(tail: memoryview, count: int) -> list[str]:
    """That many elements, each after its length, with nothing left over."""
    texts, start = [], 0
    for number in range(count):
        first = start + _LENGTH
        end = first + int.from_bytes(tail[start:first], "little")
        if end > len(tail):
            raise ParameterError(
                f"element {number} of the binary data ends {counted(end - len(tail), 'byte')} after the body"
            )
        texts.append(_decoded(tail[first:end], f"element {number}"))
        start = end
    if start != len(tail):
        raise ParameterError(
            f"{counted(len(tail) - start, 'byte')} left after {counted(count, 'element')}, the number in the shape"
        )
    return texts


def _decoded(data: bytes | memoryview, what: str) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise ParameterError(f"{what} is not text in UTF-8 (byte {error.start})") from None


def _wants_binary(request: dict[str, Any]) -> bool:
    """Whether the output is asked for in binary form: what is said of it, else what is said of all outputs."""
    default = _switch(_parameters(request), "binary_data_output", default=False)
    outputs = request.get("outputs")
    if not isinstance(outputs, list | None):
        raise ParameterError(f"outputs is {reprlib.repr(outputs)}: expected a list of one, named {OUTPUT!r}")
    wanted = [_object(output, "an output") for output in outputs or []]
    for output in wanted:
        if output.get("name") != OUTPUT:
            raise ParameterError(f"unknown output {reprlib.repr(output.get('name'))}: the only one is {OUTPUT!r}")
    said = [_switch(_parameters(output), "binary_data", default) for output in wanted]
    return any(said) if said else default


def _switch(parameters: dict[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise ParameterError(f"{name} is {reprlib.repr(value)}: expected true or false")
    return value
