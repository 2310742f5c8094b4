"""Advice on a model: everything measured, or remembered, and what follows from it."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from leanformer.compression.advice.changes import finish_norms
from leanformer.compression.advice.crossing import Crossing, find_crossing
from leanformer.compression.advice.figures import Advice, PlaceCurves, Refusal, Setting
from leanformer.compression.advice.memory import AdviceMemory, machine_setting, structure
from leanformer.compression.advice.places import find_places, measure_place, sides_of
from leanformer.compression.advice.setting import measure_setting
from leanformer.compression.advice.steps import first_steps
from leanformer.compression.advice.turns import Timer
from leanformer.errors import LeanformerError
from leanformer.layers.site import Grid
from leanformer.models import ImageClassifier

log = logging.getLogger(__name__)

Open = Callable[[int | None], ImageClassifier]
"""The model for images of a size, None for its own.

Raises a ConfigError if it cannot be built for them."""


def advise(
    model: str,
    open_model: Open,
    *,
    image_sizes: Sequence[int] = (),
    batch_sizes: Sequence[int] = (1,),
    timer: Timer | None = None,
    stored: bool = False,
    fresh: bool = False,
    folder: Path | None = None,
) -> Advice:
    """Measure a model on this device, and say what to do first.

    Args:
        model: what it is called on the command line.
        image_sizes: pixels of a side; none for the model's own.
        timer: how everything is timed.
        stored: whether `model` is a directory with weights.
        fresh: measure again what was measured before.
        folder: where measurements are kept; None for one in the cache.

    Raises:
        LeanformerError: if the model can be built for none of the sizes.
    """
    timer = timer or Timer()
    memory = AdviceMemory(machine_setting(timer), folder=folder, fresh=fresh)
    opened, refused = _open_all(open_model, image_sizes, timer.device)
    settings = []
    for state in opened:
        for batch_size in batch_sizes:
            log.info("measuring %s at %d px, batch %d", model, max(state.config.image_grid), batch_size)
            settings.append(_setting(state, memory, batch_size, timer))
    sizes = [state.config.image_grid for state in opened]
    places = _places(opened[-1], sizes, memory, batch_sizes, timer)
    return Advice(
        model=model,
        machine=_machine(memory),
        settings=tuple(settings),
        places=places,
        crossings=whole_crossings(model, settings),
        refused=tuple(refused),
        steps={each.title: first_steps(each, model, stored=stored, threads=timer.threads) for each in settings},
        checks=_checks(model, settings, timer.threads, stored),
        measured=tuple(memory.measured),
    )


def whole_crossings(model: str, settings: Sequence[Setting]) -> tuple[Crossing, ...]:
    """From which side of the images on the model would be faster with another attention; for each batch size."""
    found = []
    batches = sorted({setting.batch_size for setting in settings})
    for batch_size in batches:
        baseline = model if len(batches) == 1 else f"{model}, batch {batch_size}"
        own = sorted((s for s in settings if s.batch_size == batch_size), key=lambda s: s.image_size)
        gains: dict[str, list] = {}
        for setting in own:
            for change in setting.changes:
                if change.attention and change.gain is not None:
                    gains.setdefault(change.name, []).append((max(setting.image_size), change.gain))
        for name, pairs in gains.items():
            sizes, speedups = zip(*pairs, strict=True)
            found.append(find_crossing(name, baseline, sizes, speedups))
    return tuple(found)


def _open_all(
    open_model: Open, image_sizes: Sequence[int], device: torch.device
) -> tuple[list[ImageClassifier], list[Refusal]]:
    """The model for each size that it takes, and why it does not take the others."""
    opened: list[ImageClassifier] = []
    refused: list[Refusal] = []
    first: LeanformerError | None = None
    for size in sorted(set(image_sizes)) or [None]:
        try:
            model = open_model(size).to(device).eval()
        except LeanformerError as error:
            first = first or error
            refused.append(Refusal(name=f"{size} px", reason=str(error)))
            continue
        if not model.origin:
            finish_norms(model)
        opened.append(model)
    if not opened:
        assert first is not None
        raise first
    return opened, refused


def _setting(model: ImageClassifier, memory: AdviceMemory, batch_size: int, timer: Timer) -> Setting:
    key = {"what": "setting", "model": structure(model), "batch_size": batch_size}
    return Setting.from_dict(memory.get(key, lambda: asdict(measure_setting(model, batch_size, timer))))


def _places(
    model: ImageClassifier, sizes: Sequence[Grid], memory: AdviceMemory, batch_sizes: Sequence[int], timer: Timer
) -> tuple[PlaceCurves, ...]:
    found = []
    for place in find_places(model):
        sides = sides_of(place, model, sizes)
        for batch_size in batch_sizes:
            log.info("measuring attention, %s, batch %d", place.name, batch_size)
            site = repr((replace(place.site, grid=(1, 1)), place.own, place.name))
            key = {"what": "place", "site": site, "sides": sides, "batch_size": batch_size}
            curves = partial(measure_place, place, sides, batch_size, timer)
            found.append(PlaceCurves.from_dict(memory.get(key, lambda curves=curves: asdict(curves()))))
    return tuple(found)


def _machine(memory: AdviceMemory) -> tuple[tuple[str, str], ...]:
    at = memory.setting
    return (
        ("device", at["device"]),
        ("cpu", at["cpu"]),
        ("threads", str(at["threads"])),
        ("system", at["system"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in at["versions"].items())),
        ("commit", at["commit"] or "none"),
        ("rounds", f"at most {at['repeats']} of each, in turns, within a budget of seconds"),
    )


def _checks(model: str, settings: Sequence[Setting], threads: int | None, stored: bool) -> tuple[str, ...]:
    """Commands that compare whole models again, where their names say all."""
    if stored:
        return ()
    limit = f" --threads {threads}" if threads else ""
    found = []
    for setting in settings:
        others = [change.name for change in setting.changes if change.attention and change.edit is None]
        if others and setting.image_size[0] == setting.image_size[1]:
            names = " ".join(map(shlex.quote, (model, *others)))
            batch = f" --batch-size {setting.batch_size}" if setting.batch_size != 1 else ""
            size = f"--image-size {setting.image_size[0]}"
            found.append(f"leanformer bench {names} {size}{batch}{limit} --forms eager --repeats {setting.rounds}")
    return tuple(found)
