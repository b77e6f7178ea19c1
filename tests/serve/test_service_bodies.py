"""Bodies of requests in every form that clients send, and what is said of those that are none."""

from __future__ import annotations

import gzip
import io
import json
import re
import time
import uuid
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from fixtures.answers import faults, found
from fixtures.service import IMAGE, Service, counted, encoded, png, running
from PIL import Image

from maskline import __version__


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain", "application/json"])
def test_any_content_type_will_do(service: Service, image: str, kind: str | None) -> None:
    """B46: the body is JSON, whatever it is said to be."""
    headers = {} if kind is None else {"Content-Type": kind}
    response = service.post(json.dumps({"image": image, "visualize": False}).encode(), headers=headers)
    assert len(found(response)) > 5


def test_an_image_is_none_for_what_its_comment_says(service: Service) -> None:
    """A PDF file may begin with other bytes, but not with an image's."""
    answers = []
    for options in ({}, {"comment": b"made from %PDF-1.7"}):
        file = io.BytesIO()
        Image.open(IMAGE).convert("RGB").save(file, "JPEG", **options)
        answers.append(found(service.post({"image": encoded(file.getvalue()), "visualize": False})))
    assert b"%PDF-" in file.getvalue()[:1024]
    assert answers[0] == answers[1] and len(answers[0]) > 5


def test_data_urls_and_lines(service: Service, image: str) -> None:
    lines = "\r\n".join(image[start : start + 76] for start in range(0, len(image), 76))
    for text in (f"data:image/png;base64,{image}", lines):
        assert len(found(service.post({"image": text, "visualize": False}))) > 5


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, ("missing", "body.image")),
        ({"image": 1}, ("string_type", "body.image")),
        ([], ("model_attributes_type", "body")),
        (b"", ("json_invalid", "body[0]")),
        (b"{x", ("json_invalid", "body[1]")),
        (b"\xff\xfe\xfa", ("json_invalid", "body")),
        (b"[" * 200_000, ("json_invalid", "body")),
        (b'{"image": "a", "threshold": ' + b"9" * 5000 + b"}", ("json_invalid", "body")),
        (b'{"image": "\\ud800"}', ("string_unicode", "body.image")),
        ({"image": "QUJD", "logId": "x" * 300}, ("string_too_long", "body.logId")),
        ({"image": "no, not this"}, ("base64_invalid", "body.image")),
        ({"image": "QUJ"}, ("base64_invalid", "body.image")),
        ({"image": "QU-_"}, ("base64_invalid", "body.image")),
        ({"image": "猫"}, ("base64_invalid", "body.image")),
        ({"image": "data:image/png,abc"}, ("base64_invalid", "body.image")),
        ({"image": ""}, ("string_too_short", "body.image")),
        ({"image": "data:image/png;base64,"}, ("image_empty", "body.image")),
        ({"image": encoded(b"a text")}, ("image_invalid", "body.image")),
        ({"image": encoded(b"%PDF-1.7 and so on")}, ("image_invalid", "body.image")),
        ({"image": encoded(IMAGE.read_bytes()[:5000])}, ("image_invalid", "body.image")),
        ({"image": "/etc/passwd"}, ("base64_invalid", "body.image")),
        ({"image": "file:///etc/passwd"}, ("base64_invalid", "body.image")),
        ({"image": "http://127.0.0.1/a.png"}, ("url_not_allowed", "body.image")),
    ],
)
def test_what_is_the_client_s_fault_is_reported(service: Service, body: Any, expected: tuple[str, str]) -> None:
    """F49, B44: 422 with PaddleX's structure, never 500."""
    response = service.post(body)
    assert faults(response) == [expected]
    assert uuid.UUID(response.json()["logId"])
    for inside in (str(IMAGE.parents[1]), "Traceback", __version__):
        assert inside not in response.text


