"""Fixtures that many tests share. Nothing here reaches outside the checkout but `../shared`, where that exists."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures import stand_in

#: Folders and files that take long: real networks, exports, runs of training, services, browsers, fresh interpreters.
SLOW = (
    "cli/",
    "conformance/",
    "data/report/",
    "data/test_convert.py",
    "e2e/",
    "evaluate/test_compare.py",
    "evaluate/test_evaluation_report.py",
    "exporting/",
    "inputs/test_avif.py",
    "inputs/test_video.py",
    "models/mask_rtdetr/test_network.py",
    "models/ppyoloe_seg/test_network.py",
    "models/rcnn/test_loss.py",
    "models/rcnn/test_network.py",
    "models/solov2/test_network.py",
    "models/test_nms.py",
    "models/test_roi_align.py",
    "outputs/test_result.py",
    "paddlex/test_jobs.py",
    "paddlex/test_overrides.py",
    "parity/",
    "runtime/test_backend.py",
    "runtime/test_graph.py",
    "runtime/test_opening.py",
    "runtime/test_predictor.py",
    "serve/",
    "test_api.py",
    "test_before.py",
    "test_clients.py",
    "test_dependencies.py",
    "test_documents.py",
    "test_embedded.py",
    "test_extension_points.py",
    "test_progress.py",
    "test_tables.py",
    "training/",
    "weights/",
)

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # some tests import ONNX Runtime themselves


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests of `SLOW` as slow, and those that export, read whole data sets or measure memory wherever they are."""
    for item in items:
        path = item.path.relative_to(Path(__file__).parent).as_posix()
        by_name = any(word in item.name for word in ("export", "real", "nuclei", "memory"))
        if path.startswith(SLOW) or by_name or "tiny_model_dir" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def _no_real_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or fills the user's cache, and none reaches the network."""
    os.environ["MASKLINE_HOME"] = str(tmp_path_factory.mktemp("home"))
    os.environ["MASKLINE_OFFLINE"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _shared_traces(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[None]:
    from fixtures import traces

    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "traces"  # the same for all processes of a run
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maskline.exporting.graph.trace", traces.shared(folder))
        yield


@pytest.fixture(autouse=True)
def _level() -> Iterator[None]:
    """Some commands have maskline's log more talkative; other tests shall not."""
    logger = logging.getLogger("maskline")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture(scope="session")
def pdparams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stand-in weights of Mask-RT-DETR-S in PaddleDetection's format."""
    return stand_in.write("Mask-RT-DETR-S", tmp_path_factory.mktemp("weights") / "Mask-RT-DETR-S_pretrained.pdparams")


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model of three classes: real in every part, but tiny and untrained."""
    from fixtures import tiny

    from maskline.exporting import ExportOptions, export_network

    return export_network(
        tiny.network(),
        tiny.SPEC,
        tmp_path_factory.mktemp("model"),
        labels=tiny.CLASSES,
        options=ExportOptions(threshold=0.6),
    )
