"""The wire forms of the Open Inference Protocol: round trips in each, what a Triton client sends, what is refused."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from maskline import __version__
from maskline.errors import ParameterError
from maskline.serve import kserve
from maskline.serve.kserve import InferRequest, compose, parse

TEXT = '{"image": "é"}'
TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def lengths_and_bytes(texts: list[str]) -> bytes:
    return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)


def json_body(**changes: object) -> dict[str, Any]:
    """A request of one text in JSON; keys of the input are changed by ``input_…``, left out by ``...``."""
    tensor: dict[str, Any] = {"name": "input", "shape": [1, 1], "datatype": "BYTES", "data": [TEXT]}
    tensor |= {key.removeprefix("input_"): value for key, value in changes.items() if key.startswith("input_")}
    whole = {"inputs": [{key: value for key, value in tensor.items() if value is not ...}]}
    return whole | {key: value for key, value in changes.items() if not key.startswith("input_")}


def binary_body(texts: list[str], size: object = None, **changes: object) -> tuple[bytes, int]:
    tail = lengths_and_bytes(texts)
    parameters = {"binary_data_size": len(tail) if size is None else size}
    whole = {"input_shape": [len(texts), 1], "input_data": ..., "input_parameters": parameters} | changes
    head = json.dumps(json_body(**whole)).encode()
    return head + tail, len(head)


def parsed(body: object, limit: int = 8) -> InferRequest:
    return parse(json.dumps(body).encode(), None, limit=limit)


def answered(body: bytes, header_length: int | None) -> tuple[dict[str, Any], list[str]]:
    """The JSON of an answer and its texts, read as a client does."""
    answer = json.loads(body[:header_length])
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"]) == ("output", "BYTES")
    if header_length is None:
        assert "parameters" not in output
        return answer, output["data"]
    tail, texts = body[header_length:], []
    assert "data" not in output and output["parameters"] == {"binary_data_size": len(tail)}
    while tail:
        (length,) = struct.unpack_from("<I", tail)
        texts.append(tail[4 : 4 + length].decode())
        tail = tail[4 + length :]
    return answer, texts


@given(TEXTS, st.sampled_from(["flat", "nested", "one axis"]), st.booleans(), st.none() | st.text())
def test_texts_in_json_come_through(texts: list[str], form: str, binary: bool, name: str | None) -> None:
    """F53: in the JSON, flat as in the documents or nested, answered in either form."""
    shape = [len(texts)] if form == "one axis" else [len(texts), 1]
    data = [[text] for text in texts] if form == "nested" else texts
    outputs = [{"name": "output", "parameters": {"binary_data": binary}}]
    request = parsed(json_body(id=name, input_shape=shape, input_data=data, outputs=outputs))
    assert request == InferRequest(name, tuple(texts), tuple(shape), binary)
    answer, back = answered(*compose(request, texts))
    assert back == texts and answer.get("id") == name
    assert (answer["model_name"], answer["model_version"]) == ("instance-segmentation", "1")
    assert answer["outputs"][0]["shape"] == shape


@given(TEXTS, st.booleans())
def test_texts_in_binary_form_come_through(texts: list[str], binary: bool) -> None:
    """F53: the binary tensor data extension."""
    body, head = binary_body(texts, parameters={"binary_data_output": binary})
    request = parse(body, head, limit=4)
    assert request == InferRequest(None, tuple(texts), (len(texts), 1), binary)
    assert answered(*compose(request, texts))[1] == texts


#: What `tritonclient.http` 2.73 sends for TEXT with the id 7: input and output in binary form or not.
INPUT = b'{"id":"7","inputs":[{"name":"input","shape":[1,1],"datatype":"BYTES",'
RECORDED = [
    (
        INPUT + b'"parameters":{"binary_data_size":19}}],"parameters":{"binary_data_output":true}}'
        b'\x0f\x00\x00\x00{"image": "\xc3\xa9"}',
        149,
        True,
    ),
    (
        INPUT + b'"parameters":{"binary_data_size":19}}],"outputs":[{"name":"output","parameters":{"binary_data":false'
        b'}}]}\x0f\x00\x00\x00{"image": "\xc3\xa9"}',
        173,
        False,
    ),
    (
        INPUT + b'"data":["{\\"image\\": \\"\\u00E9\\"}"]}],"parameters":{"binary_data_output":true}}',
        None,
        True,
    ),
    (
        INPUT + b'"data":["{\\"image\\": \\"\\u00E9\\"}"]}],"outputs":[{"name":"output","parameters":'
        b'{"binary_data":false}}]}',
        None,
        False,
    ),
]


@pytest.mark.parametrize(("body", "header_length", "binary"), RECORDED)
def test_what_tritons_client_sends(body: bytes, header_length: int | None, binary: bool) -> None:
    """F53: recorded from the client that Triton's documents use; binary is its default."""
    assert parse(body, header_length, limit=1) == InferRequest("7", (TEXT,), (1, 1), binary)


