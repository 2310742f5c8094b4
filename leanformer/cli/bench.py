"""`leanformer bench`."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from leanformer.cli.common import open_trainable, optional

if TYPE_CHECKING:
    from leanformer.bench import Cost, Runner
    from leanformer.export import ExportedClassifier
    from leanformer.models import ImageClassifier

    Measured = tuple[Runner, Cost | None]
    """What is measured, and what it costs on paper."""

Form = Literal["eager", "folded", "onnx", "openvino"]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure latency, parameters and MACs of models, all interleaved in one process.

    Each model is measured as it is, with its norms folded where they fold, and exported to ONNX; `--forms` adds others.
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL ...")]
    """Run directories, exported files (.onnx, .xml), or names of models (with random weights)."""
    forms: tuple[Form, ...] = ("eager", "folded", "onnx")
    """The forms of each model to measure."""
    batch_size: int = 1
    """Images in each forward pass."""
    image_size: Annotated[int | None, optional("PIXELS", "the model's")] = None
    """Side of the images in pixels, for names of models."""
    warmup: int = 5
    """Rounds before the measured ones."""
    repeats: int = 50
    """Measured rounds."""
    threads: Annotated[int | None, optional("N", "torch's")] = None
    """Threads of torch and of the other runtimes; all that torch takes by default."""
    json: bool = False
    """Print JSON."""
    markdown: Annotated[Path | None, optional("PATH", "none")] = None
    """Also write the table and the method record to this file."""

    def run(self) -> int:
        """Print the table and how it was measured; 1 if outputs that should agree do not."""
        from leanformer import bench
        from leanformer.checkpoints.files import write_text
        from leanformer.errors import ConfigError

        if not self.models:
            raise ConfigError("no model given: leanformer bench MODEL ...")
        if not self.forms:
            raise ConfigError("no form given: --forms eager folded onnx openvino, or some of them")
        opened = [(name, self._open(name)) for name in self.models]
        sizes = {_image_size(model) for _, model in opened}
        if len(sizes) > 1:
            raise ConfigError(f"the models take images of different sizes, {sorted(sizes)}; measure them one by one")
        settings = {
            "batch_size": self.batch_size, "image_size": sizes.pop(), "warmup": self.warmup,
            "repeats": self.repeats, "threads": self.threads,
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            found = [found for name, model in opened for found in self._runners(name, model, Path(folder))]
            compared = bench.compare([runner for runner, _ in found], **settings)
        agreements = {agreement.name: agreement for agreement in compared.agreements}
        rows = [
            bench.Row(timing=timing, cost=cost, agreement=agreements.get(timing.name))
            for timing, (_, cost) in zip(compared.timings, found, strict=True)
        ]
        method = bench.record_method(**settings)
        if self.json:
            print(bench.format_json(rows, method))
        else:
            print(bench.format_text(rows))
            print("\n".join(f"{name}: {value}" for name, value in method.rows()))
        if self.markdown is not None:
            write_text(self.markdown, bench.format_markdown(rows, method))
        return 0 if all(agreement.passed for agreement in compared.agreements) else 1

    def _runners(self, name: str, model: ImageClassifier | ExportedClassifier, folder: Path) -> list[Measured]:
        """The forms of one model, with their cost."""
        from leanformer import bench
        from leanformer.errors import ConfigError
        from leanformer.export import ExportedClassifier

        if isinstance(model, ExportedClassifier):
            return [(bench.Runner(name=name, call=model, threads=model.threads), None)]
        found = measured_forms(model, name, self.forms, folder, self.threads or _torch_threads())
        if not found:
            raise ConfigError(f"{name} has no norm that folds; measure it with --forms eager, onnx or openvino")
        return found

    def _open(self, name: str) -> ImageClassifier | ExportedClassifier:
        from leanformer import api
        from leanformer.export import open_exported
        from leanformer.zoo.resolve import is_stored, kind_of

        if kind_of(name) == "exported":
            return open_exported(name, threads=self.threads)
        if is_stored(name):
            return open_trainable(name)
        return api.build(name, **({} if self.image_size is None else {"image_size": self.image_size})).eval()


def measured_forms(
    model: ImageClassifier, name: str, forms: tuple[Form, ...], folder: Path, threads: int
) -> list[Measured]:
    """Runners of a model as it is, folded and exported, each to give the same outputs; with their cost.

    Models with random weights have random, unfinished norms: their progress is set to the end, so that they fold.
    """
    import copy

    from leanformer import bench, edits
    from leanformer.errors import EditError
    from leanformer.export import FORMATS, export_model

    size = model.config.image_grid
    found: list[Measured] = []
    reference, newest = None, model
    if "eager" in forms:
        found.append((bench.eager_runner(name, model), bench.count_cost(model, size)))
        reference = name
    if "folded" in forms:
        folded = copy.deepcopy(model)
        if not model.origin:
            _finish_schedules(folded)
        try:
            edits.apply(folded, edits.FoldNorms())
        except EditError:  # nothing that folds
            pass
        else:
            label = f"{name} folded"
            found.append((bench.eager_runner(label, folded, same_as=reference), bench.count_cost(folded, size)))
            reference, newest = reference or label, folded
    for format in (FORMATS[form] for form in forms if form in FORMATS):
        label = f"{name}{' folded' if newest is not model else ''} {format.name}"
        path = folder / f"{len(list(folder.iterdir()))}{format.suffix}"
        export_model(newest, path, image_size=size)
        call = format.open(path, threads)
        found.append((bench.Runner(name=label, call=call, threads=threads, same_as=reference), None))
    return found


def _image_size(model: ImageClassifier | ExportedClassifier) -> tuple[int, int]:
    from leanformer.export import ExportedClassifier

    return model.image_size if isinstance(model, ExportedClassifier) else model.config.image_grid


def _finish_schedules(model: ImageClassifier) -> None:
    for module in model.modules():
        if getattr(module, "scheduled", None) == "norm_progress":
            module.set_scheduled(0.0)  # type: ignore[operator]


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()
