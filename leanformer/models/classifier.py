"""An image classifier: a backbone, a head, and what belongs to the finished model (classes, preprocessing, edits,
origin)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from leanformer.errors import ConfigError
from leanformer.layers.site import NormSite
from leanformer.models.backbone import BackboneConfig
from leanformer.models.preprocess import Preprocess

if TYPE_CHECKING:
    from leanformer.edits import Edit


class ImageClassifier(nn.Module):
    """Images (B, 3, H, W) to class scores (B, num_classes).

    Attributes:
        config: what it was built from.
        name: its registered name, if it has one.
        classes: names of the classes in order, if known.
        multi_label: whether an image may have several of them, so that each has a probability of its own.
        preprocess: how images are prepared for it.
        edits: the edits applied to it, in order.
        origin: where its weights came from, empty for random ones.
    """

    def __init__(self, config: BackboneConfig, name: str | None = None) -> None:
        super().__init__()
        self.config = config
        self.name = name
        self.classes: tuple[str, ...] | None = None
        self.multi_label = False
        self.preprocess = Preprocess(image_size=config.image_grid)
        self.edits: list[Edit] = []
        self.origin: dict[str, Any] = {}
        self.backbone = config.build()
        self.head = config.build_head()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, num_classes)."""
        tokens, _ = self.backbone(images)
        return self.head(tokens)

    def norm_sites(self) -> tuple[NormSite, ...]:
        """The norm that the backbone ends with, if it does: the classifier reads its result."""
        found = self.backbone.output_norm()
        if found is None:
            return ()
        owner, attribute = found
        return (NormSite(owner=owner, attribute=attribute, place="final", after=self.head.classifiers()),)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay must leave alone, besides biases and everything of one axis."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}

    def check_classifies(self) -> None:
        """Refuse to tell classes apart without a classifier.

        Raises:
            ConfigError: if the model has none, so that its outputs are features.
        """
        if not self.config.num_classes:
            raise ConfigError(
                f"{self.name or 'the model'} has no classifier: its outputs are features; train one "
                "(`leanformer train`), or load the model with num_classes=..."
            )

    def set_classes(self, classes: tuple[str, ...]) -> None:
        """Name the classes, one for each output."""
        if len(classes) != self.config.num_classes:
            raise ConfigError(f"{len(classes)} class names for a model of {self.config.num_classes} classes")
        self.classes = tuple(classes)
