"""How the ranks of a run share its model and its gradients: copies of the whole, or a share of every weight each."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from leanformer.data import Batch
from leanformer.errors import ConfigError
from leanformer.layers.block import Block
from leanformer.models import ImageClassifier
from leanformer.training.batch_norms import running_statistics, synchronized
from leanformer.training.clipping import Clip
from leanformer.training.distributed import Ranks
from leanformer.training.gradients import GradientMeans

if TYPE_CHECKING:
    from leanformer.training.config import TrainConfig


class Parallel:
    """Each rank holds the whole model; the only rank that there is shares nothing."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._model: nn.Module | None = None
        self._means: GradientMeans | None = None
        self._averages = False

    def place(self, model: ImageClassifier) -> None:
        """Lay the weights of a model out over the ranks, before there is an optimizer for them."""

    def start(self, model: ImageClassifier, batch_norm: str, stack: ExitStack) -> None:
        """Begin to train a model, until the stack is left."""
        if self.ranks.world == 1:
            return
        self._model = model
        self._averages = batch_norm == "local"
        if batch_norm == "sync":
            stack.enter_context(synchronized(model, self.ranks))
        self._share_gradients(model, stack)

    def _share_gradients(self, model: ImageClassifier, stack: ExitStack) -> None:
        self._means = GradientMeans(model.parameters(), self.ranks)
        stack.callback(self._means.remove)

    def backward(self, last: bool) -> AbstractContextManager[None]:
        """What a backward pass runs in; that of the last part of a batch leaves the mean gradient of all ranks."""
        return nullcontext() if self._means is None else self._means.averaging(last)

    def averaged(self) -> list[Tensor]:
        """What the ranks average after each step beside gradients."""
        return running_statistics(self._model) if self._model is not None and self._averages else []

    def in_step(self, model: ImageClassifier, batches: Iterable[Batch]) -> Iterable[Batch]:
        """The batches that a rank evaluates the model on, if ranks with fewer of them have to take part in all."""
        return batches

    def gathered(self, model: ImageClassifier) -> ImageClassifier:
        """The model with whole weights on every rank."""
        return model


class Sharded(Parallel):
    """Each rank holds a share of every weight, gathered block by block where it is used (FSDP2).

    Checkpoints and finished models hold whole weights, so a run may be resumed without it.
    """

    def __init__(self, ranks: Ranks, device: torch.device) -> None:
        super().__init__(ranks)
        from torch.distributed.device_mesh import init_device_mesh

        self._mesh = init_device_mesh(device.type, (ranks.world,))
        self._device = device
        self._forms: dict[nn.Module, ImageClassifier] = {}

    def place(self, model: ImageClassifier) -> None:
        """Keep this rank's share of each weight; what is known of a whole one beside its values is kept aside."""
        from torch.distributed.fsdp import fully_shard

        self._forms[model] = copy.deepcopy(model).to("meta")
        for block in [module for module in model.modules() if isinstance(module, Block)]:
            fully_shard(block, mesh=self._mesh)
        fully_shard(model, mesh=self._mesh)

    def _share_gradients(self, model: ImageClassifier, stack: ExitStack) -> None:
        self._sharded: Any = model

    def backward(self, last: bool) -> AbstractContextManager[None]:
        """FSDP averages by itself, unless it is told to wait."""
        self._sharded.set_requires_gradient_sync(last)
        return nullcontext()

    def in_step(self, model: ImageClassifier, batches: Iterable[Batch]) -> Iterator[Batch]:
        """A rank without a batch runs the model on a blank image as long as others have one: they need its share."""
        iterator = iter(batches)
        blank = torch.zeros(1, 3, *model.preprocess.image_size, device=self._device)
        while self.ranks.any((batch := next(iterator, None)) is not None):
            if batch is None:
                model(blank)
            else:
                yield batch

    def gathered(self, model: ImageClassifier) -> ImageClassifier:
        """A model of the same form with whole weights, on the device."""
        form = self._forms[model].to_empty(device=self._device)
        shares = dict((*model.named_parameters(), *model.named_buffers()))
        with torch.no_grad():
            for name, mine in (*form.named_parameters(), *form.named_buffers()):
                mine.copy_(whole(shares[name]))
        return form.train(model.training)


def choose_parallel(config: TrainConfig, ranks: Ranks, device: torch.device) -> Parallel:
    """How the ranks of a run share its model.

    Raises:
        ConfigError: for what a share of the weights cannot do.
    """
    if config.distribution.strategy == "ddp" or ranks.world == 1:
        return Parallel(ranks)
    if config.batch_norm_phase is not None:
        raise ConfigError("strategy 'fsdp' cannot freeze weights on the way; take 'ddp', or leave out batch_norm_phase")
    if isinstance(config.clip, Clip) and config.clip.by == "adaptive":
        raise ConfigError("strategy 'fsdp' cannot clip by 'adaptive', which compares whole units; clip by 'norm'")
    if config.execution.channels_last:
        raise ConfigError("strategy 'fsdp' keeps weights in their usual layout; leave out channels_last")
    return Sharded(ranks, device)


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which each rank may hold a share; all ranks take part."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def collected(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """The tensors on the rank that is to keep them, nothing on others; all ranks take part.

    Those in shares are put together one after the other, in main memory: all at once they may outgrow a device.
    """
    kept = {}
    for name, tensor in tensors.items():
        value = whole(tensor)
        if keep:
            kept[name] = value if value is tensor else value.cpu()
    return kept


def local(tensor: Tensor) -> Tensor:
    """This rank's share of a tensor, by which the tensor itself is changed."""
    share = getattr(tensor, "to_local", None)
    return tensor if share is None else share()


def laid_out_like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, known to every rank, laid out over the ranks as another one is."""
    placements = getattr(other, "placements", None)
    if placements is None:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh: Any = other.device_mesh  # type: ignore[attr-defined]
    return distribute_tensor(tensor.to(other.device), mesh, placements, src_data_rank=None)
