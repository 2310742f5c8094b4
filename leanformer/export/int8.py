"""int8 for OpenVINO: ranges from calibration images, a gate on the accuracy, and layers that stay in float where
it asks for it. Quantised by NNCF."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from leanformer.errors import ExportError
from leanformer.export.files import folder_beside, move_in
from leanformer.export.format import Graph
from leanformer.export.metadata import describe
from leanformer.export.openvino import (
    CompiledClassifier,
    OpenVino,
    OpenVinoClassifier,
    compile_graph,
    convert,
    require_untracked,
    save_graph,
    spelt_out,
)
from leanformer.export.program import device_of, evaluation_mode, trace
from leanformer.export.verify import fixed_images
from leanformer.export.writing import quiet

LAYERS = frozenset({"MatMul", "Convolution", "GroupConvolution"})
INTEGERS = frozenset({"i8", "u8", "i4", "u4"})


class Score(NamedTuple):
    """How well a classifier does on some images."""

    value: float
    """0 to 1."""
    of_each: list[float]
    """Of each image."""


@dataclass(frozen=True, kw_only=True)
class Int8Report:
    """What was quantised and what it cost."""

    path: Path
    size_bytes: int
    """Of both files."""
    graph: Graph
    image_size: tuple[int, int]
    layers: dict[str, bool]
    """The modules with weights, and whether each is in int8."""
    before: float
    """Score of the model, 0 to 1."""
    after: float
    """Score of the file."""
    num_images: int
    seconds: float

    @property
    def float_layers(self) -> tuple[str, ...]:
        """The modules that stayed in float."""
        return tuple(name for name, is_int in self.layers.items() if not is_int)

    def lines(self) -> tuple[str, ...]:
        """The report in sentences, for a person."""
        height, width = self.image_size
        kept = f"in float: {', '.join(self.float_layers)}" if self.float_layers else "none in float"
        lost = 100 * (self.after - self.before)
        return (
            f"{self.path}: {self.graph.title}, int8, {self.size_bytes / 1e6:.2f} MB, {height} x {width} images",
            f"{sum(self.layers.values())} of {len(self.layers)} layers in int8; {kept}",
            f"accuracy {100 * self.before:.2f} -> {100 * self.after:.2f} % ({lost:+.2f}) on {self.num_images:,} images",
        )


def export_int8(
    model: nn.Module,
    path: str | Path,
    *,
    image_size: int | tuple[int, int],
    calibration: Iterable[Tensor],
    score: Callable[[nn.Module], Score],
    max_drop: float = 0.5,
    dynamic_batch: bool = True,
) -> Int8Report:
    """Write `model` in evaluation mode as an OpenVINO file whose layers compute in int8, and measure what that costs.

    If all layers in int8 lose too much, layers are put back into float, those first that change the outputs most.

    Args:
        path: ends in .xml.
        calibration: batches (B, 3, H, W) from which the ranges of activations are taken; some hundred images.
        score: how well a classifier does; it is called with the model and with quantised ones.
        max_drop: points that may be lost.

    Raises:
        ExportError: if the model cannot be expressed, there are no calibration images, or the file that was written
            loses more. It is then kept as `<path>.unverified`, and whatever `path` held before is untouched.
    """
    started, path = time.perf_counter(), Path(path)
    ranges = _checked(path, calibration, max_drop)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    example, metadata = fixed_images(1, size).to(device_of(model)), describe(model)
    before = score(model)

    def measure(compiled: Any) -> Score:
        return score(CompiledClassifier(compiled, metadata, path, torch.get_num_threads()))

    with _hushed(), evaluation_mode(model):
        program = spelt_out(trace(model, example, dynamic_batch=dynamic_batch))
        converted = convert(program, example, dynamic_batch)
        held = _quantise(converted, ranges, measure, before.value, max_drop / 100)
    with folder_beside(path) as folder:
        written = folder / path.name
        graph = save_graph(held, written, metadata)
        after = score(OpenVinoClassifier(written))
        size_bytes = sum(file.stat().st_size for file in folder.iterdir())
        kept = 100 * (before.value - after.value) <= max_drop + 1e-9
        move_in(written, path, "" if kept else ".unverified")
    if not kept:
        raise ExportError(
            f"{path.name} in int8 loses {100 * (before.value - after.value):.2f} points, more than {max_drop:g}; kept "
            f"as {path}.unverified. Give more calibration images, allow a larger drop, or stay in float32"
        )
    return Int8Report(
        path=path,
        size_bytes=size_bytes,
        graph=graph,
        image_size=size,
        layers=dict(_layers(held, _modules(program))),
        before=before.value,
        after=after.value,
        num_images=len(before.of_each),
        seconds=time.perf_counter() - started,
    )


def _checked(path: Path, calibration: Iterable[Tensor], max_drop: float) -> list[Any]:
    """The calibration images as arrays, if all that was asked for can be."""
    if path.suffix != OpenVino.suffix:
        raise ExportError(f"{path}: int8 files are OpenVINO's, whose names end in {OpenVino.suffix}")
    if max_drop < 0:
        raise ExportError(f"max_drop must be 0 or more points, got {max_drop}")
    ranges = [batch.detach().float().cpu().numpy() for batch in calibration]
    if not ranges:
        raise ExportError("there are no calibration images; int8 takes its ranges from some hundred of them")
    return ranges


def _quantise(
    converted: Any, ranges: list[Any], measure: Callable[[Any], Score], before: float, max_drop: float
) -> Any:
    """The graph in int8, with as many layers in float as it takes to lose at most `max_drop`."""
    nncf = require_untracked("nncf", extra="quantize")
    shared = {"model_type": nncf.ModelType.TRANSFORMER, "subset_size": len(ranges)}
    whole = nncf.quantize(converted, nncf.Dataset(ranges), **shared)
    if before - measure(compile_graph(whole, torch.get_num_threads())).value <= max_drop:
        return whole

    def validate(compiled: Any, _: object) -> Score:
        return measure(compiled)

    images = nncf.Dataset(ranges)  # `validate` has its own
    # No scales move from activations into weights: a layer that is put back would forget them, and compute nonsense.
    parameters = require_untracked("nncf.quantization.advanced_parameters", extra="quantize")
    unmoved = parameters.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
    plain = nncf.AdvancedQuantizationParameters(smooth_quant_alphas=unmoved)
    return nncf.quantize_with_accuracy_control(
        converted, images, images, validate, max_drop=max_drop, advanced_quantization_parameters=plain, **shared
    )


def _layers(held: Any, modules: dict[str, str]) -> Iterator[tuple[str, bool]]:
    """Name and whether it is in int8, of each layer with weights."""
    for op in held.get_ordered_ops():
        if op.get_type_name() in LAYERS and (kind := _kind_of_weights(op)) is not None:
            name = op.get_friendly_name().partition("/")[0]
            yield modules.get(name) or name, kind in INTEGERS


def _kind_of_weights(op: Any) -> str | None:
    """Element type of a layer's weights as they are stored; None for a product of two activations."""
    source = op.input_value(1).get_node()
    while source.get_type_name() in ("Convert", "Multiply", "Subtract", "Reshape", "FakeQuantize"):
        source = source.input_value(0).get_node()
    return source.get_element_type().get_type_name() if source.get_type_name() == "Constant" else None


def _modules(program: ExportedProgram) -> dict[str, str]:
    """The module that each node of a program comes from, by the name that the converter gives it."""
    found: dict[str, str] = {}
    for node in program.graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if stack:
            found[node.name.replace("conv2d", "convolution")] = list(stack.values())[-1][0]
    return found


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Silence NNCF, which reports its progress."""
    with quiet():
        require_untracked("nncf", extra="quantize")
        log = logging.getLogger("nncf")
        level = log.level
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)
