"""`leanformer compress`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from leanformer.cli.common import check_free, open_trainable, optional, options_of, quoted


@dataclass(frozen=True, kw_only=True)
class Compress:
    """Apply edits to a trained model, and measure what they changed: outputs, latency, and accuracy if there is
    data."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run directory, or the name of a model with published weights or `--weights`."""
    edit: tyro.conf.UseAppendAction[tuple[str, ...]]
    """An edit: fold_norms. Repeat the option for several, in order."""
    out: Path
    """Directory of the edited model."""
    weights: Annotated[Path | None, optional("PATH", "none")] = None
    """A published weight file for a model's name."""
    data: Annotated[str | None, optional("DATA", "none")] = None
    """Data set whose validation images measure the accuracy before and after."""
    batch_size: int = 1
    """Images in each measured forward pass."""
    repeats: int = 30
    """Measured rounds."""

    def run(self) -> int:
        """Print what was done and what it bought; save the model."""
        from leanformer import api, bench, edits
        from leanformer.checkpoints import runs
        from leanformer.data import open_data
        from leanformer.errors import ConfigError
        from leanformer.tasks import evaluate_images

        if not self.edit:
            raise ConfigError("no edit given; add --edit fold_norms")
        changes = [edits.parse(name) for name in self.edit]
        check_free(self.out)
        before, model = open_trainable(self.model, self.weights), open_trainable(self.model, self.weights)
        for report in api.apply(model, *changes):
            print("\n".join(report.lines))
        runners = [bench.eager_runner("before", before), bench.eager_runner("after", model, same_as="before")]
        compared = bench.compare(
            runners, batch_size=self.batch_size, image_size=model.config.image_size, repeats=self.repeats
        )
        costs = [bench.count_cost(state, model.config.image_size) for state in (before, model)]
        rows = [
            bench.Row(timing=timing, cost=cost, agreement=agreement)
            for timing, cost, agreement in zip(compared.timings, costs, (None, *compared.agreements), strict=True)
        ]
        print(bench.format_text(rows))
        agreement = compared.agreements[0]
        extra = {"max_diff": agreement.max_diff, "relative_diff": agreement.relative_diff}
        if self.data is not None:
            images = open_data(self.data, "val", options_of(self.model, self.data))
            had, has = (evaluate_images(state, images, self.data, 64) for state in (before, model))
            name = had.score_name.replace("-", "")
            extra |= {f"{name}_before": had.score, name: has.score}
            print(f"{had.score_name} {100 * had.score:.2f} % before, {100 * has.score:.2f} % after")
        runs.save(model, self.out, extra={"metrics": extra, "from": self.model})
        out, file = quoted(self.out), quoted(self.out / "model.onnx")
        print(f"saved in {self.out}; next: leanformer export {out} --out {file}")
        return 0 if agreement.passed else 1
