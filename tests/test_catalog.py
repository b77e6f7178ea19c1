"""The table against the published figures, and the README against the table."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from maskline import catalog
from maskline.catalog import Constant, Cosine, Steps, Times, Warmup
from maskline.errors import UnknownNameError

ROOT = Path(__file__).resolve().parent.parent
NAMES = [
    "Mask-RT-DETR-H",
    "Mask-RT-DETR-L",
    "Mask-RT-DETR-M",
    "Mask-RT-DETR-S",
    "Mask-RT-DETR-X",
    "Cascade-MaskRCNN-ResNet50-FPN",
    "Cascade-MaskRCNN-ResNet50-vd-SSLDv2-FPN",
    "MaskRCNN-ResNet50-FPN",
    "MaskRCNN-ResNet50-vd-FPN",
    "MaskRCNN-ResNet50",
    "MaskRCNN-ResNet101-FPN",
    "MaskRCNN-ResNet101-vd-FPN",
    "MaskRCNN-ResNeXt101-vd-FPN",
    "PP-YOLOE_seg-S",
    "SOLOv2",
]
OURS = "PP-YOLOE_seg-N"
TWO_STAGE = [name for name in NAMES if "RCNN" in name]


def test_the_fifteen_names_in_order_then_ours() -> None:
    """F26."""
    assert list(catalog.MODELS) == [*NAMES, OURS]
    assert all(catalog.MODELS[name].name == name for name in NAMES)
    assert [name for name, row in catalog.MODELS.items() if row.ours] == [OURS]
    assert catalog.DEFAULT_MODEL in catalog.MODELS


def test_the_phantom_sixteenth_is_absent() -> None:
    """B66: PaddleX's code names one more, which has no weights and no configuration."""
    with pytest.raises(UnknownNameError, match="MaskRCNN-ResNet50-vd-FPN"):
        catalog.get("MaskRCNN-ResNet50-vd-SSLDv2-FPN")


def test_get_accepts_any_case_and_names_the_nearest() -> None:
    assert catalog.get("mask-rt-detr-l") is catalog.MODELS["Mask-RT-DETR-L"]
    assert catalog.get("SOLOV2").name == "SOLOv2"
    with pytest.raises(UnknownNameError, match="did you mean 'Mask-RT-DETR-S'"):
        catalog.get("Mask-RTDETR-S")


def test_rows_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        catalog.get("SOLOv2").mask_ap = 99.0  # type: ignore[misc]


def test_accuracies() -> None:
    assert [catalog.get(name).mask_ap for name in NAMES] == [
        50.6, 45.7, 42.7, 41.0, 47.5, 36.3, 39.1, 35.6, 36.4, 32.8, 36.6, 38.1, 39.5, 32.5, 35.5,
    ]  # fmt: skip


def test_sizes() -> None:
    assert [catalog.get(name).size_mb for name in NAMES] == [
        449.9, 113.6, 66.6, 51.8, 237.5, 254.8, 254.7, 157.5, 157.5, 128.7, 225.4, 225.1, 370.0, 31.5, 179.1,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "gpu", "cpu"),
    [
        ("Mask-RT-DETR-H", Times(132.693, 172.36, 180.83, 180.83), Times(4896.17, 1615.75, 1711.24, 1711.24)),
        ("Mask-RT-DETR-L", Times(46.5059, 88.18, 113.20, 113.20), Times(2575.92, 1090.84, 1179.56, 1179.56)),
        ("Mask-RT-DETR-M", Times(36.8329, 78.69, 87.08, 87.08), Times(None, None, None, 2090.73)),
        ("Mask-RT-DETR-S", Times(33.5007, 33.5007, 120.86, 120.86), Times(None, None, None, 2163.07)),
        ("Mask-RT-DETR-X", Times(75.755, 114.16, 141.43, 141.43), Times(3358.04, 1240.92, 1379.14, 1379.14)),
        ("Cascade-MaskRCNN-ResNet50-FPN", Times(None, 141.69, 136.79, 136.79), Times(c_hpi=5935.41)),
        ("Cascade-MaskRCNN-ResNet50-vd-SSLDv2-FPN", Times(None, 147.62, 137.40, 137.40), Times(c_hpi=6816.68)),
        ("MaskRCNN-ResNet50-FPN", Times(None, 118.30, 112.79, 112.79), Times(c_hpi=4912.37)),
        ("MaskRCNN-ResNet50-vd-FPN", Times(None, 118.34, 112.88, 112.88), Times(c_hpi=5204.97)),
        ("MaskRCNN-ResNet50", Times(None, 228.83, 181.60, 181.60), Times(c_hpi=5523.45)),
        ("MaskRCNN-ResNet101-FPN", Times(None, 148.14, 138.84, 138.84), Times(c_hpi=5107.74)),
        ("MaskRCNN-ResNet101-vd-FPN", Times(None, 151.12, 141.73, 141.73), Times(c_hpi=5592.76)),
        ("MaskRCNN-ResNeXt101-vd-FPN", Times(None, 237.55, 220.83, 220.83), Times(c_hpi=5932.59)),
        ("PP-YOLOE_seg-S", Times(None, None, 243.41, 222.30), Times(None, None, 2507.70, 1282.35)),
        ("SOLOv2", Times(None, None, 131.99, 131.99), Times(None, None, None, 2369.98)),
    ],
)
def test_times(name: str, gpu: Times, cpu: Times) -> None:
    assert (catalog.get(name).gpu_ms, catalog.get(name).cpu_ms) == (gpu, cpu)


