"""What every network owes to those who train, prove and export it, whatever its family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias

from torch import Tensor, nn

from maskline.runtime.mask_layout import MaskLayout

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

#: Turns a count on this process (of objects, say) into the divisor of its loss sums: max(1, total over all processes) /
#: number of processes. Gradients averaged over processes then equal those of one batch.
Normalizer: TypeAlias = Callable[[Tensor], Tensor]


def local_normalizer(count: Tensor) -> Tensor:
    """The `Normalizer` of a single process."""
    return count.clamp(min=1)


class Target(NamedTuple):
    """The true objects of one image; none is legal."""

    labels: Tensor  # (n,) int64
    boxes: Tensor  # (n, 4) float32 x1 y1 x2 y2, in pixels of the network's input
    masks: Tensor  # (n, H, W) uint8, 0 or 1, over the whole input
    size: tuple[int, int]  # (height, width) of the image inside the input; right of it and below is padding


class Detections(NamedTuple):
    """What a network finds in B images: K rows each, best first. The graph's outputs are these, under these names.

    Masks are not probabilities: a pixel is foreground where its mask is positive. A family returns the numbers that are
    to be interpolated, shifted so that 0 is the threshold: logits, or probabilities less a half. What the cells of a
    mask cover, the network's `mask_layout` says.
    """

    boxes: Tensor  # (B, K, 4) x1 y1 x2 y2, in pixels of the network's input, padding included; may extend beyond it
    scores: Tensor  # (B, K) in [0, 1]; 0 where there is no object, whatever else the row holds
    labels: Tensor  # (B, K) int64, in [0, num_classes)
    masks: Tensor  # (B, K, h, w), foreground where positive


class Decisive(NamedTuple):
    """A layer whose outputs decide what is found, and the mean and standard deviation of what replaces them.

    See `maskline.models.pinned`.
    """

    layer: nn.Module
    mean: float
    deviation: float


class Network(nn.Module, ABC):
    """The contract of all networks.

    Images are (B, 3, H, W), normalised as the model's `Preprocess` says. B is free; H and W are too where the
    preprocess keeps the ratio, and then a network that needs multiples pads by itself, right and below, with zeros.

    The part that pretrained weights of a backbone fill is called ``backbone``; where learning rates are to differ among
    its stages, they are in ``backbone.stages``.

    Attributes:
        config: the family's configuration, a frozen dataclass.
        num_classes: classes without background.
        trained_with: fields of ``config`` on which the weights' meaning depends, but not their shapes: a weights file
            has to say them.
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
        """What the masks of `forward` cover and mean; exported into the graph's record."""

    @abstractmethod
    def forward(self, image: Tensor) -> Detections:
        """Images (B, 3, H, W) to what is found in them, nothing of which depends on the other images."""

    @abstractmethod
    def losses(
        self, image: Tensor, targets: list[Target], *, normalizer: Normalizer = local_normalizer
    ) -> dict[str, Tensor]:
        """The parts of the loss, weighted scalars by name, always the same names: the loss is their sum.

        Args:
            image: (B, 3, H, W).
            targets: one for each image.
            normalizer: what sums over objects are divided by.
        """

    @abstractmethod
    def frozen(self) -> Iterator[nn.Module]:
        """Parts that fine-tuning leaves as they are, statistics included; may be none."""

    @abstractmethod
    def decisive(self) -> list[Decisive]:
        """The layers that decide what is found, for the proof of an exported graph (`maskline.models.pinned`)."""

    def weights_config(self) -> dict[str, Any]:
        """The fields of ``config`` named by ``trained_with``: plain values, for the weights' file."""
        return {name: getattr(self.config, name) for name in self.trained_with}
