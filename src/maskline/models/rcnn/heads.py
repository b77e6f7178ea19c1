"""RoI heads: the box head (one, or three in a cascade) and the mask head.

Sources: Fast R-CNN (arXiv 1504.08083), Mask R-CNN (arXiv 1703.06870, section 3 and figure 4), Cascade R-CNN (arXiv
1712.00726).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BoxHead(nn.Module):
    """RoI features to class scores and boxes.

    With ``hidden_dim``: two linear layers of that width (FPN); None: average pooling (C4).
    """

    def __init__(
        self, channels: int, *, roi_size: int, hidden_dim: int | None, num_classes: int, num_boxes: int
    ) -> None:
        """num_boxes: per region: one per class, or 1 for all classes."""
        super().__init__()
        if hidden_dim is not None:
            self.fc1: nn.Linear | None = nn.Linear(channels * roi_size * roi_size, hidden_dim)
            self.fc2: nn.Linear | None = nn.Linear(hidden_dim, hidden_dim)
            for layer in (self.fc1, self.fc2):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        else:
            self.fc1 = self.fc2 = None
        self.score = nn.Linear(hidden_dim or channels, num_classes + 1)
        self.delta = nn.Linear(hidden_dim or channels, 4 * num_boxes)
        for layer, deviation in ((self.score, 0.01), (self.delta, 0.001)):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(R, C, roi_size, roi_size) to logits (R, classes + 1), background last, and deltas (R, num_boxes, 4)."""
        if self.fc1 is None or self.fc2 is None:
            hidden = features.mean(dim=(2, 3))
        else:
            hidden = F.relu(self.fc2(F.relu(self.fc1(features.flatten(1)))))
        return self.score(hidden), self.delta(hidden).unflatten(1, (-1, 4))


class MaskHead(nn.Module):
    """RoI features to mask logits, at twice the resolution."""

    def __init__(self, in_channels: int, channels: int, *, num_convs: int, num_classes: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(in_channels if i == 0 else channels, channels, 3, padding=1) for i in range(num_convs)
        )
        self.enlarge = nn.ConvTranspose2d(channels if num_convs else in_channels, channels, 2, stride=2)
        self.logits = nn.Conv2d(channels, num_classes, 1)
        for layer in (*self.convs, self.enlarge, self.logits):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Features (R, C, s, s) and labels (R,) to the mask logits of these labels (R, 2s, 2s)."""
        for conv in self.convs:
            features = F.relu(conv(features))
        features = F.relu(self.enlarge(features))
        kernel = self.logits.weight.flatten(1)[labels]  # (R, C): only the labels' classes are computed
        assert self.logits.bias is not None
        mixed = torch.bmm(kernel[:, None], features.flatten(2)).view(-1, *features.shape[2:])
        return mixed + self.logits.bias[labels][:, None, None]
