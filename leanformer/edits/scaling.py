"""Tokens that run through a stage at a fraction of their size, so that nothing has to double them.

A removed attention leaves 2 x. Halve everything that is added to the tokens from there on, and the tokens stay as they
are, at half their size; norms divide the factor out again, with their eps at a quarter. Powers of two change no digit
of a float, so the outputs are equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from leanformer.edits.sites import BlockSite
from leanformer.errors import EditError
from leanformer.layers.block import Block, Stage
from leanformer.layers.branch import Branch, Rescale
from leanformer.layers.conv import ConvPosition
from leanformer.layers.head import ClassifierHead
from leanformer.layers.norm import FrozenAffine
from leanformer.layers.region import PaddedRegion
from leanformer.layers.site import NormSite, Padding
from leanformer.layers.tail import FirstTokens


def plan_halving(model: nn.Module, halved: Sequence[BlockSite]) -> Callable[[], None]:
    """What keeps the tokens at half their size from the attention of each of the `halved` blocks to the end of its
    stage; nothing is changed before it is called.

    Raises:
        EditError: naming the first module that it cannot be done for exactly.
    """
    plan = _Plan(names={module: name for name, module in model.named_modules()})
    stages = [module for module in model.modules() if isinstance(module, Stage)]
    blocks = {site.block for site in halved}
    for stage, following in zip(stages, [*stages[1:], None], strict=True):
        plan.size = 1.0
        for block in stage.blocks:
            plan.pass_block(block, halved=block in blocks)
        if plan.size < 1.0:
            plan.leave(stage, getattr(model, "head", None) if following is None else following.downsample)
    return plan.carry_out


@dataclass
class _Plan:
    names: dict[nn.Module, str]
    size: float = 1.0
    """Of the tokens, as a part of what it was."""
    scaled: list[tuple[Tensor, float]] = field(default_factory=list)
    eps: list[tuple[nn.LayerNorm | nn.RMSNorm, float]] = field(default_factory=list)

    @torch.no_grad()
    def carry_out(self) -> None:
        for tensor, factor in self.scaled:
            tensor.mul_(factor)
        for norm, factor in self.eps:
            assert norm.eps is not None
            norm.eps *= factor

    def pass_block(self, block: nn.Module, halved: bool) -> None:
        if not isinstance(block, Block):
            self._pass(block)
            return
        self._pass(block.position)
        if halved:
            self.size /= 2
        else:
            self._pass(block.attn)
        for part in (block.local, block.mlp_position, block.mlp):
            self._pass(part)

    def leave(self, stage: Stage, reader: nn.Module | None) -> None:
        """The tokens come back to their size in the norm behind the stage, or in what reads them next."""
        if stage.norm is not None and not isinstance(stage.norm, nn.Identity):
            self._read(stage.norm, (), ())
        elif isinstance(reader, ClassifierHead) and (reader.norm is not None or reader.classifiers()):
            self._read(reader.norm, reader.classifiers(), ())
        elif reader is not None and hasattr(reader, "norm_sites") and reader.norm_sites():  # type: ignore[operator]
            for site in reader.norm_sites():  # type: ignore[operator]
                self._read_map(site)
        else:
            self._refuse(stage, "ends with the tokens themselves, which nothing behind it brings back to their size")

    def _read_map(self, site: NormSite) -> None:
        """What makes the next map: a norm, then a layer, or the other way round."""
        if site.before is None:
            self._read(site.norm, site.after, site.paddings)
        elif isinstance(site.norm, nn.Identity):
            self._read(None, (site.before,), ())
        else:
            self._scale(_biases([site.before]), self.size)
            self._read(site.norm, (), ())

    def _pass(self, part: nn.Module | None) -> None:
        if self.size == 1.0 or part is None or isinstance(part, (FirstTokens, Rescale)):
            return
        if isinstance(part, Branch):
            self._pass_branch(part)
        elif isinstance(part, ConvPosition) and not part.gelu:
            self._scale(_biases([part]), self.size)
        else:
            self._refuse(part, "does not pass a factor on")

    def _pass_branch(self, branch: Branch) -> None:
        body = branch.body
        paddings = body.paddings() if hasattr(body, "paddings") else ()  # type: ignore[operator]
        region = () if branch.region is None else (branch.region,)
        self._read(branch.norm, body.entry_layers(), (*paddings, *region))  # type: ignore[operator]
        if branch.layer_scale is not None:
            self._scale([branch.layer_scale.gamma], self.size)
            return
        exits = body.exit_layers() if hasattr(body, "exit_layers") else ()  # type: ignore[operator]
        if not exits:
            self._refuse(body, "ends with no linear layer that could take the factor")
        self._scale([layer.weight for layer in exits], self.size)
        self._scale(_biases(exits), self.size)

    def _read(
        self, norm: nn.Module | None, after: Sequence[nn.Linear | nn.Conv2d], paddings: Iterable[Padding]
    ) -> None:
        """What reads the tokens is to give what it gave."""
        if isinstance(norm, (nn.LayerNorm, nn.RMSNorm)):
            self.eps.append((norm, self.size**2))
        elif isinstance(norm, FrozenAffine):
            self._scale([norm.scale], 1 / self.size)
        elif norm is None or isinstance(norm, nn.Identity):
            self._scale([layer.weight for layer in after], 1 / self.size)
            regions = [region for region in paddings if isinstance(region, PaddedRegion)]
            self._scale([region.pad for region in regions if region.pad is not None], self.size)
        else:
            self._refuse(norm, "does not divide a factor out; fold_norms before this, or leave fold out")

    def _scale(self, tensors: Iterable[Tensor], factor: float) -> None:
        self.scaled += [(tensor, factor) for tensor in tensors]

    def _refuse(self, module: nn.Module, why: str) -> None:
        raise EditError(
            f"the factor 2 of removed attention cannot be folded: {self.names[module]} ({type(module).__name__}) {why}"
        )


def _biases(layers: Iterable[nn.Linear | nn.Conv2d]) -> list[Tensor]:
    return [layer.bias for layer in layers if layer.bias is not None]
