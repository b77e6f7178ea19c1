"""The model catalog: PaddleX's fifteen models and a small one of our own. Architectures are in ``models/<family>``.

Accuracy, times and sizes are PaddleX's published figures for its own files, not our measurements. Learning rates and
batch sizes are from PaddleX's module files, for four devices; epochs, schedules and warm-ups are the built-in recipes
behind the published figures (the module files set 40 epochs and 100 warm-up steps for all models; those two defaults
belong to `maskline.paddlex`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from maskline.errors import UnknownNameError
from maskline.preprocess import Preprocess

StageFactors: TypeAlias = tuple[float, float, float, float]

DEFAULT_MODEL = "Mask-RT-DETR-S"
EMBEDDED = "embedded"  # alias of the model that is part of the package
VERSIONS = ("paddle3.0b2", "paddle3.0rc0", "paddle3.0.0")  # versions of the official archives, oldest first

_OFFICIAL = "https://paddle-model-ecology.bj.bcebos.com/paddlex"
_PADDLEDET = "https://paddledet.bj.bcebos.com/models"
_IMAGENET = "https://paddle-imagenet-models-name.bj.bcebos.com/dygraph/legendary_models"


@dataclass(frozen=True, slots=True)
class FamilyFacts:
    """Common facts of a family's models; those that need torch are in `maskline.models.family.Family`.

    Attributes:
        title: common name.
        arch, min_subgraph_size: tags in ``inference.yml``.
    """

    title: str
    arch: str
    min_subgraph_size: int


FAMILIES = {
    "mask_rtdetr": FamilyFacts("Mask-RT-DETR", "DETR", 3),
    "rcnn": FamilyFacts("Mask R-CNN", "RCNN", 40),
    "solov2": FamilyFacts("SOLOv2", "SOLOv2", 60),
    "ppyoloe_seg": FamilyFacts("PP-YOLOE-seg", "PPYOLOE", 3),
}


@dataclass(frozen=True, slots=True)
class Times:
    """Published milliseconds per image at FP32, None where not published.

    GPU: NVIDIA T4. CPU: 8 threads of an Intel Xeon: Gold 5117 at 2.0 GHz in set A, Gold 6271C at 2.6 GHz in B and C.

    Attributes:
        a: documents of PaddleX 3.0b1 and 3.0b2.
        b: documents of 3.0rc0 (TensorRT 8.5, cuDNN 8.6), where normal and high-performance times are the same.
        c: latest documents (Paddle 3.0.0, TensorRT 8.6, cuDNN 8.9), normal mode.
        c_hpi: the same, with the high-performance plugin.
    """

    a: float | None = None
    b: float | None = None
    c: float | None = None
    c_hpi: float | None = None


@dataclass(frozen=True, slots=True)
class Constant:
    """Constant learning rate."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The learning rate is multiplied by ``gamma`` at each of ``milestones``, in epochs."""

    milestones: tuple[int, ...]
    gamma: float = 0.1


@dataclass(frozen=True, slots=True)
class Cosine:
    """Cosine decay that reaches zero after ``epochs``, which may exceed the recipe's."""

    epochs: int


Schedule: TypeAlias = Constant | Steps | Cosine


@dataclass(frozen=True, slots=True)
class Warmup:
    """Linear warm-up from ``start_factor`` x learning rate over ``steps`` or ``epochs``; the other is 0."""

    start_factor: float
    steps: int = 0
    epochs: int = 0


