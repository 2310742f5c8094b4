"""What a file format is to the rest of the library: something that writes a model, and opens the file as a
classifier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from leanformer.errors import ExportError
from leanformer.export.metadata import Metadata
from leanformer.models.preprocess import Preprocess


class ExportedClassifier(nn.Module, ABC):
    """An exported file in its runtime: (B, 3, H, W) images to (B, K) logits, with the class names and the preprocessing
    of the model it was exported from.

    It is a module without parameters, so that everything that takes a model (evaluate, predict, bench) takes it.
    """

    classes: tuple[str, ...] | None
    preprocess: Preprocess
    multi_label: bool

    def __init__(self, path: Path, metadata: Metadata, shape: tuple[int | None, int, int, int], threads: int) -> None:
        """What a runtime found in the file at `path`: the shape of its input, None for a batch size that is open."""
        super().__init__()
        self.path = path
        self.threads = threads
        self.batch_size = shape[0]
        self.image_size = shape[2:]
        self.name = metadata.model
        self.classes = metadata.classes
        self.preprocess = metadata.preprocess
        self.multi_label = metadata.multi_label
        self.metadata = metadata

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of (B, 3, H, W) images; a file of one batch size runs them in parts of that size."""
        expected = (3, *self.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ExportError(f"{self.path.name} takes images of shape {expected}, got {tuple(images.shape[1:])}")
        images = images.detach().float().cpu().contiguous()
        if self.batch_size is None:
            return self.compute(images)
        if len(images) % self.batch_size:
            raise ExportError(
                f"{self.path.name} takes batches of {self.batch_size}, got {len(images)} images; "
                "export with dynamic_batch=True for any number"
            )
        return torch.cat([self.compute(part) for part in images.split(self.batch_size)])

    @abstractmethod
    def compute(self, images: Tensor) -> Tensor:
        """Logits of a batch that the file takes, float32 on the CPU."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """What was written."""

    title: str
    """The format and its version, such as "ONNX opset 20"."""
    nodes: dict[str, int]
    """Number of nodes of each kind."""
    num_norms: int
    """Normalisations left; a model whose norms were folded has none."""


class Node(NamedTuple):
    """A node of a graph of any format."""

    kind: str
    readers: list[Node]
    """The nodes that take its results."""


@dataclass(frozen=True, kw_only=True)
class Format(ABC):
    """A file format with its runtime, and how to write it."""

    name: ClassVar[str]
    """As users type it."""
    suffix: ClassVar[str]
    """Of its files."""
    any_batch: ClassVar[bool] = True
    """Whether its files may take any number of images at once; those that may not take one."""
    is_folder: ClassVar[bool] = False
    """Whether what it writes is a folder."""

    def not_run_here(self) -> str:
        """Why files of this format cannot be run on this machine; empty where they can."""
        return ""

    @abstractmethod
    def write(self, model: nn.Module, images: Tensor, path: Path, metadata: Metadata, dynamic_batch: bool) -> Graph:
        """Write `model`, in evaluation mode, for images like `images` (1, 3, H, W).

        Raises:
            ExportError: naming what cannot be expressed.
        """

    @abstractmethod
    def open(self, path: Path, threads: int) -> ExportedClassifier:
        """Open a file of this format.

        Raises:
            ExportError: for one that is missing, damaged or of somebody else.
        """


def count_norms(nodes: Iterable[Node], kinds: frozenset[str], mean: str, roots: frozenset[str]) -> int:
    """Normalisations among `nodes`: those of `kinds`, and those spelt out as mean, (add,) square root."""
    return sum(_is_norm(node, kinds, mean, roots) for node in nodes)


def _is_norm(node: Node, kinds: frozenset[str], mean: str, roots: frozenset[str]) -> bool:
    if node.kind in kinds:
        return True
    if node.kind != mean:
        return False
    behind = [inner for reader in node.readers if reader.kind == "Add" for inner in reader.readers]  # the epsilon
    return any(reader.kind in roots for reader in (*node.readers, *behind))


def check_file(path: Path) -> None:
    """Refuse a file that is not there."""
    if not path.is_file():
        raise ExportError(f"{path}: there is no such file")