@pytest.mark.parametrize(
    ("name", "arch", "subgraph"),
    [("Mask-RT-DETR-X", "DETR", 3), ("MaskRCNN-ResNet50", "RCNN", 40), ("SOLOv2", "SOLOv2", 60),
     ("PP-YOLOE_seg-S", "PPYOLOE", 3), ("Cascade-MaskRCNN-ResNet50-FPN", "RCNN", 40)],
)  # fmt: skip
def test_architecture_tags(name: str, arch: str, subgraph: int) -> None:
    assert (catalog.get(name).arch, catalog.get(name).min_subgraph_size) == (arch, subgraph)


def test_urls() -> None:
    host = "https://paddle-model-ecology.bj.bcebos.com/paddlex"
    small = catalog.get("Mask-RT-DETR-S")
    assert small.pretrained_url == f"{host}/official_pretrained_model/Mask-RT-DETR-S_pretrained.pdparams"
    assert small.inference_url() == f"{host}/official_inference_model/paddle3.0.0/Mask-RT-DETR-S_infer.tar"
    yolo = catalog.get("PP-YOLOE_seg-S").inference_url("paddle3.0b2")
    assert yolo == f"{host}/official_inference_model/paddle3.0b2/PP-YOLOE_seg-S_infer.tar"
    with pytest.raises(UnknownNameError, match=r"paddle3\.0rc0"):
        small.inference_url("paddle3.0rc")
    assert small.pretrained_sha256 is None and small.inference_sha256 is None  # they are not published


def test_preprocess() -> None:
    for name in NAMES:
        model, square = catalog.get(name), name.startswith(("Mask-RT", "PP"))
        prep = model.preprocess
        assert (prep.height, prep.width, prep.keep_ratio) == ((640, 640, False) if square else (800, 1333, True))
        assert prep.mean == ((0, 0, 0) if square else (0.485, 0.456, 0.406))
        assert prep.std == ((1, 1, 1) if square else (0.229, 0.224, 0.225))
        assert prep.scale == pytest.approx(1 / 255)
        assert prep.interpolation == ("linear" if name == "SOLOv2" else "cubic")
        assert prep.float_resize == (name == "SOLOv2")
        assert prep.pad_stride == (32 if name == "SOLOv2" else 0)  # the R-CNNs pad by themselves


@pytest.mark.parametrize(("size", "factor"), [("S", 0.1), ("M", 0.1), ("L", 0.05), ("X", 0.01), ("H", 0.01)])
def test_transformer_recipes(size: str, factor: float) -> None:
    recipe = catalog.get(f"Mask-RT-DETR-{size}").recipe
    assert (recipe.epochs, recipe.batch_size, recipe.schedule) == (72, 2, Constant())
    assert recipe.learning_rate == (1e-4 if size == "L" else 5e-5)
    assert recipe.warmup == Warmup(0.001, steps=2000)
    assert (recipe.optimizer, recipe.weight_decay, recipe.clip_norm) == ("adamw", 1e-4, 0.1)
    assert recipe.ema_decay == 0.9999
    assert recipe.backbone_lr_factors == (factor,) * 4


@pytest.mark.parametrize("name", TWO_STAGE)
def test_two_stage_recipes(name: str) -> None:
    recipe, cascade, long = catalog.get(name).recipe, name.startswith("Cascade"), "ResNeXt" in name
    assert (recipe.epochs, recipe.schedule) == ((24, Steps((16, 22), 0.1)) if long else (12, Steps((8, 11), 0.1)))
    assert recipe.warmup == Warmup(0.1 if long else 0.001, steps=1000)
    assert (recipe.batch_size, recipe.clip_norm) == ((1, 35.0) if cascade else (2, None))
    assert (recipe.learning_rate, recipe.optimizer, recipe.momentum, recipe.weight_decay) == (
        0.01,
        "momentum",
        0.9,
        1e-4,
    )
    assert recipe.backbone_lr_factors == ((0.05, 0.05, 0.1, 0.15) if "SSLDv2" in name else (1, 1, 1, 1))
    assert recipe.ema_decay is None


