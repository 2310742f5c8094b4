"""The processes of one run: who they are, what they tell each other, and how they end together.

`torchrun` or Slurm starts them; each is a rank. A process that was started alone is the only rank and talks to nobody:
all that is here then costs nothing and changes nothing.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, ClassVar, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from leanformer.errors import ConfigError, LeanformerError, TrainingError

log = logging.getLogger(__name__)
T = TypeVar("T")

PORT = "29500"
"""Where the first rank listens if nothing says otherwise, as torchrun's own."""
PATIENCE = timedelta(seconds=10)
"""How long the last words of another rank are waited for."""
HEAD_START = 2.0
"""Seconds that the rank with the message has for it: torchrun ends all when the first one ends."""


class EndedElsewhere(LeanformerError):
    """This process ends because another one of the run did, which has told why; the message repeats it."""

    silent: ClassVar[bool] = True

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The processes of a run, as one of them sees them. What is said of several holds for one, at once."""

    rank: int = 0
    world: int = 1
    """How many there are."""
    local_rank: int = 0
    """Counts those of this machine, and with them its devices."""
    restarts: int = 0
    """Times that torchrun has started them all again after one had died."""
    store: Any = field(default=None, repr=False, compare=False)
    """Where the first to fail leaves its last words; None in a process group that somebody else made."""

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    @property
    def share(self) -> tuple[int, int]:
        """Which part of a batch is this rank's: (rank, world)."""
        return self.rank, self.world

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace floating-point tensors of one type and device by their means over the ranks, in one message."""
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.world
        pieces = flat.split([tensor.numel() for tensor in tensors])
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.detach().copy_(piece.view(tensor.shape))

    def any(self, flag: bool) -> bool:
        """Whether it is true on one of the ranks."""
        return any(self.gather(flag))

    def gather(self, value: T) -> list[T]:
        """The values of all ranks in their order, on every rank; they pass as pickles."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def first(self, action: Callable[[], T]) -> T:
        """What `action` gives on the first rank, on every rank; where it fails there, all end."""
        if self.world == 1:
            return action()
        said: list[Any] = [None, None]
        held = _Held()
        if self.is_first:
            with held:
                said[0] = action()
            said[1] = None if held.error is None else _last_words(held.error)
        dist.broadcast_object_list(said, src=0)
        if held.error is not None:
            raise held.error
        if said[1] is not None:
            raise EndedElsewhere(**said[1])
        return cast(T, said[0])

    def together(self, action: Callable[[], T]) -> T:
        """What `action`, in which nothing is exchanged, gives here; where it fails on one rank, all end."""
        if self.world == 1:
            return action()
        result, held = None, _Held()
        with held:
            result = action()
        error = held.error
        said = self.gather(None if error is None else _last_words(error))
        failed = [rank for rank, words in enumerate(said) if words is not None]
        if error is not None and failed[0] == self.rank:
            raise error
        if failed:
            raise EndedElsewhere(**cast(dict[str, Any], said[failed[0]]))
        return cast(T, result)

    def broadcast(self, tensors: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """The first rank's tensors, which lie on the CPU, on every rank; the others give None."""
        if self.world == 1:
            assert tensors is not None
            return dict(tensors)
        shapes = self.first(lambda: {name: (t.shape, t.dtype) for name, t in (tensors or {}).items()})
        received = {}
        for name, (shape, dtype) in shapes.items():
            mine = torch.empty(shape, dtype=dtype) if tensors is None else tensors[name].contiguous()
            dist.broadcast(mine, src=0)
            received[name] = mine
        return received


class _Held:
    """A block whose error is kept, to be raised when the other ranks know of it."""

    error: Exception | None = None

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        self.error = error if isinstance(error, Exception) else None
        return self.error is not None


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Take one's place among the processes of this launch, until the block is left; inside of another such block, in
    that one's place.

    Where one rank fails, all leave: it with its error, the others with `EndedElsewhere`. Ranks but the first log errors
    alone.

    Raises:
        ConfigError: if the launch does not say where the first rank is.
        TrainingError: if the others cannot be reached.
    """
    if _joined:
        yield _joined[-1]
        return
    if dist.is_available() and dist.is_initialized():
        yield Ranks(rank=dist.get_rank(), world=dist.get_world_size(), local_rank=_number("LOCAL_RANK"))
        return
    rank, world, local_rank = _place()
    restarts = _number("TORCHELASTIC_RESTART_COUNT")
    if world == 1:
        yield Ranks(restarts=restarts)
        return
    ranks = _connect(Ranks(rank=rank, world=world, local_rank=local_rank, restarts=restarts))
    _joined.append(ranks)
    try:
        with _quiet(ranks):
            yield ranks
    finally:
        error = sys.exception()  # of whatever kind, the others must not wait
        try:
            if isinstance(error, (Exception, KeyboardInterrupt)):
                _end_with(ranks, error)
        finally:
            _joined.remove(ranks)
            dist.destroy_process_group()


_joined: list[Ranks] = []
_runs = itertools.count()
"""Every rank has as many behind it."""


def _place() -> tuple[int, int, int]:
    """Rank, number of ranks and rank on this machine, as torchrun or, given an address, Slurm says them."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return _number("RANK"), _number("WORLD_SIZE"), _number("LOCAL_RANK")
    if "SLURM_PROCID" in os.environ and "MASTER_ADDR" in os.environ:
        return _number("SLURM_PROCID"), _number("SLURM_NTASKS", 1), _number("SLURM_LOCALID")
    return 0, 1, 0


def _number(name: str, otherwise: int = 0) -> int:
    value = os.environ.get(name, str(otherwise))
    if not value.isdecimal():
        raise ConfigError(f"the environment variable {name} must be a number, got {value!r}")
    return int(value)


def _connect(ranks: Ranks) -> Ranks:
    """Meet the other ranks; collectives are NCCL's for tensors on a GPU and gloo's for all others."""
    if "MASTER_ADDR" not in os.environ:
        raise ConfigError(
            f"this is rank {ranks.rank} of {ranks.world}, but MASTER_ADDR does not say where the first one is; start "
            "the processes by torchrun, or set it"
        )
    os.environ.setdefault("MASTER_PORT", PORT)
    has_devices = torch.cuda.is_available()
    if has_devices:
        torch.cuda.set_device(ranks.local_rank % torch.cuda.device_count())
    try:
        store, _, _ = next(dist.rendezvous("env://", ranks.rank, ranks.world))  # type: ignore[attr-defined]
        place = f"start {ranks.restarts} run {next(_runs)}"  # the store of torchrun outlives them, with all addresses
        store = dist.PrefixStore(place, store)  # type: ignore[attr-defined]
        backend = "cpu:gloo,cuda:nccl" if has_devices else "gloo"
        dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.world)
    except (dist.DistError, RuntimeError, ValueError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise TrainingError(
            f"rank {ranks.rank} of {ranks.world} cannot meet the others at {address}: {error}"
        ) from error
    return replace(ranks, store=dist.PrefixStore("leanformer", store))  # type: ignore[attr-defined]


@contextmanager
def _quiet(ranks: Ranks) -> Iterator[None]:
    """Let the first rank alone tell how it goes."""
    logger = logging.getLogger("leanformer")
    level = logger.level
    if not ranks.is_first:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _end_with(ranks: Ranks, error: BaseException) -> None:
    """Raise `error`, silently if another rank has failed before; if it only says that another one is gone, raise what
    that one said."""
    told = isinstance(error, EndedElsewhere)
    is_lost, words = _is_lost(error), None
    if not told:
        with suppress(dist.DistError, RuntimeError):  # the store has ended with the rank that held it
            told = ranks.store.add("failures", 1) > 1
            if not told:
                ranks.store.set("last words", json.dumps(_last_words(_lost(ranks, error) if is_lost else error)))
            elif is_lost:
                ranks.store.wait(["last words"], PATIENCE)
                words = json.loads(ranks.store.get("last words"))
    if told:
        time.sleep(HEAD_START)
    if words is not None:
        raise EndedElsewhere(**words) from None
    if is_lost:
        raise _lost(ranks, error) from None
    if told and isinstance(error, LeanformerError):
        error.silent = True  # type: ignore[attr-defined]
    raise error


def _is_lost(error: BaseException) -> bool:
    """Whether it says that another rank cannot be reached any more."""
    if isinstance(error, LeanformerError) or not isinstance(error, RuntimeError):
        return False
    signs = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in signs)


def _lost(ranks: Ranks, error: BaseException) -> TrainingError:
    line = str(error).splitlines()[0].partition(". ")[0]
    return TrainingError(f"rank {ranks.rank} has lost another process of the run; go on with --resume ({line})")


def _last_words(error: BaseException) -> dict[str, Any]:
    return {
        "message": f"{error}",
        "exit_code": getattr(error, "exit_code", 2 if isinstance(error, LeanformerError) else 1),
    }
