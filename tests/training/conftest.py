"""Small runs: our small network, on small images, at 64 pixels."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from fixtures.discs import SIDE, make_discs

from maskline.training.augment import Augment
from maskline.training.settings import TrainSettings


@pytest.fixture(scope="session")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_discs(tmp_path_factory.mktemp("discs"))


@pytest.fixture
def settings(discs: Path, tmp_path: Path) -> TrainSettings:
    """A run of 3 epochs with 2 steps each, in this process alone."""
    return TrainSettings(
        model="PP-YOLOE_seg-N",
        data=discs,
        output=tmp_path / "run",
        epochs=3,
        batch_size=4,
        weights="scratch",
        device="cpu",
        workers=0,
        log_interval=1,
        export=False,
        augment=asdict(Augment(distort=0.5, flip=0.5, jitter=(0.8, 1.2), sizes=(SIDE,))),
    )
