"""The attention of a model alone, against the number of tokens: softmax, as it is and in the model's windows, and each
attention whose cost is linear."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from leanformer import bench
from leanformer.compression.advice.crossing import find_crossing
from leanformer.compression.advice.figures import Curve, PlaceCurves, Refusal, median_ms
from leanformer.compression.advice.turns import Timer, Turns
from leanformer.compression.figures import Gain
from leanformer.config import registered_kinds
from leanformer.edits.sites import block_sites
from leanformer.errors import ConfigError
from leanformer.layers.attention import AttentionConfig, Softmax
from leanformer.layers.attention.cross_shaped import CrossShaped
from leanformer.layers.branch import Branch
from leanformer.layers.region import Stripes, Window
from leanformer.layers.site import Grid, Site
from leanformer.models import ImageClassifier

T = TypeVar("T")
SIDES = (7, 10, 14, 20, 28, 40, 56, 80, 112, 160, 224)
LEAST_SIDE = 28
"""Up to this side maps are measured even if the images asked for have none as large."""
TOO_SLOW = 1.0
"""Seconds of a call behind which an attention is not tried on larger maps."""
GRID_BUDGET = 4.0
PLACE_BUDGET = 20.0
"""Seconds behind which no larger map is begun."""


@dataclass(frozen=True)
class Place:
    """Where attention sits in a model: equal for all blocks of one kind."""

    name: str
    site: Site
    own: AttentionConfig
    region: Window | Stripes | None
    stage: int


def find_places(model: ImageClassifier) -> list[Place]:
    """The kinds of places that the model's attention has, in order; with windows where some of a kind have them.

    Attention that has lost heads, or that edits have put together anew, remembers no site and is left out.
    """
    found: dict[tuple[int, Site], Place] = {}
    for block in block_sites(model):
        branch = block.block.attn
        if not isinstance(branch, Branch):
            continue
        stage = int(re.search(r"stages\.(\d+)\.", block.name).group(1))  # type: ignore[union-attr]
        for mixer, region in _mixers(branch):
            site = getattr(mixer, "site", None)
            if site is None:
                continue
            key = stage, replace(site, grid=(1, 1))
            if key not in found or (region is not None and found[key].region is None):
                found[key] = Place(_name(stage, site, region), site, mixer.attention, region, stage)  # type: ignore[arg-type]
    return list(found.values())


def sides_of(place: Place, model: ImageClassifier, image_sizes: Iterable[Grid]) -> list[int]:
    """The sides of the maps to measure: up to the largest that the stage has, those that it has among them."""
    own = {max(model.backbone.feature_grids(size)[place.stage]) for size in image_sizes}
    return sorted({*own, *(side for side in SIDES if side <= max(LEAST_SIDE, *own))})


def measure_place(place: Place, sides: Sequence[int], batch_size: int, timer: Timer) -> PlaceCurves:
    """Time every attention that fits into the place on maps of growing size, all in turns."""
    pairs: dict[tuple[str, str], list[tuple[int, Gain]]] = {}
    times: dict[str, list[tuple[int, float]]] = {}
    refused: dict[str, str] = {}
    stopped: set[str] = set()
    started = timer.clock()
    for grid in ((side, side) for side in sides):
        tokens = place.site.prefix_tokens + grid[0] * grid[1]
        runners, reasons = contenders(place, grid, batch_size, timer.device)
        refused |= reasons
        runners = [runner for runner in runners if runner.name not in stopped]
        baselines = [runner.name for runner in runners if _is_baseline(runner.name)]
        if timer.clock() - started > PLACE_BUDGET or not (baselines and runners[len(baselines) :]):
            break
        found = timer.turns(runners, batch_size=1, image_size=1, budget=GRID_BUDGET)
        for turns in found:
            times.setdefault(turns.name, []).append((tokens, median_ms(turns.seconds)))
        stopped |= {turns.name for turns in found if not turns.measured or max(turns.seconds) > TOO_SLOW}
        _compare(found, tokens, pairs)
    return PlaceCurves(
        name=place.name,
        batch_size=batch_size,
        curves=tuple(Curve(name=name, tokens=_firsts(at), median_ms=_seconds(at)) for name, at in times.items()),
        crossings=tuple(
            find_crossing(name, baseline, _firsts(gains), _seconds(gains)) for (name, baseline), gains in pairs.items()
        ),
        refused=tuple(Refusal(name=name, reason=reason) for name, reason in refused.items() if name not in times),
    )


def contenders(
    place: Place, grid: Grid, batch_size: int, device: torch.device
) -> tuple[list[bench.Runner], dict[str, str]]:
    """The attentions of a place on a map of size `grid`, baselines first, and why others are not among them."""
    site = replace(place.site, grid=grid)
    runners, refused = [], {}
    x = torch.randn(
        batch_size, site.prefix_tokens + grid[0] * grid[1], site.dim, generator=torch.Generator().manual_seed(0)
    ).to(device)
    for name, attention, region in _asked(place, grid):
        inside = site if region is None else replace(site, grid=_size(region, grid))
        try:
            mixer = attention.build(inside)
        except ConfigError as error:
            refused[name] = str(error)
            continue
        assert isinstance(mixer, nn.Module)
        mixer = mixer.to(device).eval()
        region = None if region is None else region.to(device)
        runners.append(bench.Runner(name=name, call=_call(mixer, region, x, grid), device=device))
    return runners, refused


def _asked(place: Place, grid: Grid) -> list[tuple[str, AttentionConfig, Window | Stripes | None]]:
    """Every attention by its name; the model's own in its region if it is a softmax."""
    asked: list[tuple[str, AttentionConfig, Window | Stripes | None]] = [("softmax", Softmax(), None)]
    if place.region is not None:
        own = place.own if isinstance(place.own, Softmax) else Softmax()
        asked.append((f"softmax in {_region_name(place.region)}", own, _region(place.region, grid)))
    for kind, attention in sorted(registered_kinds(AttentionConfig).items()):
        if not attention.takes_mask:
            asked.append((kind, place.own if place.own.kind == kind else attention(), None))
    return asked