def test_answers_byte_by_byte() -> None:
    """F53: the layout that Triton's client reads, in both forms."""
    head = b'{"id":"7","model_name":"instance-segmentation","model_version":"1","outputs":[{"name":"output",'
    head += b'"datatype":"BYTES","shape":[1,1],'
    assert compose(InferRequest("7", (TEXT,), (1, 1), False), ["ok"]) == (head + b'"data":["ok"]}]}', None)
    head += b'"parameters":{"binary_data_size":7}}]}'
    body = head + b"\x03\x00\x00\x00\xe2\x82\xac"
    assert compose(InferRequest("7", (TEXT,), (1, 1), True), ["€"]) == (body, len(head))
    with pytest.raises(ValueError, match="2 responses to 1 request$"):
        compose(InferRequest(None, (TEXT,), (1, 1), False), ["a", "b"])


def test_a_body_without_json_is_one_text() -> None:
    """F53: as Triton has it, ``curl --data-binary @request.json`` with a header of 0 is a request."""
    assert parse(TEXT.encode(), 0, limit=1) == InferRequest(None, (TEXT,), (1, 1), True)
    with pytest.raises(ParameterError, match=r"the body is not UTF-8 text \(byte 1\)"):
        parse(b"a\xff", 0, limit=1)


def test_the_request_of_the_documents() -> None:
    """F53: the form with which PaddleX's high-stability service is called."""
    request = parsed(json_body(outputs=[{"name": "output"}]))
    assert request == InferRequest(None, (TEXT,), (1, 1), False)
    assert json.loads(compose(request, ["{}"])[0])["outputs"][0]["data"][0] == "{}"


