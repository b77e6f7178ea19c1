"""Schemathesis against our own description of the service: whatever is sent, the answer is one that is described."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import schemathesis
from fixtures.service import Service, encoded, png, running
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import negative_data_rejection

FILE = png(24, 32, 128)
IMAGE = encoded(FILE)
PATHS = ("/instance-segmentation", "/v2/models/instance-segmentation/infer", "/health", "/page/", "/")
BOUNDED = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
TOKENS = st.text("abcXYZ-019", min_size=1, max_size=12).map(lambda name: f"X-{name}")
KNOWN = st.sampled_from(["Content-Type", "Accept", "Origin", "Authorization", "X-API-Key", "Expect", "Cookie", "Range"])
LATIN = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=40)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """With limits so small that requests run into them too; it must be the same process, and model, in the end."""
    with running("serve", "--threads", "1", "--max-pixels", "1", "--max-body", "1", "--no-access-log") as service:
        before = service.workers()
        yield service
        assert service.workers() == before and service.get("/health").status_code == 200
        assert service.end() == 0 and not [line for line in service.errors if "Traceback" in line]


def test_every_answer_is_one_that_is_described(service: Service, tmp_path: Path) -> None:
    """B44, B49: statuses, schemas, content types, methods (405 with Allow), for requests right and wrong; never 5xx.

    Not ``positive_data_acceptance``: a text is a valid `image` by its schema, but seldom an image, and gets 422 then.
    The next test has images.
    """
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run"]
    options = {
        "--checks": "all",
        "--exclude-checks": "positive_data_acceptance",
        "--phases": "examples,coverage,fuzzing",
        "--max-examples": "20",
        "--seed": "1",
    }
    parts = [part for option in options.items() for part in option]
    flags = ["--generation-deterministic", "--continue-on-failure", "--no-color"]
    done = subprocess.run(
        [*command, f"{service.url}/openapi.json", *parts, *flags],
        capture_output=True, text=True, timeout=120, cwd=tmp_path,  # where it leaves files of its own
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.findall(r"(\d+) generated", done.stdout)[0]) > 60
    assert "Tested: 9" in done.stdout


@pytest.fixture(scope="module")
def described(service: Service) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{service.url}/openapi.json")


def test_requests_with_an_image_are_accepted(described: schemathesis.BaseSchema) -> None:
    """F38, F49: all that the description allows besides the image is legal, and the result is as described."""
    seen: dict[str | None, set[str]] = {}

    @given(case=described["/instance-segmentation"]["POST"].as_strategy())
    @settings(BOUNDED, max_examples=120)
    def check(case: schemathesis.Case[Any]) -> None:
        if not isinstance(case.body, dict):
            case.body = FILE
        else:
            in_form = case.media_type == "multipart/form-data"
            body: dict[str, Any] = case.body
            body["image"] = FILE if in_form else IMAGE
            scores = case.body.get("threshold")
            if isinstance(scores, dict) and scores:  # by class, whose names are the model's
                case.body["threshold"] = {"nucleus": next(iter(scores.values()))}
            if in_form and "visualize" in case.body:
                case.body["visualize"] = "true"
        response = case.call()
        assert response.status_code == 200, (case.media_type, case.body, response.text)
        case.validate_response(response, excluded_checks=[negative_data_rejection])  # bytes are not a string for it
        seen.setdefault(case.media_type, set()).update(case.body if isinstance(case.body, dict) else {})

    check()
    fields = {"image", "threshold", "visualize", "logId", "maskFormat", "maskFrame"}
    assert fields <= seen.pop("application/json") and fields <= seen.pop("multipart/form-data")
    assert seen and all(str(kind).startswith("image/") for kind in seen)


@given(
    method=st.sampled_from(["POST", "POST", "GET", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE", "QUERY"]),
    path=st.sampled_from(PATHS),
    body=st.binary(max_size=200) | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text() | st.just(IMAGE),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["image", "threshold", "logId", "inputs", "x"]), inner, max_size=4),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
    headers=st.dictionaries(TOKENS | KNOWN, LATIN, max_size=4),
)  # fmt: skip
@settings(BOUNDED, max_examples=200)
def test_no_bytes_or_headers_are_too_much(
    service: Service, method: str, path: str, body: bytes, headers: dict[str, str]
) -> None:
    """B44, B46: whatever comes, with whatever headers, gets an answer in the right form, and not of a fault of ours."""
    connection = http.client.HTTPConnection(urlsplit(service.url).netloc, timeout=20)
    connection.request(method, path, body, {name: value.encode("latin-1") for name, value in headers.items()})
    response = connection.getresponse()
    text = response.read()
    connection.close()
    assert response.status < 500, text
    if method == "POST" and path == "/instance-segmentation":
        answer = json.loads(text)
        assert (response.status == 200) == (answer["errorCode"] == 0) and answer["logId"]
    if response.status == 405:
        assert response.headers["Allow"]