def test_sizes_are_checked_before_anything_is_decoded(service: Service) -> None:
    """B44, B47: 413 with what was given and what is taken."""
    bomb = Image.new("1", (9000, 9000))
    file = io.BytesIO()
    bomb.save(file, "PNG")
    started = time.monotonic()
    response = service.post({"image": encoded(file.getvalue())})
    assert time.monotonic() - started < 2
    assert response.status_code == response.json()["errorCode"] == 413
    assert re.search("9000 x 9000 pixels.* 2000000", response.json()["errorMsg"])
    large = service.post({"image": "A" * (9 << 20)})
    assert large.status_code == 413 and str(8 << 20) in large.json()["errorMsg"]
    chunked = requests.post(f"{service.url}/instance-segmentation", data=iter([b"A" * (1 << 20)] * 9), timeout=30)
    assert chunked.status_code == 413


def test_large_images_and_requests_are_taken(image: str) -> None:
    """No limit of a framework stands before ours: a request of 30 MB, an image of 60 million pixels."""
    with running("serve", "--threads", "1") as service:
        noise = np.random.default_rng(0).integers(0, 255, (2600, 3000, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).save(file, "BMP")
        assert len(file.getvalue()) > 22 << 20
        assert service.post({"image": encoded(file.getvalue()), "visualize": False}).status_code == 200
        assert service.post({"image": encoded(png(6000, 10000)), "visualize": False}).status_code == 200


@pytest.mark.parametrize("size", [(1, 65_500), (1, 65_501), (70_000, 3)])
def test_images_that_are_too_long_for_a_jpeg(service: Service, size: tuple[int, int]) -> None:
    """They are looked at, but not drawn; and no worker dies of them."""
    workers = service.workers()
    result = service.post({"image": encoded(png(*size))}).json()["result"]
    assert result["size"] == list(size) and (result["image"] is None) == (max(size) > 65_500)
    assert service.workers() == workers


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "X-GZIP": gzip.compress,
    "deflate": zlib.compress,
}


