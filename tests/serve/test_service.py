"""The service as its clients see it: a real process, the embedded model, requests over HTTP."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from fixtures.service import IMAGE, Service, counted, encoded, png, ready, running
from PIL import Image
from pycocotools import mask as coco

from maskline import Predictor, Result, __version__, create_model
from maskline._cpu import cores
from maskline.cli.running import Running
from maskline.cli.serving import divided, usual_batch
from maskline.errors import ParameterError
from maskline.runtime.device import CPU, parse_devices

#: pycocotools makes arrays in a way that NumPy has come to dislike.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
KEY = "a key of some length"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running("serve", "--max-pixels", "2", "--max-body", "8", "--threads", "1", "--workers", "1") as service:
        yield service


@pytest.fixture(scope="module")
def guarded() -> Iterator[Service]:
    """With a key, without images in its answers, for a page of another origin."""
    options = ("--no-visualize", "--cors", "https://a.example", "--no-access-log")
    with running("serve", *options, environment={"MASKLINE_API_KEY": KEY, "OMP_NUM_THREADS": "1"}) as service:
        yield service


@pytest.fixture(scope="module")
def model() -> Predictor:
    return create_model(threads=1)


@pytest.fixture(scope="module")
def expected(model: Predictor) -> Result:
    (result,) = model.predict(str(IMAGE))
    return result


@pytest.fixture(scope="module")
def image() -> str:
    return encoded()


def found(response: requests.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    instances: list[dict[str, Any]] = response.json()["result"]["instances"]
    return instances


def faults(response: requests.Response) -> list[tuple[str, str]]:
    """Type and place of what is wrong, of a sound 422."""
    body = response.json()
    assert response.status_code == body["errorCode"] == 422
    listed = json.loads(body["errorMsg"])
    assert all(set(fault) == {"type", "loc", "msg"} and fault["msg"] for fault in listed)
    return [(fault["type"], fault["loc"]) for fault in listed]


def test_an_answer_holds_what_predict_finds(service: Service, image: str, expected: Result) -> None:
    """F38, F39, F45, F46, F47: boxes, classes, scores and masks are the model's; masks decode with COCO's tools."""
    response = service.post({"image": image, "visualize": False})
    instances = found(response)
    assert response.json()["result"]["size"] == list(expected.instances.size)
    assert len(instances) == len(expected["boxes"]) > 5
    for i, (one, box) in enumerate(zip(instances, expected["boxes"], strict=True)):
        assert set(one) == {"bbox", "categoryId", "categoryName", "score", "mask"}
        assert one["bbox"] == box["coordinate"] and one["score"] == box["score"]
        assert (one["categoryId"], one["categoryName"]) == (box["cls_id"], box["label"])
        mask = coco.decode({"counts": one["mask"]["rleResult"].encode(), "size": one["mask"]["size"]})
        assert (mask == expected["masks"][i]).all()
        x1, y1, x2, y2 = (round(value) for value in one["bbox"])
        assert one["mask"]["size"] == [y2 - y1, x2 - x1]
        placed = np.zeros(expected.instances.size, np.bool_)
        placed[y1:y2, x1:x2] = mask
        assert (placed == expected.instances.full_mask(i)).all()


def test_the_envelope(service: Service, image: str) -> None:
    """F43, F44, B45: a new UUID unless the client has sent one, 0 and Success; the image is null if not wanted."""
    body = service.post({"image": image, "visualize": False}).json()
    assert set(body) == {"logId", "errorCode", "errorMsg", "result"}
    assert (body["errorCode"], body["errorMsg"], body["result"]["image"]) == (0, "Success", None)
    assert uuid.UUID(body["logId"]).version == 4
    assert service.post({"image": image, "logId": "mine 猫", "visualize": False}).json()["logId"] == "mine 猫"
    assert service.post({"logId": "mine"}).json()["logId"] == "mine"


def test_thresholds(service: Service, image: str, expected: Result) -> None:
    """F41: a higher one keeps fewer; by class too."""
    scores = [box["score"] for box in expected["boxes"]]
    middle = sorted(scores)[len(scores) // 2]
    for threshold in (middle, {"nucleus": middle}):
        kept = found(service.post({"image": image, "threshold": threshold, "visualize": False}))
        assert [one["score"] for one in kept] == [score for score in scores if score > middle]
    assert found(service.post({"image": image, "threshold": 1})) == []
    assert len(found(service.post({"image": image, "threshold": 0, "visualize": False}))) > len(scores)
    for default in (None, {}):
        assert len(found(service.post({"image": image, "threshold": default, "visualize": False}))) == len(scores)


@pytest.mark.parametrize(
    "given",
    [
        *("0.3", "true", "-1", "5", '"0.3"', '"high"', "NaN", "-Infinity", "1" * 400, "[0.3]"),
        *('{"nucleus": "0.3"}', '{"nucleus": 2}', '{"cell": 0.3}', '{"0": 0.3}', f'{{"{"x" * 5000}": 0.3}}'),
    ],
)
def test_one_rule_for_thresholds(service: Service, model: Predictor, image: str, given: str) -> None:
    """F41, B26: what Python takes, the service takes; what Python refuses, it refuses with the same words."""
    response = service.post(f'{{"image": "{image}", "visualize": false, "threshold": {given}}}'.encode())
    try:
        model.predict(str(IMAGE), threshold=json.loads(given))
    except ParameterError as error:
        assert faults(response) == [("threshold_invalid", "body.threshold")]
        assert json.loads(response.json()["errorMsg"])[0]["msg"] == str(error)
        assert len(str(error)) < 250 and re.search("from 0 to 1|known: nucleus", str(error))
        assert given != "0.3"
    else:
        assert given == "0.3" and found(response)


def test_the_image_in_the_answer(service: Service, guarded: Service, image: str, expected: Result) -> None:
    """F42, F48: a JPEG of the image's size with everything drawn in; the request wins over the service's setting."""
    data = base64.b64decode(service.post({"image": image}).json()["result"]["image"], validate=True)
    with Image.open(io.BytesIO(data)) as photo:
        assert photo.format == "JPEG" and photo.size == expected.instances.size[::-1]
        drawn = np.asarray(photo.convert("RGB")).astype(float)
    assert abs(drawn - np.asarray(expected.img["res"]).astype(float)).mean() < 4  # what JPEG loses
    key = {"headers": {"X-API-Key": KEY}}
    assert guarded.post({"image": image}, **key).json()["result"]["image"] is None
    assert guarded.post({"image": image, "visualize": True}, **key).json()["result"]["image"].startswith("/9j/")


def test_other_forms_of_masks(service: Service, image: str, expected: Result) -> None:
    whole = found(service.post({"image": image, "maskFrame": "image", "visualize": False}))
    outlines = found(service.post({"image": image, "maskFormat": "polygon", "visualize": False}))
    size = list(expected.instances.size)
    for i, (one, other) in enumerate(zip(whole, outlines, strict=True)):
        assert one["mask"]["size"] == other["mask"]["size"] == size
        mask = expected.instances.full_mask(i)
        assert (coco.decode({"counts": one["mask"]["rleResult"].encode(), "size": size}) == mask).all()
        rings = coco.merge(coco.frPyObjects(other["mask"]["polygons"], *size))
        assert (coco.decode(rings).astype(bool) >= mask).all()  # holes are lost
    assert faults(service.post({"image": image, "maskFormat": "png"})) == [("literal_error", "body.maskFormat")]


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
def test_what_is_the_client_s_fault_is_told(service: Service, body: Any, expected: tuple[str, str]) -> None:
    """F49, B44: 422 with the reference's structure, never 500."""
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