@dataclass(frozen=True, slots=True)
class Recipe:
    """Training recipe of a model.

    Attributes:
        epochs: length of the built-in recipe; in runs of another length, ``schedule`` is scaled.
        batch_size: images per device (from the module file).
        learning_rate: for ``batch_size`` on each of ``devices`` (from the module file).
        momentum: for the ``momentum`` optimizer; unused by ``adamw``.
        weight_decay: decoupled for ``adamw``, an L2 penalty for ``momentum``.
        clip_norm: maximum global norm of the gradient; None: no limit.
        ema_decay: decay of the weights' EMA; None: no EMA.
        backbone_lr_factors: learning-rate factors of backbone stages 1 to 4. Frozen parts are defined by the network.
        backbone_init: URL of the backbone's initial weights if no pretrained model is given (Paddle's format); empty:
            none.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    schedule: Schedule
    warmup: Warmup
    optimizer: Literal["adamw", "momentum"]
    weight_decay: float
    backbone_init: str
    momentum: float = 0.9
    clip_norm: float | None = None
    ema_decay: float | None = None
    backbone_lr_factors: StageFactors = (1.0, 1.0, 1.0, 1.0)
    devices: int = 4


@dataclass(frozen=True, slots=True)
class Model:
    """One model of the catalog.

    Attributes:
        mask_ap: published COCO val2017 mask AP at IoU 0.50:0.95, in percent; None: not trained on COCO.
        size_mb: published size of the official model in MB; for our own, size of the graph.
        ours: not one of PaddleX's models: there are no official weights.
        pretrained_sha256, inference_sha256: digests of the official files; None: not published.
    """

    name: str
    family: str  # a key of FAMILIES
    mask_ap: float | None
    gpu_ms: Times
    cpu_ms: Times
    size_mb: float
    preprocess: Preprocess
    recipe: Recipe
    ours: bool = False
    pretrained_sha256: str | None = None
    inference_sha256: str | None = None

    @property
    def arch(self) -> str:
        """The architecture tag in ``inference.yml``."""
        return FAMILIES[self.family].arch

    @property
    def min_subgraph_size(self) -> int:
        """The smallest subgraph handed to TensorRT, as ``inference.yml`` states it."""
        return FAMILIES[self.family].min_subgraph_size

    @property
    def pretrained_url(self) -> str:
        """URL of the official COCO weights (``.pdparams``); empty for our own model."""
        return "" if self.ours else f"{_OFFICIAL}/official_pretrained_model/{self.name}_pretrained.pdparams"

    def inference_url(self, version: str = VERSIONS[-1]) -> str:
        """URL of the official inference archive of a version. Raises UnknownNameError if it is not in `VERSIONS`."""
        if version not in VERSIONS:
            raise UnknownNameError.of("version", version, VERSIONS, "of the official models")
        return f"{_OFFICIAL}/official_inference_model/{version}/{self.name}_infer.tar"


_SQUARE = Preprocess(640, 640, keep_ratio=False, interpolation="cubic")
_NANO = Preprocess(640, 640, keep_ratio=True, interpolation="linear", pad_stride=640)  # a square, never stretched
_RCNN = Preprocess(
    800,
    1333,
    keep_ratio=True,
    interpolation="cubic",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)  # the network pads: see `maskline.models.padding`
_SOLOV2 = replace(_RCNN, interpolation="linear", float_resize=True, pad_stride=32)


def _rtdetr(
    size: str, ap: float, gpu: Times, cpu: Times, mb: float, init: str, factor: float, learning_rate: float = 5e-5
) -> Model:
    recipe = Recipe(
        epochs=72,
        batch_size=2,
        learning_rate=learning_rate,
        schedule=Constant(),
        warmup=Warmup(0.001, steps=2000),
        optimizer="adamw",
        weight_decay=1e-4,
        clip_norm=0.1,
        ema_decay=0.9999,
        backbone_lr_factors=(factor, factor, factor, factor),
        backbone_init=f"{init}_pretrained.pdparams",
    )
    return Model(f"Mask-RT-DETR-{size}", "mask_rtdetr", ap, gpu, cpu, mb, _SQUARE, recipe)


_RCNN_1X = Recipe(
    epochs=12,
    batch_size=2,
    learning_rate=0.01,
    schedule=Steps((8, 11)),
    warmup=Warmup(0.001, steps=1000),
    optimizer="momentum",
    weight_decay=1e-4,
    backbone_init=f"{_PADDLEDET}/pretrained/ResNet50_cos_pretrained.pdparams",
)
_RCNN_2X = replace(_RCNN_1X, epochs=24, schedule=Steps((16, 22)), warmup=Warmup(0.1, steps=1000))
_CASCADE_1X = replace(_RCNN_1X, batch_size=1, clip_norm=35.0)
_SSLDV2_1X = replace(_CASCADE_1X, backbone_lr_factors=(0.05, 0.05, 0.1, 0.15))


def _rcnn(
    name: str,
    ap: float,
    gpu: Times,
    cpu_hpi: float,
    mb: float,
    init: str,
    recipe: Recipe = _RCNN_1X,
) -> Model:
    recipe = replace(recipe, backbone_init=f"{_PADDLEDET}/pretrained/{init}_pretrained.pdparams")
    cpu = Times(c_hpi=cpu_hpi)
    return Model(name, "rcnn", ap, gpu, cpu, mb, _RCNN, recipe)


def _gpu(b: float, c: float) -> Times:
    return Times(b=b, c=c, c_hpi=c)


_SOLOV2_RECIPE = replace(
    _RCNN_1X, warmup=Warmup(0.0, steps=1000), backbone_init=f"{_PADDLEDET}/solov2_r50_fpn_1x_coco.pdparams"
)
_PPYOLOE_RECIPE = Recipe(
    epochs=80,
    batch_size=8,
    learning_rate=0.001,
    schedule=Cosine(96),
    warmup=Warmup(0.0, epochs=5),
    optimizer="momentum",
    weight_decay=5e-4,
    ema_decay=0.9998,
    backbone_init=f"{_PADDLEDET}/pretrained/ppyoloe_crn_s_obj365_pretrained.pdparams",
)
_NANO_RECIPE = Recipe(
    epochs=100,
    batch_size=8,
    learning_rate=0.002,
    schedule=Cosine(100),
    warmup=Warmup(0.001, epochs=2),
    optimizer="adamw",
    weight_decay=0.02,
    clip_norm=10.0,
    ema_decay=0.9995,
    backbone_init="",
    devices=1,
)

# The GPU time of set B for Mask-RT-DETR-S is set A's, carried over by the documents. MaskRCNN-ResNet50's size is 127.8
# in the oldest ones.
# fmt: off
_ROWS = (
    _rtdetr("H", 50.6, Times(132.693, 172.36, 180.83, 180.83), Times(4896.17, 1615.75, 1711.24, 1711.24), 449.9,
            f"{_PADDLEDET}/pretrained/PPHGNetV2_H_ssld", 0.01),
    _rtdetr("L", 45.7, Times(46.5059, 88.18, 113.20, 113.20), Times(2575.92, 1090.84, 1179.56, 1179.56), 113.6,
            f"{_PADDLEDET}/pretrained/PPHGNetV2_L_ssld", 0.05, learning_rate=1e-4),
    _rtdetr("M", 42.7, Times(36.8329, 78.69, 87.08, 87.08), Times(c_hpi=2090.73), 66.6,
            f"{_IMAGENET}/PPHGNetV2_B2_ssld_stage1", 0.1),
    _rtdetr("S", 41.0, Times(33.5007, 33.5007, 120.86, 120.86), Times(c_hpi=2163.07), 51.8,
            f"{_IMAGENET}/PPHGNetV2_B1_ssld_stage1", 0.1),
    _rtdetr("X", 47.5, Times(75.755, 114.16, 141.43, 141.43), Times(3358.04, 1240.92, 1379.14, 1379.14), 237.5,
            f"{_IMAGENET}/PPHGNetV2_B5_ssld_stage1", 0.01),
    # name, AP, GPU in sets B and C, CPU in set C with the plugin, MB, first weights of the backbone
    _rcnn("Cascade-MaskRCNN-ResNet50-FPN", 36.3, _gpu(141.69, 136.79), 5935.41, 254.8, "ResNet50_cos", _CASCADE_1X),
    _rcnn("Cascade-MaskRCNN-ResNet50-vd-SSLDv2-FPN", 39.1, _gpu(147.62, 137.40), 6816.68, 254.7, "ResNet50_vd_ssld_v2",
          _SSLDV2_1X),
    _rcnn("MaskRCNN-ResNet50-FPN", 35.6, _gpu(118.30, 112.79), 4912.37, 157.5, "ResNet50_cos"),
    _rcnn("MaskRCNN-ResNet50-vd-FPN", 36.4, _gpu(118.34, 112.88), 5204.97, 157.5, "ResNet50_vd"),
    _rcnn("MaskRCNN-ResNet50", 32.8, _gpu(228.83, 181.60), 5523.45, 128.7, "ResNet50_cos"),
    _rcnn("MaskRCNN-ResNet101-FPN", 36.6, _gpu(148.14, 138.84), 5107.74, 225.4, "ResNet101"),
    _rcnn("MaskRCNN-ResNet101-vd-FPN", 38.1, _gpu(151.12, 141.73), 5592.76, 225.1, "ResNet101_vd"),
    _rcnn("MaskRCNN-ResNeXt101-vd-FPN", 39.5, _gpu(237.55, 220.83), 5932.59, 370.0, "ResNeXt101_vd_64x4d", _RCNN_2X),
    Model("PP-YOLOE_seg-S", "ppyoloe_seg", 32.5, Times(c=243.41, c_hpi=222.30), Times(c=2507.70, c_hpi=1282.35), 31.5,
          _SQUARE, _PPYOLOE_RECIPE),
    Model("SOLOv2", "solov2", 35.5, Times(c=131.99, c_hpi=131.99), Times(c_hpi=2369.98), 179.1,
          _SOLOV2, _SOLOV2_RECIPE),
    Model("PP-YOLOE_seg-N", "ppyoloe_seg", None, Times(), Times(), 4.6,
          _NANO, _NANO_RECIPE, ours=True),
)

COCO_CLASSES = (  # in class-index order
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
    "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven",
    "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)
# fmt: on

MODELS: dict[str, Model] = {row.name: row for row in _ROWS}


def get(name: str) -> Model:
    """Look up a model by name, ignoring case. Raises UnknownNameError, which suggests the nearest name."""
    found = _find(name)
    if found is None:
        raise UnknownNameError.of("model", name, MODELS)
    return found


def has(name: str) -> bool:
    """Whether there is a model of this name, ignoring case."""
    return _find(name) is not None


def _find(name: str) -> Model | None:
    return MODELS.get(name) or next((row for row in _ROWS if row.name.lower() == name.lower()), None)


TABLE_HEADER = ("Model", "Family", "Mask AP", "GPU ms", "CPU ms", "Size MB")
LINKS = "Official files"

#: Source of the figures in the table.
EDITION = (
    "Mask AP on COCO val2017, times (normal / high-performance mode) and sizes are those of PaddleX's documents of "
    "3.0.3, with Paddle 3.0.0, in FP32. GPU: NVIDIA T4, CUDA 11.8, cuDNN 8.9, TensorRT 8.6. CPU: Intel Xeon Gold 6271C "
    "at 2.6 GHz, 8 threads."
)


def table_rows() -> list[tuple[str, ...]]:
    """Cells of the table, one tuple per model, for `TABLE_HEADER`. Times are from set C; ``-``: not published."""

    def ms(times: Times) -> str:
        pair = ["-" if value is None else f"{value:.2f}" for value in (times.c, times.c_hpi)]
        return "-" if pair == ["-", "-"] else " / ".join(pair)

    return [
        (
            row.name,
            FAMILIES[row.family].title,
            "-" if row.mask_ap is None else f"{row.mask_ap:.1f}",
            ms(row.gpu_ms),
            ms(row.cpu_ms),
            f"{row.size_mb:.1f}",
        )
        for row in _ROWS
    ]


def markdown_table(*, links: bool = False) -> str:
    """`table_rows` as a Markdown table, names left- and figures right-aligned, without a trailing newline.

    Args:
        links: add a column with the URLs of the official weights and the Paddle program exported from them.
    """
    rows = table_rows()
    rule = tuple("---:" if column >= 2 else "---" for column in range(len(TABLE_HEADER)))
    lines = [(*TABLE_HEADER, LINKS), (*rule, "---"), *((*cells, _links(MODELS[cells[0]])) for cells in rows)]
    return "\n".join(f"| {' | '.join(line if links else line[:-1])} |" for line in lines)


def _links(spec: Model) -> str:
    return "-" if spec.ours else f"[weights]({spec.pretrained_url}), [Paddle program]({spec.inference_url()})"