@pytest.mark.parametrize("coding", CODINGS)
def test_compressed_bodies(service: Service, image: str, coding: str) -> None:
    """Also in chunks, and those of the inference protocol, whose header describes the JSON as it was."""
    asked = {"image": image, "visualize": False, "logId": "a"}
    plain, headers = service.post(asked).json(), {"Content-Encoding": coding}
    body = CODINGS[coding](json.dumps(asked).encode())
    assert service.post(body, headers=headers).json() == plain
    pieces = (body[start : start + 7000] for start in range(0, len(body), 7000))
    url = f"{service.url}/instance-segmentation"
    assert requests.post(url, data=pieces, headers=headers, timeout=30).json() == plain

    text = json.dumps(asked).encode()
    tail = len(text).to_bytes(4, "little") + text
    tensor = {"name": "input", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(tail)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers["Inference-Header-Content-Length"] = str(len(head))
    response = service.post(CODINGS[coding](head + tail), "/v2/models/instance-segmentation/infer", headers=headers)
    assert json.loads(response.json()["outputs"][0]["data"][0]) == plain


gzipped = partial(gzip.compress, mtime=0)  # the same bytes at any time, as names of tests must be


@pytest.mark.parametrize(
    ("coding", "body", "status", "message"),
    [
        ("br", b"\x0b\x02\x80{}\x03", 415, "'br': expected deflate, gzip, x-gzip or none"),
        ("gzip, gzip", gzipped(gzipped(b"{}")), 415, "expected deflate, gzip"),
        ("gzip", b'{"image": "QUJD"}', 400, "not valid gzip data.*incorrect header"),
        ("gzip", b"", 400, "not valid gzip data.*cut short"),
        ("gzip", gzipped(b"{}" * 999)[:-9], 400, "not valid gzip data.*cut short"),
        ("gzip", gzipped(b"{}" * 999)[:-8] + bytes(8), 400, "not valid gzip data.*incorrect data check"),
        ("gzip", gzipped(b"{}") * 2, 400, "not valid gzip data.*data follows its end"),
        ("gzip", gzipped(bytes(1 << 18)) + b"x", 400, "not valid gzip data.*data follows its end"),
        ("deflate", gzipped(b"{}"), 400, "not valid deflate data"),
        ("deflate", zlib.compress(bytes(range(256)) * 99)[:200], 400, "not valid deflate data.*cut short"),
    ],
)
def test_bodies_that_can_t_be_decompressed(
    service: Service, coding: str, body: bytes, status: int, message: str
) -> None:
    for path in ("/instance-segmentation", "/v2/models/instance-segmentation/infer"):
        response = service.post(body, path, headers={"Content-Encoding": coding})
        assert response.status_code == status and "\n" not in response.text
        assert re.search(message, response.json().get("errorMsg") or response.json()["error"])
        assert (response.headers.get("Accept-Encoding") == "deflate, gzip, x-gzip") == (status == 415)


@pytest.mark.parametrize("path", ["/instance-segmentation", "/v2/models/instance-segmentation/infer"])
def test_a_compressed_bomb(path: str) -> None:
    """B47: 1 MB that stands for 1 GB is refused before more than the limit has been made of it, and read no further."""
    layer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(layer.compress(bytes(1 << 20)) for _ in range(1024)) + layer.flush()
    assert len(bomb) < 1 << 20
    with running("serve", "--max-body", "8", "--threads", "1", "--workers", "1") as service:
        memory = Path(f"/proc/{service.process.pid}/status")
        before = peak(memory)
        started = time.monotonic()
        response = service.post(bomb, path, headers={"Content-Encoding": "gzip"})
        assert time.monotonic() - started < 5
        assert response.status_code == 413 and re.search(f"up to {8 << 20} bytes, decompressed", response.text)
        assert peak(memory) - before < 64 << 20
        assert counted(service.get("/metrics").text, 'maskline_rejections_total{reason="too_large"}') == 1


def peak(status: Path) -> int:
    """The most memory that a process had, in bytes."""
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text("ascii"))
    return int(line) << 10


def form(*fields: tuple[str, str | None, bytes], boundary: bytes = b"----a-boundary", end: bytes = b"--\r\n") -> bytes:
    """multipart/form-data of names, file names and contents."""
    lines = []
    for name, file, content in fields:
        lines += [b"--" + boundary, f'Content-Disposition: form-data; name="{name}"'.encode()]
        lines[-1] += b"" if file is None else f'; filename="{file}"\r\nContent-Type: image/png'.encode()
        lines += [b"", content]
    return b"\r\n".join([*lines, b"--" + boundary + end])


@pytest.mark.parametrize("kind", [None, "image/png", "application/octet-stream", "application/x-www-form-urlencoded"])
def test_the_image_file_may_be_the_body(service: Service, image: str, kind: str | None) -> None:
    """Its first bytes show it, so that `curl --data-binary @photo.jpg` needs no more."""
    headers = {} if kind is None else {"Content-Type": kind}
    response = service.post(IMAGE.read_bytes(), headers=headers)
    expected = service.post({"image": image}).json()["result"]
    assert response.status_code == 200 and response.json()["result"] == expected


def test_forms(service: Service, image: str) -> None:
    """As requests sends them, and as other clients do."""
    asked = {"threshold": 0.7, "visualize": False, "logId": "7", "maskFormat": "polygon"}
    expected = service.post({"image": image, **asked}).json()
    texts = {"threshold": "0.7", "visualize": "false", "logId": "7", "maskFormat": "polygon"}
    url, file = f"{service.url}/instance-segmentation", ("photo.png", IMAGE.read_bytes(), "image/png")
    assert requests.post(url, files={"image": file}, data=texts, timeout=30).json() == expected
    in_base64: dict[str, Any] = {"image": (None, image), "unknown": file}
    assert requests.post(url, files=in_base64, data=texts, timeout=30).json() == expected
    fields = [(name, None, value.encode()) for name, value in texts.items()]
    own = form(("image", "名; name=x.png", IMAGE.read_bytes()), *fields)
    for body in (
        own,  # without any Content-Type that states the boundary
        own.replace(b'name="image"', b"name=image").replace(b"Content-Disposition", b"content-disposition"),
        form(*fields, ("image", "a", IMAGE.read_bytes()), end=b"--"),
    ):
        assert service.post(body).json() == expected
    by_class = form(("image", "a", IMAGE.read_bytes()), ("threshold", None, b'{"nucleus": 0.7}'))
    assert len(found(service.post(by_class))) == len(expected["result"]["instances"])


