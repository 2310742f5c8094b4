"""A model that normalises its images itself, so that who runs the exported file need not."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from leanformer.models import ImageClassifier


class NormalizingClassifier(nn.Module):
    """Subtracts the mean and divides by the deviation, then runs the model: (B, 3, H, W) images from 0 to 1 to logits.

    It carries what the model carries; its preprocessing leaves the normalisation out.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: ImageClassifier) -> None:
        super().__init__()
        self.model = model
        before = model.preprocess
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(before, name)).view(3, 1, 1))
        self.preprocess = replace(before, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        self.name, self.classes, self.multi_label = model.name, model.classes, model.multi_label
        self.config, self.edits = model.config, model.edits

    def forward(self, images: Tensor) -> Tensor:
        """Logits of (B, 3, H, W) images from 0 to 1."""
        return self.model((images - self.mean) / self.std)
