"""Gradients averaged over the ranks while the backward pass still computes others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from leanformer.training.distributed import Ranks

BUCKET_BYTES = 25 * 2**20


class GradientMeans:
    """Data parallelism: every rank has the whole model, and in each step the mean of all gradients.

    Gradients travel in buckets, those of the last layers first, each as soon as it is full. What lies where in a bucket
    never changes, so the order of summation is the same in each step and after every restart: a resumed run is exact to
    the bit on any number of ranks. (DistributedDataParallel packs anew after the first step of a process, unless it
    searches each step's graph for unused parameters.) A parameter that is frozen, or that no longer takes part, such as
    the first norm of a progressive one after its blend, keeps no gradient, as in one process.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], ranks: Ranks, bucket_bytes: int = BUCKET_BYTES) -> None:
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        self._world = ranks.world
        self._buckets = [_Bucket(members) for members in _packed(reversed(trained), bucket_bytes)]
        self._sent = 0
        self._active = False
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._hook(bucket))
            for bucket in self._buckets
            for parameter in bucket.parameters
        ]

    @contextmanager
    def averaging(self, active: bool = True) -> Iterator[None]:
        """Average what the backward pass inside adds to; with `active` false it adds to this rank's gradients alone,
        as in all parts of a batch but the last."""
        self._active, self._sent = active, 0
        try:
            yield
        finally:
            self._active = False
        if active:
            self._finish()

    def remove(self) -> None:
        """Leave the model as it was."""
        for hook in self._hooks:
            hook.remove()

    def _hook(self, bucket: _Bucket) -> Any:
        def ready(parameter: Tensor) -> None:
            if self._active:
                bucket.ready.append(parameter)
                self._send_full()

        return ready

    def _send_full(self) -> None:
        """Send the next buckets that have all gradients that they had in the last step; always in the same order."""
        while self._sent < len(self._buckets) and self._buckets[self._sent].is_full:
            self._buckets[self._sent].send()
            self._sent += 1

    def _finish(self) -> None:
        for bucket in self._buckets[self._sent :]:
            bucket.send()
        for bucket in self._buckets:
            count = bucket.receive(self._world)
            if bucket.ready:  # they take part again, and came too late
                bucket.send()
                count += bucket.receive(self._world)
            bucket.expected = count


class _Bucket:
    """Parameters whose gradients travel together."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.ready: list[Tensor] = []
        """Those whose gradients are there and not sent."""
        first = parameters[0]
        self._flat = torch.zeros(sum(p.numel() for p in parameters), dtype=first.dtype, device=first.device)
        pieces = self._flat.split([p.numel() for p in parameters])
        self._places = {p: piece.view(p.shape) for p, piece in zip(parameters, pieces, strict=True)}
        self.expected = len(parameters)
        """How many there were in the step before."""
        self._sent: list[Tensor] = []
        self._work: dist.Work | None = None

    @property
    def is_full(self) -> bool:
        return len(self.ready) == self.expected

    def send(self) -> None:
        """Start to add up what is ready over the ranks; zeros hold the places of the rest."""
        self._sent, self.ready = self.ready, []
        if not self._sent:
            return
        if len(self._sent) < len(self.parameters):
            self._flat.zero_()
        torch._foreach_copy_(*self._pairs())  # type: ignore[attr-defined]
        self._work = dist.all_reduce(self._flat, async_op=True)

    def receive(self, world: int) -> int:
        """Wait for the sum, and put the mean in place of the gradients; says of how many."""
        if self._work is None:
            return 0
        self._work.wait()
        self._flat /= world
        places, gradients = self._pairs()
        torch._foreach_copy_(gradients, places)  # type: ignore[attr-defined]
        count = len(self._sent)
        self._sent, self._work = [], None
        return count

    def _pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        """The places and the gradients of what was sent."""
        gradients = [parameter.grad for parameter in self._sent]
        return [self._places[parameter] for parameter in self._sent], gradients  # type: ignore[index,return-value]


def _packed(parameters: Iterable[nn.Parameter], size: int) -> Iterator[list[nn.Parameter]]:
    """The parameters in their order, in packs of one type and device and of at most `size` bytes, or one parameter."""
    pack: list[nn.Parameter] = []
    held = 0
    for parameter in parameters:
        length = parameter.numel() * parameter.element_size()
        fits = pack and (parameter.dtype, parameter.device) == (pack[0].dtype, pack[0].device) and held + length <= size
        if pack and not fits:
            yield pack
            pack, held = [], 0
        pack.append(parameter)
        held += length
    if pack:
        yield pack
