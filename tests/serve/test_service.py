"""The service as its clients see it: a real process, the embedded model, requests over HTTP."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import threading
import time
import uuid
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from fixtures.answers import KEY, faults, found
from fixtures.service import IMAGE, Service, counted, running
from PIL import Image
from pycocotools import mask as coco

from maskline import Predictor, Result, __version__
from maskline.errors import ParameterError

#: pycocotools makes arrays in a way that NumPy has come to dislike.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


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
    defaults: tuple[dict[str, float] | None, ...] = (None, {})
    for default in defaults:
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
    key = {"X-API-Key": KEY}
    assert guarded.post({"image": image}, headers=key).json()["result"]["image"] is None
    assert guarded.post({"image": image, "visualize": True}, headers=key).json()["result"]["image"].startswith("/9j/")


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


def test_paths_and_methods(service: Service) -> None:
    """F49: 404 and 405 in the envelope too."""
    for response, status, message in (
        (service.get("/nothing"), 404, "Not Found"),
        (service.get("/instance-segmentation"), 405, "Method Not Allowed"),
        (service.get("/page/../app.py"), 404, "Not Found"),
        (service.get("/page/%2e%2e/app.py"), 404, "Not Found"),
    ):
        assert (response.status_code, response.json()["errorCode"], response.json()["errorMsg"]) == (
            status,
            status,
            message,
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


def test_the_description_mentions_the_key(guarded: Service, service: Service) -> None:
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
                reply = response.json()
                assert response.status_code == 503 and int(response.headers["Retry-After"]) > 0
                assert "no worker is ready" in reply.pop("error")
                assert reply == body | {"ready": False}
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