CODINGS = {"gzip": gzip.compress, "X-GZIP": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("coding", CODINGS)
def test_compressed_bodies(service: Service, image: str, coding: str) -> None:
    """Also in chunks, and those of the inference protocol, whose header tells of the JSON as it was."""
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


@pytest.mark.parametrize(
    ("coding", "body", "status", "told"),
    [
        ("br", b"\x0b\x02\x80{}\x03", 415, "'br': expected deflate, gzip, x-gzip or none"),
        ("gzip, gzip", gzip.compress(gzip.compress(b"{}")), 415, "expected deflate, gzip"),
        ("gzip", b'{"image": "QUJD"}', 400, "not valid gzip data.*incorrect header"),
        ("gzip", b"", 400, "not valid gzip data.*cut short"),
        ("gzip", gzip.compress(b"{}" * 999)[:-9], 400, "not valid gzip data.*cut short"),
        ("gzip", gzip.compress(b"{}" * 999)[:-8] + bytes(8), 400, "not valid gzip data.*incorrect data check"),
        ("gzip", gzip.compress(b"{}") * 2, 400, "not valid gzip data.*data follows its end"),
        ("gzip", gzip.compress(bytes(1 << 18)) + b"x", 400, "not valid gzip data.*data follows its end"),
        ("deflate", gzip.compress(b"{}"), 400, "not valid deflate data"),
        ("deflate", zlib.compress(bytes(range(256)) * 99)[:200], 400, "not valid deflate data.*cut short"),
    ],
)
def test_bodies_that_can_t_be_decompressed(service: Service, coding: str, body: bytes, status: int, told: str) -> None:
    for path in ("/instance-segmentation", "/v2/models/instance-segmentation/infer"):
        response = service.post(body, path, headers={"Content-Encoding": coding})
        assert response.status_code == status and "\n" not in response.text
        assert re.search(told, response.json().get("errorMsg") or response.json()["error"])
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
    """Its first bytes tell, so that `curl --data-binary @photo.jpg` needs no more."""
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
    in_base64 = {"image": (None, image), "unknown": file}
    assert requests.post(url, files=in_base64, data=texts, timeout=30).json() == expected
    fields = [(name, None, value.encode()) for name, value in texts.items()]
    own = form(("image", "名; name=x.png", IMAGE.read_bytes()), *fields)
    for body in (
        own,  # without any Content-Type that tells the boundary
        own.replace(b'name="image"', b"name=image").replace(b"Content-Disposition", b"content-disposition"),
        form(*fields, ("image", "a", IMAGE.read_bytes()), end=b"--"),
    ):
        assert service.post(body).json() == expected
    by_class = form(("image", "a", IMAGE.read_bytes()), ("threshold", None, b'{"nucleus": 0.7}'))
    assert len(found(service.post(by_class))) == len(expected["result"]["instances"])


IMAGE_FIELD = ("image", "a.png", b"QUJD")


@pytest.mark.parametrize(
    ("body", "fault", "told"),
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
def test_bodies_that_are_no_request(service: Service, body: bytes, fault: tuple[str, str], told: str) -> None:
    """F49: what to send is said."""
    response = service.post(body)
    assert faults(response) == [fault]
    assert re.search(told, json.loads(response.json()["errorMsg"])[0]["msg"])


def test_images_are_told_where_they_go(service: Service) -> None:
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


def test_paths_and_methods(service: Service) -> None:
    """F49: 404 and 405 in the envelope too."""
    for response, status, told in (
        (service.get("/nothing"), 404, "Not Found"),
        (service.get("/instance-segmentation"), 405, "Method Not Allowed"),
        (service.get("/page/../app.py"), 404, "Not Found"),
        (service.get("/page/%2e%2e/app.py"), 404, "Not Found"),
    ):
        assert (response.status_code, response.json()["errorCode"], response.json()["errorMsg"]) == (
            status,
            status,
            told,
        )
    assert service.get("/instance-segmentation").headers["Allow"] == "POST"
    for path in ("/", "/health"):
        head = requests.head(service.url + path, timeout=9)
        assert head.status_code == 200 and not head.content


def test_health(service: Service) -> None:
    """F50: healthy, in the envelope."""
    body = service.get("/health").json()
    assert (body["errorCode"], body["errorMsg"]) == (0, "Healthy") and uuid.UUID(body["logId"])


def test_the_description(service: Service) -> None:
    """B49: OpenAPI with our own name and version."""
    described = service.get("/openapi.json").json()
    assert (described["info"]["title"], described["info"]["version"]) == ("maskline", __version__)
    route = described["paths"]["/instance-segmentation"]["post"]
    assert route["operationId"] == "infer"
    schema = route["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["image"] and {"threshold", "visualize", "logId"} < set(schema["properties"])
    assert {"200", "400", "413", "422", "429", "503", "504"} <= set(route["responses"])
    assert {"multipart/form-data", "image/*"} < set(route["requestBody"]["content"])
    assert {path for path in described["paths"] if path.startswith("/v2")} == {
        "/v2",
        *(f"/v2/health/{question}" for question in ("live", "ready")),
        *(f"/v2/models/instance-segmentation{path}" for path in ("", "/ready", "/infer")),
    }
    assert service.get("/docs").status_code == 200


def test_metrics_and_the_access_log(service: Service, image: str) -> None:
    before = service.get("/metrics").text
    service.post({"image": image, "logId": "find me\n", "visualize": False})
    service.post({"image": "x", "logId": "and me"})
    after = service.get("/metrics")
    assert after.headers["Content-Type"].startswith("text/plain")

    for name, least in (
        ('maskline_requests_total{status="200"}', 1),
        ('maskline_requests_total{status="422"}', 1),
        ('maskline_rejections_total{reason="invalid"}', 1),
        *((f'maskline_stage_seconds_count{{stage="{stage}"}}', 1) for stage in ("parse", "queue", "predict", "total")),
        ("maskline_batch_size_count", 1),
        ("maskline_instances_total", 5),
    ):
        assert counted(after.text, name) >= counted(before, name) + least, name
    assert counted(after.text, "maskline_workers_ready") == 1
    assert counted(after.text, "maskline_queue_pixels") == 0
    time.sleep(0.3)
    lines = [json.loads(line) for line in service.lines]
    (line,) = [line for line in lines if line["logId"] == "find me\n"]
    assert (line["status"], line["method"], line["path"]) == (200, "POST", "/instance-segmentation")
    assert line["instances"] > 5 and line["ms"] > 0
    assert {"receive", "parse", "queue", "decode", "predict", "encode"} <= set(line["stages"])
    (line,) = [line for line in lines if line["logId"] == "and me"]
    assert line["status"] == 422 and "Base64" in line["reason"]
    assert not [line for line in lines if line["path"] in ("/health", "/metrics")]


def test_the_key(guarded: Service, image: str) -> None:
    """Without it 401, also for an endless body; health and the page need none."""
    for headers in ({}, {"X-API-Key": "wrong"}, {"Authorization": f"Basic {KEY}"}, {"X-API-Key": "schlüssel".encode()}):
        response = guarded.post({"image": image}, headers=headers)
        assert response.status_code == response.json()["errorCode"] == 401 and KEY not in response.text
        assert response.headers["WWW-Authenticate"] == "Bearer"
    for headers in ({"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}):
        assert len(found(guarded.post({"image": image}, headers=headers))) > 5
    assert guarded.get("/metrics").status_code == 401
    assert guarded.post({}, "/v2/models/instance-segmentation/infer").status_code == 401
    for path in ("/health", "/", "/v2/health/live", "/v2/health/ready"):
        assert guarded.get(path).status_code == 200


def test_the_description_tells_of_the_key(guarded: Service, service: Service) -> None:
    """Clients that are made from it know how to send one."""
    described = guarded.get("/openapi.json").json()
    schemes = described["components"]["securitySchemes"]
    assert {(s["type"], s.get("in"), s.get("name"), s.get("scheme")) for s in schemes.values()} == {
        ("apiKey", "header", "X-API-Key", None),
        ("http", None, None, "bearer"),
    }
    for path, method in (("/instance-segmentation", "post"), ("/metrics", "get")):  # either is enough
        assert described["paths"][path][method]["security"] == [{name: []} for name in schemes]
    assert "security" not in described["paths"]["/health"]["get"]
    assert "securitySchemes" not in service.get("/openapi.json").json()["components"]


def test_pages_of_other_origins(guarded: Service, service: Service) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-api-key"}
    url = "/instance-segmentation"
    allowed = requests.options(guarded.url + url, headers={"Origin": "https://a.example", **asked}, timeout=9)
    assert allowed.headers["Access-Control-Allow-Origin"] == "https://a.example"
    other = requests.options(guarded.url + url, headers={"Origin": "https://b.example", **asked}, timeout=9)
    none = requests.options(service.url + url, headers={"Origin": "https://a.example", **asked}, timeout=9)
    assert not {"Access-Control-Allow-Origin"} & {*other.headers, *none.headers}


def test_other_names_than_this_machine_s(service: Service, guarded: Service, image: str) -> None:
    """B47: a web page that has its own name lead to this machine can't read what runs here."""
    for name, status in (("evil.example:80", 421), ("localhost:1", 200), ("[::1]", 200), ("127.0.0.1", 200)):
        assert service.get("/health", headers={"Host": name}).status_code == status, name
    for path in ("/", "/openapi.json", "/docs", "/page/page.js", "/v2", "/metrics"):
        for name in ("evil.example", "evil-localhost"):
            assert service.get(path, headers={"Host": name}).status_code == 421
    refused = service.post({"image": image}, headers={"Host": "evil.example"})
    assert refused.status_code == refused.json()["errorCode"] == 421 and "--trusted-host" in refused.text
    assert guarded.get("/health", headers={"Host": "evil.example"}).status_code == 200  # a key is what it lacks
    with running("serve", "--trusted-host", "a.example", "--threads", "1") as named:
        for name, status in (("a.example", 200), ("b.example", 421)):
            assert named.get("/health", headers={"Host": name}).status_code == status


def test_the_page_is_served(service: Service) -> None:
    page = service.get("/")
    assert page.status_code == 200 and "text/html" in page.headers["Content-Type"]
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    names = re.findall(r'(?:src|href)="(page/[^"]+)"', page.text)
    assert names and all(service.get(f"/{name}").status_code == 200 for name in names)
    assert service.get("/page/example.png").content == IMAGE.read_bytes()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_urls_of_hosts_that_are_allowed(image: str, tmp_path: Path) -> None:
    """F40, B47: fetched by the service, which says what the other server answers; off unless hosts are listed."""
    (tmp_path / "nuclei.png").write_bytes(IMAGE.read_bytes())
    (tmp_path / "text.png").write_bytes(b"no image")
    handler = partial(_Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        options = ("--allow-url-host", host, "--allow-url-network", "127.0.0.0/8", "--threads", "1")
        with running("serve", *options) as service:
            by_url = found(service.post({"image": f"http://{host}/nuclei.png", "visualize": False}))
            assert by_url == found(service.post({"image": image, "visualize": False}))
            missing = service.post({"image": f"http://{host}/none.png"})
            assert faults(missing) == [("url_status", "body.image")] and "404" in missing.text
            assert faults(service.post({"image": f"http://{host}/text.png"})) == [("image_invalid", "body.image")]
            for url in ("http://127.0.0.2/a.png", "http://169.254.169.254/latest/meta-data", "http://localhost/"):
                assert faults(service.post({"image": url})) == [("url_not_allowed", "body.image")]
        server.shutdown()


#: What KServe's own client parses: `live` and `ready` of these.
HEALTH: dict[str, dict[str, Any]] = {
    "/v2/health/live": {"live": True},
    "/v2/health/ready": {"ready": True},
    "/v2/models/instance-segmentation/ready": {"name": "instance-segmentation", "ready": True},
    "/v2/models/instance-segmentation/versions/1/ready": {"name": "instance-segmentation", "ready": True},
}


def test_a_service_that_is_not_ready_says_so(image: str) -> None:
    """F53: alive, but 503 with the reason as long as no worker has its model."""
    with running("serve", "--threads", "1", "--workers", "1") as service:
        (first,) = service.workers()
        os.kill(first, signal.SIGKILL)
        while not (workers := [pid for pid in service.workers() if pid != first]):
            time.sleep(0.01)
        (worker,) = workers  # the next, which is about to open its model
        os.kill(worker, signal.SIGSTOP)
        try:
            for path, body in HEALTH.items():
                response = service.get(path)
                if "live" in path:
                    assert (response.status_code, response.json()) == (200, body)
                    continue
                told = response.json()
                assert response.status_code == 503 and int(response.headers["Retry-After"]) > 0
                assert "no worker is ready" in told.pop("error")
                assert told == body | {"ready": False}
        finally:
            os.kill(worker, signal.SIGCONT)


def test_the_inference_protocol(service: Service, image: str) -> None:
    """F53: the wire contract of the high-stability service, without Triton."""
    model = "/v2/models/instance-segmentation"
    for path, body in HEALTH.items():
        response = service.get(path)
        assert (response.status_code, response.json()) == (200, body)
        assert response.headers["Content-Type"] == "application/json"
    about = service.get(model).json()
    assert about["inputs"] == [{"name": "input", "datatype": "BYTES", "shape": [-1, 1]}]
    assert about["parameters"] == {"model": "PP-YOLOE_seg-N", "classes": ["nucleus"]}

    def tensor(*texts: str) -> dict[str, Any]:
        one = {"name": "input", "shape": [len(texts), 1], "datatype": "BYTES", "data": list(texts)}
        return {"inputs": [one], "outputs": [{"name": "output"}]}

    asked = {"image": image, "visualize": False, "logId": "a"}
    response = service.post(tensor(json.dumps(asked), "{}"), f"{model}/infer")
    assert response.status_code == 200
    first, second = (json.loads(text) for text in response.json()["outputs"][0]["data"])
    assert first == service.post(asked).json()
    assert second["errorCode"] == 422 and json.loads(second["errorMsg"])[0]["type"] == "missing"
    wrong = service.post({"inputs": []}, f"{model}/infer")
    assert wrong.status_code == 400 and set(wrong.json()) == {"error"}
    assert set(service.get("/v2/models/other").json()) == {"error"}


def test_the_documented_command(tmp_path: Path, image: str) -> None:
    """F38, F06, F42, F52: `--serve --pipeline FILE.yaml`; the file's Serving.visualize is the default of answers."""
    file = tmp_path / "pipeline.yaml"
    module = {"module_name": "instance_segmentation", "model_name": None, "model_dir": str(IMAGE.parent / "embedded")}
    config = {
        "pipeline_name": "instance_segmentation",
        "SubModules": {"InstanceSegmentation": {**module, "batch_size": 1, "threshold": 0.5}},
        "Serving": {"visualize": False, "extra": {"max_num_input_imgs": None}},
    }
    file.write_text(json.dumps(config), "utf-8")
    with running("--serve", "--pipeline", str(file), "--use_hpip", "--device", "cpu") as service:
        assert service.post({"image": image}).json()["result"]["image"] is None
        assert service.end() == 0


def maskline(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "maskline", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--model", "Mask-RT-DETR-Z"), 2, "unknown model"),
        (("--model-dir", "/nowhere"), 1, "/nowhere"),
        (("--port", "70000"), 2, "port"),
        (("--timeout", "-1"), 2, "timeout is -1"),
        (("--max-pixels", "300"), 2, "queue_pixels is 256 million, max_pixels 300 million"),
        (("--max-body", "0"), 2, "max_body is 0"),
        (("--device", "cpu,cpu", "--workers", "1"), 2, "--workers 1 for 2 devices"),
        (("--workers", "0"), 2, "--workers is 0"),
        (("--cors", "foo bar"), 2, "cors is 'foo bar'"),
        (("--trusted-host", "a/b"), 2, "trusted_hosts has 'a/b'"),
        (("--api-key-file", "/nowhere"), 2, "can't be read"),
        (("--pipeline", "instance_segmentation", "--model", "SOLOv2"), 1, "SOLOv2_pretrained.pdparams"),
        (("--model", "SOLOv2", "--device", "gpu:0"), 1, "pip install 'maskline[gpu]'"),
        (("--allow-url-host", "*", "--allow-url-network", "lan"), 2, "lan"),
        (("--host", "999.1.1.1"), 2, "can't listen on 999.1.1.1"),
    ],
)
def test_what_can_t_be_started_is_told_in_one_line(arguments: tuple[str, ...], code: int, told: str) -> None:
    done = maskline("serve", "--port", "0", *arguments)
    assert done.returncode == code and "Traceback" not in done.stderr
    assert told in done.stderr.strip().splitlines()[-1]


def test_an_empty_key_is_none_that_anybody_meant() -> None:
    command = [sys.executable, "-m", "maskline", "serve", "--port", "0"]
    env = {**os.environ, "MASKLINE_API_KEY": " "}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode == 2 and "the API key is empty" in done.stderr


def test_few_files_and_no_standard_output() -> None:
    """The service raises the limit of open files as far as it may, and writes its log into no socket."""
    serve = f"{sys.executable} -m maskline serve --port 0 --threads 1"
    done = subprocess.run(["bash", "-c", f"ulimit -n 60; {serve}"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "may open 60 files" in done.stderr
    command = ["bash", "-c", f"ulimit -S -n 256; exec {serve} >&-"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url, _ = ready(process)
        host, port = url.removeprefix("http://").split(":")
        held = [socket.create_connection((host, int(port))) for _ in range(300)]
        assert requests.get(f"{url}/health", timeout=9).status_code == 200
        for one in held:
            one.close()
        process.terminate()
        assert process.wait(20) == 0 and "Traceback" not in process.stderr.read()


def test_a_port_in_use(service: Service) -> None:
    done = maskline("serve", "--port", service.url.rpartition(":")[2])
    assert done.returncode == 2 and "can't listen on 127.0.0.1" in done.stderr


def test_several_workers_share_the_work(image: str) -> None:
    """Each request is answered once, with what one worker finds."""
    with running("serve", "--threads", "1") as service:  # two, on a processor with two cores or more
        if cores() < 2:
            pytest.skip("needs two cores")
        while len(service.workers()) < 2 or service.metric("maskline_workers_ready") != 2:
            time.sleep(0.1)
        first = found(service.post({"image": image, "visualize": False}))
        with ThreadPoolExecutor(8) as pool:
            bodies = [{"image": image, "visualize": False, "logId": str(i)} for i in range(24)]
            answers = [response.json() for response in pool.map(service.post, bodies)]
        assert [answer["logId"] for answer in answers] == [body["logId"] for body in bodies]
        assert all(answer["result"]["instances"] == first for answer in answers)
        assert service.end() == 0


@pytest.mark.parametrize(
    ("device", "workers", "devices", "threads", "batch"),
    [
        ("cpu", None, ["cpu"] * min(2, cores()), None, 1),
        ("cpu", 1, ["cpu"], None, 1),
        ("cpu", 8, ["cpu"] * 8, max(1, 2 * cores() // 8), 1),
        ("gpu:0,1", None, ["gpu:0", "gpu:1"], None, 8),
        ("gpu:0,1", 3, ["gpu:0", "gpu:1", "gpu:0"], max(1, 2 * cores() // 3), 8),
        ("cpu,cpu,gpu:0", None, ["cpu", "cpu", "gpu:0"], max(1, 2 * cores() // 3), 1),
    ],
)
def test_how_workers_share_what_there_is(
    device: str, workers: int | None, devices: list[str], threads: int | None, batch: int
) -> None:
    """F37: devices in turns."""
    running, there = Running(device=device), parse_devices(device)
    parts = divided(running, there, workers)
    assert [part.device for part in parts] == devices
    assert {part.threads for part in parts} == {threads} and usual_batch(there) == batch
    assert {part.threads for part in divided(replace(running, threads=3), there, workers)} == {3}


def test_workers_of_a_processor_that_stands_in() -> None:
    """As many, with the same batches, as had it been asked for."""
    running = Running(device="gpu:0", cpu_fallback=True)
    assert running.devices() == (CPU,)
    assert [part.device for part in divided(running, running.devices(), 3)] == ["cpu"] * 3