@pytest.mark.parametrize(
    ("changes", "binary"),
    [
        ({}, False),
        ({"outputs": None, "parameters": None}, False),
        ({"outputs": [], "parameters": {"binary_data_output": True}}, True),
        ({"outputs": [{"name": "output"}], "parameters": {"binary_data_output": True, "other": 1}}, True),
        (
            {
                "outputs": [{"name": "output", "parameters": {"binary_data": False}}],
                "parameters": {"binary_data_output": True},
            },
            False,
        ),
        ({"outputs": [{"name": "output"}, {"name": "output", "parameters": {"binary_data": True}}], "new": 1}, True),
    ],
)
def test_which_form_the_output_has(changes: dict[str, object], binary: bool) -> None:
    assert parsed(json_body(**changes)).binary is binary


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], r"the request is \[\]: expected an object"),
        ({}, "inputs is None: expected a list of one tensor, named 'input'"),
        ({"inputs": json_body()["inputs"] * 2}, "inputs is .*: expected a list of one"),
        ({"inputs": ["input"]}, "the input is 'input': expected an object"),
        (json_body(id=5), "id is 5: expected a string"),
        (json_body(input_name="image"), "name of the input is 'image': expected 'input'"),
        (json_body(input_name=...), "name of the input is None"),
        (json_body(input_datatype="UINT8"), "datatype of the input is 'UINT8': expected 'BYTES'"),
        (json_body(input_shape=...), r"shape is None: expected \[N, 1\] for N requests, at most 8"),
        (json_body(input_shape=[9, 1]), "at most 8"),
        (json_body(input_shape=[10**400, 1]), "at most 8"),
        (json_body(input_shape=[0, 1]), "shape is"),
        (json_body(input_shape=[1, 2]), "shape is"),
        (json_body(input_shape=[1, 1, 1]), "shape is"),
        (json_body(input_shape=[]), "shape is"),
        (json_body(input_shape=[True]), "shape is"),
        (json_body(input_shape=[1.0, 1]), "shape is"),
        (json_body(input_shape=1), "shape is 1"),
        (json_body(input_data=...), "needs either its strings in data or binary_data_size"),
        (json_body(input_parameters={"binary_data_size": 5}), "needs either its strings in data or"),
        (json_body(input_parameters=[]), r"parameters is \[\]: expected an object"),
        (json_body(input_data=TEXT), "data is .*: expected a list of strings"),
        (json_body(input_data=[]), "data has 0 elements: expected 1, as in the shape"),
        (json_body(input_data=[TEXT, TEXT]), "data has 2 elements: expected 1, as in the shape"),
        (
            json_body(input_data=[{"image": ""}]),
            "data contains {'image': ''}: expected the JSON of a request as a string",
        ),
        (json_body(input_data=[[TEXT]], input_shape=[1]), "data contains .*: expected the JSON"),
        (json_body(input_data=[[TEXT], TEXT], input_shape=[2, 1]), "data contains"),
        (json_body(input_data=[[[TEXT]]]), "data contains"),
        (json_body(input_data=["\ud800"]), "a lone surrogate"),
        (json_body(outputs=[{"name": "masks"}]), "unknown output 'masks': the only one is 'output'"),
        (json_body(outputs=[{}]), "unknown output None"),
        (json_body(outputs=["output"]), "an output is 'output': expected an object"),
        (json_body(outputs={}), "outputs is {}: expected a list of one, named 'output'"),
        (json_body(parameters={"binary_data_output": 1}), "binary_data_output is 1: expected true or false"),
        (json_body(outputs=[{"name": "output", "parameters": {"binary_data": "no"}}]), "binary_data is 'no'"),
        (json_body(parameters=7), "parameters is 7: expected an object"),
        (json_body(input_data=..., input_parameters={"binary_data_size": 5}), "but 0 bytes follow the JSON"),
    ],
)
def test_requests_that_are_refused(body: object, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        parsed(body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the request is not JSON: Expecting value at character 0"),
        (b"image=1", "the request is not JSON"),
        (b'{"inputs": "\xff"}', r"the JSON is not UTF-8 text \(byte 12\)"),
        ("{}".encode("utf-16"), "the JSON is not UTF-8 text"),
        (b"\xef\xbb\xbf{}", "the request is not JSON: Unexpected UTF-8 BOM"),
        (b"[" * 50_000, "the JSON is nested too deeply"),
        (b'{"a":' * 50_000, "the JSON is nested too deeply"),
        (b'{"id": ' + b"9" * 5000 + b"}", "the JSON has a number with too many digits"),
        (b'{"id": NaN}', "id is nan: expected a string"),
        (b'{"id": 1e999}', "id is inf: expected a string"),
    ],
)
def test_bodies_that_are_not_requests(body: bytes, message: str) -> None:
    with pytest.raises(ParameterError, match=message) as caught:
        parse(body, None, limit=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("made", "cut", "added", "message"),
    [
        (binary_body([TEXT]), 1, b"", r"binary_data_size is 19, but 18 bytes follow the JSON \(see Inference-Header-"),
        (binary_body([TEXT]), 0, b"x", "binary_data_size is 19, but 20 bytes follow the JSON"),
        (binary_body([TEXT], size=18), 1, b"", "element 0 of the binary data extends 1 byte past the body"),
        (binary_body([TEXT], size=2), 17, b"", "element 0 of the binary data extends 1\\d bytes past the body"),
        (binary_body([TEXT], size=23), 0, b"\0\0\0\0", "4 bytes left after 1 element, as many as in the shape"),
        (binary_body([TEXT], size="19"), 0, b"", "binary_data_size is '19'"),
        (binary_body([TEXT], size=19.0), 0, b"", "binary_data_size is 19.0"),
        (binary_body([TEXT], size=-1), 0, b"", "binary_data_size is -1"),
        (binary_body([TEXT], size=10**30), 0, b"", "binary_data_size is 1000"),
        (binary_body([TEXT], size=False), 19, b"", "element 0 of the binary data"),
        (binary_body([""], size=True), 3, b"", "binary_data_size is True"),
        (binary_body([TEXT], size=5), 19, b"\1\0\0\0\xff", r"element 0 is not UTF-8 text \(byte 0\)"),
        (binary_body([TEXT, TEXT], input_shape=[1, 1]), 0, b"", "19 bytes left after 1 element,"),
        (binary_body([TEXT], input_shape=[2, 1]), 0, b"", "element 1 of the binary data extends 4 bytes past"),
        (binary_body([TEXT], input_data=[TEXT], input_parameters=None), 0, b"", "is not given, but 19 bytes follow"),
    ],
)
def test_sizes_that_do_not_add_up(made: tuple[bytes, int], cut: int, added: bytes, message: str) -> None:
    body, head = made
    with pytest.raises(ParameterError, match=message):
        parse(body[: len(body) - cut] + added, head, limit=2)


