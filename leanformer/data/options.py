"""How a data set is read where its layout leaves a choice."""

from __future__ import annotations

from leanformer.config import register_config
from leanformer.errors import ConfigError


@register_config("data_options")
class DataOptions:
    """What the files of a data set do not say by themselves."""

    val_share: float = 0.2
    """Share of the images that a set without a side for validation gives to it; 0 leaves all to training: images to
    validate on then come from elsewhere."""
    multi_label: bool = False
    """Whether a label of a list is several classes, separated by `;` or `|`. Lists in JSON say so by themselves."""
    path_column: str | None = None
    """The column of a list, or of a Hugging Face data set, that holds the images."""
    label_column: str | None = None
    split_column: str | None = None
    root: str | None = None
    """The folder that the paths of a list count from; None: the list's own."""
    streaming: bool = False
    """Whether a Hugging Face data set is read from front to back in every epoch and kept nowhere."""
    shuffle_buffer: int = 1000
    """Images among which each place of a streamed epoch is drawn; their encoded bytes are held in memory."""

    def __post_init__(self) -> None:
        if not 0 <= self.val_share < 1:
            raise ConfigError(f"val_share must be at least 0 and below 1, got {self.val_share}")
        if self.shuffle_buffer < 1:
            raise ConfigError(f"shuffle_buffer must be at least 1, got {self.shuffle_buffer}")
