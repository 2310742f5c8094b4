"""Edits that take attention out of blocks ("MLP Can Be A Good Transformer Learner", https://arxiv.org/abs/2404.05657):
let it fade out while the model trains, then remove what is left."""

from __future__ import annotations

from torch import nn

from leanformer.edits.edit import Edit, EditReport, edit
from leanformer.edits.scaling import plan_halving
from leanformer.edits.sites import BlockSite, pick_blocks
from leanformer.errors import EditError
from leanformer.layers.branch import Branch, DilutedBranch, RemovedForm, Rescale
from leanformer.layers.tail import ReadBranch


@edit("dilute_attention")
class DiluteAttention(Edit):
    """Let the attention of blocks fade out with the schedule `attention_share`: exact while the share is 1.

    With share s a block gives (2 - s) x + s attention(x), and 2 x at the end; in the form "skip" x + s attention(x),
    and x at the end. `RemoveAttention` is then exact.
    """

    blocks: tuple[int, ...]
    """Counted over all stages, from 0."""
    form: RemovedForm = "identity"

    def apply(self, model: nn.Module) -> EditReport:
        """Make the branches dilutable, at share 1."""
        sites = _with_attention(model, self.blocks, self.kind)
        for site, branch in sites:
            if isinstance(branch, DilutedBranch):
                raise EditError(f"{self.kind}: the attention of block {site.index} ({site.name}) is diluted already")
            if isinstance(branch, ReadBranch):
                raise EditError(
                    f"{self.kind}: {site.name} computes the tokens that are read alone; dilute before class_token_tail"
                )
        for site, branch in sites:
            site.block.attn = DilutedBranch(branch, self.form)
        left = "2 x" if self.form == "identity" else "x"
        line = f"the attention of {_named(self.blocks)} follows attention_share, and is {left} when that is 0"
        return EditReport(edit=self, lines=(line,), details={"blocks": list(self.blocks)})


@edit("remove_attention")
class RemoveAttention(Edit):
    """Remove the attention of blocks with its norm: x becomes 2 x there, or stays x in the form "skip".

    Exact where attention was diluted (`DiluteAttention`) until its share was 0. Where it is in use the outputs change,
    and the report says so.
    """

    blocks: tuple[int, ...]
    """Counted over all stages, from 0."""
    form: RemovedForm = "identity"
    """The published one is "identity"."""
    fold: bool = False
    """Whether the factor 2 goes into weights, so that nothing is multiplied: the tokens run through the rest of their
    stage at half the size, each removed block halving them again. Exact to the last bit in float32, for powers of two
    change no digit."""

    def __post_init__(self) -> None:
        if self.fold and self.form == "skip":
            raise EditError(f"{self.kind}: the form 'skip' multiplies by nothing, so there is nothing to fold")

    def apply(self, model: nn.Module) -> EditReport:
        """Remove the branches in place."""
        sites = _with_attention(model, self.blocks, self.kind)
        for site, branch in sites:
            if isinstance(branch, DilutedBranch):
                self._check_faded(site, branch)
        freed = sum(parameter.numel() for _, branch in sites for parameter in branch.parameters())
        in_use = [site.index for site, branch in sites if not isinstance(branch, DilutedBranch)]
        self._remove(model, sites)
        lines = [f"removed the attention of {_named(self.blocks)}: {freed:,} parameters; {self._left()}"]
        if in_use:
            lines.append(
                f"the attention of {_named(in_use)} was in use, so the outputs change; dilute_attention and training "
                "lead there without a jump"
            )
        return EditReport(
            edit=self, lines=tuple(lines), details={"blocks": list(self.blocks), "parameters": freed, "in_use": in_use}
        )

    def replay(self, model: nn.Module) -> None:
        """Remove the branches, whatever their share."""
        self._remove(model, _with_attention(model, self.blocks, self.kind))

    def _check_faded(self, site: BlockSite, branch: DilutedBranch) -> None:
        if branch.form != self.form:
            raise EditError(
                f"{self.kind}: block {site.index} ({site.name}) was diluted in the form {branch.form!r}; "
                f"remove it with form={branch.form!r}"
            )
        share = branch.share.item()
        if share > 0.0:
            raise EditError(
                f"{self.kind}: block {site.index} ({site.name}) still has {share:.3f} of its attention, so removing it "
                "would change the model that was trained; train until attention_share is 0, or set it to 0 on purpose "
                "with set_scheduled(0.0)"
            )

    def _remove(self, model: nn.Module, sites: list[_Site]) -> None:
        halve = plan_halving(model, [site for site, _ in sites]) if self.fold else None
        for site, _ in sites:
            site.block.attn = Rescale(2.0) if self.form == "identity" and not self.fold else None
        if halve is not None:
            halve()

    def _left(self) -> str:
        if self.fold:
            return "the factor 2 is folded into the weights behind"
        return "x becomes 2 x there" if self.form == "identity" else "x stays x there"


_Site = tuple[BlockSite, Branch]


def _with_attention(model: nn.Module, blocks: tuple[int, ...], what: str) -> list[_Site]:
    """The chosen blocks and their attention.

    Raises:
        EditError: if there is no such block, or no attention in it.
    """
    found = []
    for site in pick_blocks(model, blocks, what):
        branch = site.block.attn
        if branch is None or isinstance(branch, Rescale):
            raise EditError(f"{what}: block {site.index} ({site.name}) has no attention any more: it was removed")
        if not isinstance(branch, Branch):
            raise EditError(
                f"{what}: the attention of block {site.index} ({site.name}) is a {type(branch).__name__}, "
                "which is no residual branch"
            )
        found.append((site, branch))
    return found


def _named(blocks: tuple[int, ...] | list[int]) -> str:
    return f"block{'s' if len(blocks) > 1 else ''} {', '.join(map(str, blocks))}"