def test_the_header() -> None:
    assert kserve.header_length(None) is None and kserve.header_length("149") == 149
    for value in ("-1", "1.5", "", " 5", "٣", "9" * 20, "0x10"):
        with pytest.raises(ParameterError, match="the header Inference-Header-Content-Length is .*: expected the len"):
            kserve.header_length(value)
    for length in (3, -1, 10**19):
        with pytest.raises(ParameterError, match=f"is {length}, the body has 2 bytes"):
            parse(b"{}", length, limit=1)


@given(st.dictionaries(st.sampled_from(["id", "inputs", "outputs", "parameters"]), ANY_JSON), st.binary())
@example({"inputs": [{"name": "x" * 10_000_000}]}, b"")
def test_whatever_json_comes_the_fault_is_reported_in_one_short_line(body: dict[str, object], tail: bytes) -> None:
    head = json.dumps(body).encode()
    with pytest.raises(ParameterError) as caught:
        parse(head + tail, len(head), limit=2)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@given(ANY_JSON, st.sampled_from(["name", "shape", "datatype", "data", "parameters"]), st.booleans())
def test_whatever_is_in_the_input_only_sound_texts_come_out(value: object, key: str, flat: bool) -> None:
    changes = {f"input_{key}": value} | ({"input_shape": [1]} if flat and key != "shape" else {})
    try:
        request = parsed(json_body(**changes))
    except ParameterError as error:
        assert "\n" not in str(error) and len(str(error)) < 400
    else:
        assert len(request.texts) == 1 == request.shape[0] and request.texts[0].encode()


@given(st.data())
def test_damaged_bodies_are_reported(data: st.DataObject) -> None:
    """Cut, or with a byte changed: another sound request, or one line of what is wrong."""
    body, head = binary_body([TEXT, "b"])
    at = data.draw(st.integers(0, len(body) - 1))
    damaged = data.draw(st.sampled_from([body[:at], body[:at] + b"\x80" + body[at + 1 :], body[:at] + body[at + 1 :]]))
    for length in (head, None, 0):
        try:
            request = parse(damaged, length, limit=8)
        except ParameterError as error:
            assert "\n" not in str(error)
        else:
            assert len(request.texts) == request.shape[0]


def test_what_the_server_and_the_model_say_of_themselves() -> None:
    """F53: metadata, and the body of an error."""
    assert kserve.server_metadata() == {
        "name": "maskline",
        "version": __version__,
        "extensions": ["binary_tensor_data"],
    }
    described = kserve.model_metadata("PP-YOLOE_seg-N", ("nucleus",))
    assert (described["name"], described["versions"]) == ("instance-segmentation", ["1"])
    assert described["platform"] == "maskline_onnx"
    assert described["inputs"] == [{"name": "input", "datatype": "BYTES", "shape": [-1, 1]}]
    assert described["outputs"] == [{"name": "output", "datatype": "BYTES", "shape": [-1, 1]}]
    assert described["parameters"] == {"model": "PP-YOLOE_seg-N", "classes": ["nucleus"]}
    assert json.dumps(described)
    assert kserve.error("no model é") == b'{"error":"no model \\u00e9"}'
