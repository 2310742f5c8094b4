"""`leanformer bench`."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from leanformer.cli.common import open_trainable, optional

if TYPE_CHECKING:
    from torch import nn

    from leanformer.bench import Cost, Runner
    from leanformer.models import ImageClassifier

    Measured = tuple[Runner, Cost | None]
    """What is measured, and what it costs on paper."""

Form = Literal["eager", "folded", "onnx", "openvino", "executorch", "inductor"]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure latency, parameters and MACs of models, all interleaved in one process.

    Each model is measured as it is, with its norms folded where they fold, and exported to ONNX; `--forms` adds others.
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL ...")]
    """Run directories, exported files (.onnx, .xml, .pte), or names of models, with random weights: ours, or timm's."""
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
    csv: Annotated[Path | None, optional("PATH", "none")] = None
    """Also write all figures to this file, one line for each row."""

    def run(self) -> int:
        """Print the table and how it was measured; 1 if outputs that should agree do not."""
        from leanformer import bench
        from leanformer.checkpoints.files import write_text
        from leanformer.errors import ConfigError

        if not self.models:
            raise ConfigError("no model given: leanformer bench MODEL ...")
        if not self.forms:
            raise ConfigError("no form given: --forms eager folded onnx openvino executorch inductor, or some of them")
        opened = [(name, *self._open(name)) for name in self.models]
        sizes = {size for _, _, size in opened}
        if len(sizes) > 1:
            raise ConfigError(f"the models take images of different sizes, {sorted(sizes)}; measure them one by one")
        size = sizes.pop()
        settings = {
            "batch_size": self.batch_size, "image_size": size, "warmup": self.warmup,
            "repeats": self.repeats, "threads": self.threads,
        }  # fmt: skip
        failed: list[str] = []
        with tempfile.TemporaryDirectory() as folder:
            found = [
                each for name, model, _ in opened for each in self._runners(name, model, size, Path(folder), failed)
            ]
            compared = bench.compare([runner for runner, _ in found], **settings)
        agreements = {agreement.name: agreement for agreement in compared.agreements}
        rows = [
            bench.Row(timing=timing, cost=cost, agreement=agreements.get(timing.name))
            for timing, (_, cost) in zip(compared.timings, found, strict=True)
        ]
        method = bench.record_method(**settings)
        if self.markdown is not None:
            said = "".join(f"\n{line}\n" for line in (*compared.disturbances, *failed))
            write_text(self.markdown, bench.format_markdown(rows, method) + said)
        if self.csv is not None:
            write_text(self.csv, bench.format_csv(rows))
        if self.json:
            print(bench.format_json(rows, method, (*compared.disturbances, *failed)))
        else:
            print("\n".join([bench.format_text(rows), *compared.disturbances, *failed]))
            print("\n".join(f"{name}: {value}" for name, value in method.rows()))
        return 0 if not failed and all(agreement.passed for agreement in compared.agreements) else 1

    def _runners(
        self, name: str, model: nn.Module, size: tuple[int, int], folder: Path, failed: list[str]
    ) -> list[Measured]:
        """The forms of one model, with their cost; sentences on those that could not be had go to `failed`."""
        from leanformer import bench
        from leanformer.errors import ConfigError
        from leanformer.export import ExportedClassifier

        if isinstance(model, ExportedClassifier):
            return [(bench.Runner(name=name, call=model, threads=model.threads), None)]
        threads = self.threads or _torch_threads()
        found = measured_forms(model, name, self.forms, size, folder, threads, failed)
        if not found and failed:
            raise ConfigError("nothing is left to measure: " + "; ".join(failed))
        if not found:
            raise ConfigError(f"{name} has no norm that folds; measure it with --forms eager, onnx or openvino")
        return found

    def _open(self, name: str) -> tuple[nn.Module, tuple[int, int]]:
        """A model, and the (height, width) of its images."""
        from leanformer import api
        from leanformer.bench.others import build_timm_model, has_timm_model
        from leanformer.export import open_exported
        from leanformer.zoo.resolve import is_stored, kind_of

        if kind_of(name) == "exported":
            exported = open_exported(name, threads=self.threads)
            return exported, exported.image_size
        if is_stored(name):
            model = open_trainable(name)
        elif name not in api.list_models() and has_timm_model(name):
            return build_timm_model(name, self.image_size)
        else:
            model = api.build(name, **({} if self.image_size is None else {"image_size": self.image_size})).eval()
        return model, model.config.image_grid


def measured_forms(
    model: nn.Module, name: str, forms: tuple[Form, ...], size: tuple[int, int], folder: Path, threads: int,
    failed: list[str],
) -> list[Measured]:  # fmt: skip
    """Runners of a model as it is, folded and exported, each to give the same outputs; with the cost of ours.

    Models with random weights have random, unfinished norms: their progress is set to the end, so that they fold.
    """
    import copy

    from leanformer import bench, edits
    from leanformer.errors import EditError, ExportError
    from leanformer.export import FORMATS, export_model
    from leanformer.models import ImageClassifier

    ours = isinstance(model, ImageClassifier)
    found: list[Measured] = []
    reference, newest = None, model
    if "eager" in forms:
        found.append((bench.eager_runner(name, model), bench.count_cost(model, size) if ours else None))
        reference = name
    if "folded" in forms and ours:
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
        try:
            export_model(newest, path, image_size=size)
        except ExportError as error:
            failed.append(f"{label} is not measured: {str(error).partition('; kept as ')[0]}")
            continue
        call = format.open(path, threads)
        found.append((bench.Runner(name=label, call=call, threads=threads, same_as=reference), None))
    return found


def _finish_schedules(model: ImageClassifier) -> None:
    for module in model.modules():
        if getattr(module, "scheduled", None) == "norm_progress":
            module.set_scheduled(0.0)  # type: ignore[operator]


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()