def test_the_other_recipes() -> None:
    yolo, solo = catalog.get("PP-YOLOE_seg-S").recipe, catalog.get("SOLOv2").recipe
    assert (yolo.epochs, yolo.batch_size, yolo.learning_rate, yolo.schedule) == (80, 8, 0.001, Cosine(96))
    assert (yolo.warmup, yolo.weight_decay, yolo.ema_decay) == (Warmup(0.0, epochs=5), 5e-4, 0.9998)
    assert (solo.epochs, solo.batch_size, solo.schedule) == (12, 2, Steps((8, 11)))
    assert (solo.warmup, solo.ema_decay, solo.clip_norm) == (Warmup(0.0, steps=1000), None, None)


def test_warmups_have_one_length() -> None:
    for spec in catalog.MODELS.values():
        assert bool(spec.recipe.warmup.steps) != bool(spec.recipe.warmup.epochs)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("Mask-RT-DETR-S", "PPHGNetV2_B1_ssld_stage1_pretrained"),
        ("Mask-RT-DETR-M", "PPHGNetV2_B2_ssld_stage1_pretrained"),
        ("Mask-RT-DETR-L", "PPHGNetV2_L_ssld_pretrained"),
        ("Mask-RT-DETR-X", "PPHGNetV2_B5_ssld_stage1_pretrained"),
        ("Mask-RT-DETR-H", "PPHGNetV2_H_ssld_pretrained"),
        ("MaskRCNN-ResNet50", "ResNet50_cos_pretrained"),
        ("MaskRCNN-ResNet101-vd-FPN", "ResNet101_vd_pretrained"),
        ("MaskRCNN-ResNeXt101-vd-FPN", "ResNeXt101_vd_64x4d_pretrained"),
        ("Cascade-MaskRCNN-ResNet50-vd-SSLDv2-FPN", "ResNet50_vd_ssld_v2_pretrained"),
        ("SOLOv2", "solov2_r50_fpn_1x_coco"),
        ("PP-YOLOE_seg-S", "ppyoloe_crn_s_obj365_pretrained"),
    ],
)
def test_first_weights_of_the_backbone(name: str, file: str) -> None:
    url = catalog.get(name).recipe.backbone_init
    assert url.startswith("https://")
    assert url.rsplit("/", 1)[1] == f"{file}.pdparams"


def test_coco_classes() -> None:
    classes = catalog.COCO_CLASSES
    assert len(classes) == len(set(classes)) == 80
    assert (classes[0], classes[27], classes[79]) == ("person", "tie", "toothbrush")
    assert classes[57:63] == ("couch", "potted plant", "bed", "dining table", "toilet", "tv")


def test_table_rows() -> None:
    """F71."""
    rows = {row[0]: row[1:] for row in catalog.table_rows()}
    assert list(rows) == [*NAMES, OURS]
    assert rows["Mask-RT-DETR-L"] == ("Mask-RT-DETR", "45.7", "113.20 / 113.20", "1179.56 / 1179.56", "113.6")
    assert rows["PP-YOLOE_seg-S"] == ("PP-YOLOE-seg", "32.5", "243.41 / 222.30", "2507.70 / 1282.35", "31.5")
    assert rows["SOLOv2"] == ("SOLOv2", "35.5", "131.99 / 131.99", "- / 2369.98", "179.1")
    assert rows[OURS] == ("PP-YOLOE-seg", "-", "-", "-", "4.6")
    assert all(len(row) + 1 == len(catalog.TABLE_HEADER) for row in rows.values())
    plain, linked = (catalog.markdown_table(links=links).splitlines() for links in (False, True))
    assert len(plain) == len(linked) == 18 and not any("https" in line for line in plain)
    weights = "https://paddle-model-ecology.bj.bcebos.com/paddlex/official_pretrained_model/SOLOv2_pretrained.pdparams"
    program = "https://paddle-model-ecology.bj.bcebos.com/paddlex/official_inference_model/paddle3.0.0/SOLOv2_infer.tar"
    (line,) = (line for line in linked if line.startswith("| SOLOv2 "))
    assert line.endswith(f"| 179.1 | [weights]({weights}), [Paddle program]({program}) |")
    assert linked[-1].endswith("| 4.6 | - |")


def test_import_brings_no_torch() -> None:
    program = "import sys, maskline.catalog, maskline.inputs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# ---- README
