"""Whether an exported file computes what the model computes: every exporter ends here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leanformer.export.program import device_of, evaluation_mode
from leanformer.ops import full_float32


@dataclass(frozen=True, kw_only=True)
class Verification:
    """How far an exported model is from the eager one on the same images."""

    max_diff: float
    """Largest absolute difference of any output."""
    relative_diff: float
    """`max_diff` over the largest absolute eager output."""
    top1_agreement: float
    """Share of the images whose first class is the same; classes that tie within the tolerance count as the same."""
    num_images: int
    """Images compared."""
    tolerance: float
    """Largest `relative_diff` that passes."""

    @property
    def passed(self) -> bool:
        """Within the tolerance (a NaN is not), with the same first class on every image."""
        return self.relative_diff <= self.tolerance and self.top1_agreement == 1.0

    def __str__(self) -> str:
        return (
            f"max difference {self.max_diff:.2e} ({self.relative_diff:.2e} of the output's scale, "
            f"allowed {self.tolerance:.0e}), top-1 agreement {self.top1_agreement:.1%} on {self.num_images} images"
        )


def verify(
    exported: Callable[[Tensor], Tensor], model: nn.Module, batches: Iterable[Tensor], *, tolerance: float = 1e-4
) -> Verification:
    """Run both on each batch of (B, 3, H, W) images, the model in evaluation mode, and compare their (B, K) outputs."""
    expected, found = [], []
    with evaluation_mode(model), torch.inference_mode(), full_float32():
        for images in batches:
            expected.append(model(images.to(device_of(model))).float().cpu())
            found.append(exported(images).float().cpu())
    return compare_outputs(torch.cat(found), torch.cat(expected), tolerance=tolerance)


def compare_outputs(found: Tensor, expected: Tensor, *, tolerance: float) -> Verification:
    """Compare (B, K) outputs with those expected."""
    scale = expected.abs().max().item()
    max_diff = (found - expected).abs().max().item()
    top = expected.max(dim=1).values
    chosen = expected.gather(1, found.argmax(dim=1, keepdim=True)).squeeze(1)
    return Verification(
        max_diff=max_diff,
        relative_diff=max_diff / scale if scale > 0 else max_diff,
        top1_agreement=(chosen >= top - tolerance * scale).float().mean().item(),
        num_images=len(expected),
        tolerance=tolerance,
    )


def flat_images(image_size: tuple[int, int]) -> Tensor:
    """Two images of one colour each, in which all tokens are alike and features may vanish: (2, 3, H, W)."""
    colours = torch.tensor([0.0, 2.0]).view(2, 1, 1, 1)
    return colours.expand(2, 3, *image_size).clone()


def fixed_images(count: int, image_size: tuple[int, int]) -> Tensor:
    """`count` images of unit variance, the same on every machine and at every call: (count, 3, H, W)."""
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 3, *image_size, generator=generator)
