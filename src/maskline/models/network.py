"""The interface of all networks, used by training, export and verification."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias

from torch import Tensor, nn

from maskline.runtime.mask_layout import MaskLayout

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

#: Turns this process's count (of objects, for example) into the divisor of its loss sums: max(1, sum over processes) /
#: number of processes. Gradients averaged over processes then equal those of one large batch.
Normalizer: TypeAlias = Callable[[Tensor], Tensor]


def local_normalizer(count: Tensor) -> Tensor:
    """The `Normalizer` of a single process."""
    return count.clamp(min=1)


class Target(NamedTuple):
    """The true objects of one image; may be empty."""

    labels: Tensor  # (n,) int64
    boxes: Tensor  # (n, 4) float32 x1 y1 x2 y2, in pixels of the network's input
    masks: Tensor  # (n, H, W) uint8, 0 or 1, over the whole input
    size: tuple[int, int]  # (height, width) of the image inside the input; padding is right and below


class Detections(NamedTuple):
    """Detections in B images, K rows each, best first; also the outputs of a graph, under these names.

    Masks are not probabilities: a pixel is foreground where its mask is positive. A family returns the values to
    interpolate, shifted so that the threshold is 0: logits, or probabilities minus 0.5. `Network.mask_layout` defines
    the area that the cells cover.
    """

    boxes: Tensor  # (B, K, 4) x1 y1 x2 y2, in pixels of the network's input, padding included; may extend beyond it
    scores: Tensor  # (B, K) in [0, 1]; 0 for an empty row, whose other values are undefined
    labels: Tensor  # (B, K) int64, in [0, num_classes)
    masks: Tensor  # (B, K, h, w), foreground where positive


class Decisive(NamedTuple):
    """A layer whose outputs decide what is detected, and mean and standard deviation of the values that replace them.

    See `maskline.models.pinned`.
    """

    layer: nn.Module
    mean: float
    deviation: float


class Network(nn.Module, ABC):
    """Base class of all networks.

    Images are (B, 3, H, W), normalised according to the model's `Preprocess`. B is free; H and W are free if the
    preprocess keeps the aspect ratio, and a network that needs multiples then pads with zeros, right and below.

    The attribute ``backbone`` takes pretrained backbone weights; stages with learning rates of their own are in
    ``backbone.stages``.

    Attributes:
        config: the family's configuration, a frozen dataclass.
        num_classes: classes without background.
        trained_with: fields of ``config`` that weights depend on, but that their shapes do not show: a weights file
            stores them.
    """

    trained_with: ClassVar[tuple[str, ...]] = ()
    config: DataclassInstance

    def __init__(self, config: DataclassInstance, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes

    if TYPE_CHECKING:

        def __call__(self, image: Tensor) -> Detections: ...

    @property
    @abstractmethod
    def mask_layout(self) -> MaskLayout:
        """Area and meaning of the masks that `forward` returns; part of a graph's record."""

    @abstractmethod
    def forward(self, image: Tensor) -> Detections:
        """Images (B, 3, H, W) to detections; those of an image do not depend on the rest of the batch."""

    @abstractmethod
    def losses(
        self, image: Tensor, targets: list[Target], *, normalizer: Normalizer = local_normalizer
    ) -> dict[str, Tensor]:
        """Return the weighted loss terms by name, always the same names; the loss is their sum.

        Args:
            image: (B, 3, H, W).
            targets: one per image.
            normalizer: what sums over objects are divided by.
        """

    @abstractmethod
    def frozen(self) -> Iterator[nn.Module]:
        """Modules that fine-tuning freezes, running statistics included; may be none."""

    @abstractmethod
    def decisive(self) -> list[Decisive]:
        """Layers whose outputs decide what is detected, for verifying an exported graph (`maskline.models.pinned`)."""

    def weights_config(self) -> dict[str, Any]:
        """The fields of ``config`` that ``trained_with`` names, as plain values for a weights file."""
        return {name: getattr(self.config, name) for name in self.trained_with}