IMAGE_FIELD = ("image", "a.png", b"QUJD")


@pytest.mark.parametrize(
    ("body", "fault", "message"),
    [
        (form(("file", "a.png", b"QUJD")), ("missing", "body.image"), "required"),
        (form(("image", "", b"")), ("image_empty", "body.image"), "send the bytes"),
        (form(("image", "a.txt", b"a text")), ("image_invalid", "body.image"), "not an image"),
        (form(IMAGE_FIELD, ("threshold", None, b"high")), ("threshold_invalid", "body.threshold"), "'high'"),
        (form(IMAGE_FIELD, ("threshold", None, b'"0.3"')), ("threshold_invalid", "body.threshold"), "'0.3'"),
        (form(IMAGE_FIELD, IMAGE_FIELD), ("form_invalid", "body"), "'image' is given twice"),
        (form(("image", None, b"\xff\xd8")), ("form_invalid", "body"), "which needs a filename"),
        (form(IMAGE_FIELD, end=b""), ("form_invalid", "body"), "no closing boundary"),
        (form(IMAGE_FIELD, boundary=b"x" * 80), ("form_invalid", "body"), "70 characters"),
        (form(*[("x", None, b"")] * 200), ("form_invalid", "body"), "100 fields"),
        (b"--a\r\n\r\n\r\n--a--", ("form_invalid", "body"), "Content-Disposition"),
        (b"--", ("form_invalid", "body"), "no closing boundary"),
        (IMAGE.read_bytes()[:5000], ("image_invalid", "body.image"), "cut short"),
        (b"GIF89a" + bytes(20), ("json_invalid", "body[0]"), "or the file alone: JPEG"),
        (b"\0\0\0\x18ftypheic" + bytes(20), ("json_invalid", "body"), "or the file alone: JPEG"),
        (b"%PDF-1.7", ("json_invalid", "body[0]"), "or the file alone: JPEG"),
        (b"image=QUJD", ("json_invalid", "body[0]"), "in Base64.*a form.*see /docs"),
        (b'"QUJD"', ("model_attributes_type", "body"), "in Base64.*a form.*see /docs"),
    ],
)
def test_bodies_that_are_not_requests(service: Service, body: bytes, fault: tuple[str, str], message: str) -> None:
    """F49: what to send is said."""
    response = service.post(body)
    assert faults(response) == [fault]
    assert re.search(message, json.loads(response.json()["errorMsg"])[0]["msg"])


def test_images_are_logged_where_they_go(service: Service) -> None:
    for body in (IMAGE.read_bytes(), form(IMAGE_FIELD)):
        response = service.post(body, "/v2/models/instance-segmentation/infer")
        assert response.status_code == 400 and "send it to POST /instance-segmentation" in response.json()["error"]


def test_json_of_too_many_values(service: Service) -> None:
    """B47: it would take many times its size in memory."""
    model = "/v2/models/instance-segmentation/infer"
    for path, body, status in (
        ("/instance-segmentation", b'{"image": "a", "x": [' + b"[]," * 200_000 + b"1]}", 422),
        (model, b'{"inputs": [' + b"[]," * 200_000 + b"1]}", 400),
    ):
        response = service.post(body, path)
        assert response.status_code == status and "values" in response.text
