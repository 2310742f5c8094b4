"""Computing the tokens that a classifier reads alone, where no other is looked at any more."""

from __future__ import annotations

from typing import ClassVar, NamedTuple, NoReturn

from torch import nn

from leanformer.edits.edit import Edit, EditReport, edit
from leanformer.edits.sites import BlockSite, block_sites
from leanformer.errors import EditError
from leanformer.layers.attention.frames import ReducedAttention, SelfAttention
from leanformer.layers.attention.softmax import SoftmaxKernel
from leanformer.layers.branch import Branch, DilutedBranch
from leanformer.layers.head import ClassifierHead
from leanformer.layers.mlp import MLP
from leanformer.layers.tail import FirstTokens, ReadAttention, ReadBranch
from leanformer.models import ImageClassifier


@edit("class_token_tail")
class ClassTokenTail(Edit):
    """Let the last block compute the class token alone, with the distillation token where there is one: keys and
    values come from all tokens, queries, projection, MLP and final norm from those that are read.

    The scores stay, up to rounding. The map behind the last block is gone: `forward_features` refuses from then on.
    Norms with batch statistics see those tokens alone, so the model is meant for eval mode; fold them where you can.
    """

    exact: ClassVar[bool] = True

    def apply(self, model: nn.Module) -> EditReport:
        """Replace the attention of the last block in place."""
        tail = _find(model)
        body = tail.attend()
        tail.site.block.local = FirstTokens(tail.count)
        if body is not None:
            tail.site.block.attn = body
        which = "the class token" if tail.count == 1 else "the class token and the distillation token"
        lines = (f"{tail.site.name} computes {which} alone; without the map behind it the model serves no dense task",)
        return EditReport(edit=self, lines=lines, details={"block": tail.site.index, "tokens": tail.count})


class _Tail(NamedTuple):
    site: BlockSite
    count: int
    """Tokens that are read."""

    def attend(self) -> ReadBranch | None:
        """The attention of those tokens, if there is attention."""
        branch = self.site.block.attn
        if not isinstance(branch, Branch):
            return None
        assert isinstance(branch.body, SelfAttention)
        body = ReadAttention(branch.body, self.count)
        return ReadBranch(branch, body, self.count).train(branch.training)


def _find(model: nn.Module) -> _Tail:
    """The last block, and how many tokens of it are read.

    Raises:
        EditError: if other tokens are read too, or the block mixes tokens behind its attention.
    """
    if not isinstance(model, ImageClassifier):
        _refuse(f"{type(model).__name__} is no image classifier, so its tokens are all that it gives")
    head = model.head
    if not isinstance(head, ClassifierHead) or head.pool != "token":
        _refuse("the classifier reads the mean over the map, not a class token, so every token is needed")
    sites = block_sites(model)
    if not sites or sites[-1].place != len(sites[-1].sequence) - 1:
        _refuse(f"{model.config.kind} ends with no transformer block")
    site = sites[-1]
    if model.backbone.output_norm() is not None or model.backbone.stages[-1].blocks is not site.sequence:
        _refuse("a norm of the backbone's own lies between the last block and the classifier")
    _check_block(site)
    return _Tail(site, 1 + int(head.distillation is not None))


def _check_block(site: BlockSite) -> None:
    block, name = site.block, site.name
    if isinstance(block.local, FirstTokens):
        _refuse(f"{name} computes no more than the tokens that are read already")
    for slot in ("position", "local", "mlp_position"):
        if getattr(block, slot) is not None:
            _refuse(f"{name}.{slot} works on the map")
    if not isinstance(block.mlp, Branch) or type(block.mlp.body) is not MLP:
        _refuse(f"{name}.mlp.body ({type(block.mlp).__name__}) is more than an MLP on each token")
    if not isinstance(block.attn, Branch):
        return
    if isinstance(block.attn, DilutedBranch):
        _refuse(f"{name}.attn is diluted; remove it first, when its share is 0")
    if block.attn.region is not None:
        _refuse(f"{name}.attn.region looks in windows, which have no class token")
    mixer = block.attn.body
    if isinstance(mixer, ReducedAttention):
        _refuse(
            f"{name}.attn.body projects keys apart from queries; fuse_linear joins them where they come from one map"
        )
    if not isinstance(mixer, SelfAttention) or not isinstance(mixer.kernel, SoftmaxKernel):
        kind = mixer.describe() if hasattr(mixer, "describe") else type(mixer).__name__  # type: ignore[operator]
        _refuse(f"{name}.attn.body is {kind}: only softmax attention with one projection is split")
    if mixer.kernel.bias is not None or mixer.value_position is not None:
        _refuse(f"{name}.attn.body has a position of its own, between all tokens")


def _refuse(why: str) -> NoReturn:
    raise EditError(f"class_token_tail: {why}")