def _call(mixer: nn.Module, region: Window | Stripes | None, x: Tensor, grid: Grid) -> Callable[[Tensor], Tensor]:
    """A runner's call, which takes images and leaves them alone."""
    if region is None:
        return lambda images: mixer(x, grid)
    return lambda images: region(mixer, x, grid)


def _compare(found: Sequence[Turns], tokens: int, pairs: dict[tuple[str, str], list[tuple[int, Gain]]]) -> None:
    for baseline in found:
        for turns in found:
            if _is_baseline(baseline.name) and not _is_baseline(turns.name):
                gain = turns.gain_over(baseline)
                if gain is not None:
                    pairs.setdefault((turns.name, baseline.name), []).append((tokens, gain))


def _mixers(branch: Branch) -> list[tuple[nn.Module, Window | Stripes | None]]:
    body = branch.body
    if not isinstance(body, CrossShaped):
        return [(body, branch.region)]
    stripes = body.stripes or [None] * len(body.branches)
    return list(zip(body.branches, stripes, strict=True))[:1]  # type: ignore[arg-type]  # the other is its mirror image


def _name(stage: int, site: Site, region: Window | Stripes | None) -> str:
    reduced = site.reduction is not None and (site.reduction.pool is not None or site.reduction.stride > 1)
    keys = ", keys of a coarser map" if reduced else ""
    where = f", {_region_name(region)}" if region is not None else ""
    return f"stage {stage + 1}: {site.width} channels, {site.num_heads} heads{keys}{where}"


def _region_name(region: Window | Stripes) -> str:
    return f"windows of {region.size}" if isinstance(region, Window) else f"stripes of {region.split_size}"


def _region(region: Window | Stripes, grid: Grid) -> Window | Stripes:
    if isinstance(region, Window):
        return Window(region.size, 0, grid)
    return Stripes(region.split_size, region.direction)  # type: ignore[arg-type]


def _size(region: Window | Stripes, grid: Grid) -> Grid:
    return (region.size, region.size) if isinstance(region, Window) else region.size(grid)


def _is_baseline(name: str) -> bool:
    return name.startswith("softmax")


def _firsts(pairs: Sequence[tuple[int, Any]]) -> tuple[int, ...]:
    return tuple(first for first, _ in pairs)


def _seconds(pairs: Sequence[tuple[int, T]]) -> tuple[T, ...]:
    return tuple(second for _, second in pairs)
