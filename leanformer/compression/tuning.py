"""Training a changed model until it has recovered: attention fades out, and the original teaches."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from leanformer.checkpoints import runs
from leanformer.config import to_dict
from leanformer.data import Augment, DataOptions
from leanformer.edits import DiluteAttention, Edit, RemoveAttention
from leanformer.models import ImageClassifier
from leanformer.recipes import default_recipe
from leanformer.tasks import Distill
from leanformer.training import AdamW, Cosine, Linear, ModelSpec, Scheduled, TrainConfig, WarmUp, fit

FADED = 0.5
"""Share of the training after which no attention is left of what is removed."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How a changed model is trained."""

    data: str
    options: DataOptions
    augment: Augment | None
    epochs: int = 10
    lr: float = 2e-3
    batch_size: int = 64
    workers: int = 0
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @property
    def key(self) -> str:
        """What tells a training from others of the same changes: all but where and how images are read."""
        told = dataclasses.replace(self, workers=0, device="auto")
        return json.dumps(to_dict(told), sort_keys=True)

    def run(self, original: Path, model: ImageClassifier, changes: Sequence[Edit], out: Path) -> ImageClassifier:
        """The model in the folder `original` with `changes`, trained with the original as its teacher; a run in `out`
        that was stopped goes on, a finished one is taken.

        Attention that is removed is first diluted. Token merging is left to the time after, where attention is removed
        as well: which blocks merge follows from those that have attention.

        Args:
            model: the original, for its config and its name.
        """
        config = self._config(original, model, changes, out)
        begun = (out / "config.json").exists()
        result = fit(config, resume=begun, resume_command="the same command again")
        result.model.name = model.name
        return result.model.to(next(model.parameters()).device)

    def _config(self, original: Path, model: ImageClassifier, changes: Sequence[Edit], out: Path) -> TrainConfig:
        removals = [change for change in changes if isinstance(change, RemoveAttention)]
        late = [change for change in changes if change.kind == "merge_tokens"] if removals else []
        before = tuple(change for change in changes if change not in removals and change not in late)
        spec = ModelSpec(config=model.config, weights=str(original), edits=before)
        config = default_recipe(spec, out)
        dilutions = tuple(DiluteAttention(blocks=removal.blocks, form=removal.form) for removal in removals)
        fading = Scheduled(what="attention_share", schedule=Linear(start=1.0, end=0.0, until=FADED))
        several = self.options.multi_label
        changed: dict[str, Any] = {
            "model": dataclasses.replace(spec, edits=(*before, *dilutions)),
            "data": self.data,
            "data_options": self.options,
            "preprocess": model.preprocess,
            "augment": self.augment,
            "optimizer": AdamW(lr=self.lr, weight_decay=0.05),
            "lr": WarmUp(schedule=Cosine(), fraction=0.05),
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "distill": None if several else Distill(teacher=str(original), target="soft", share=0.5, temperature=2.0),
            "schedules": (*config.schedules, *((fading,) if removals else ())),
            "finish": (*removals, *config.finish, *late),
            "seed": self.seed,
            "workers": self.workers,
            "device": self.device,
            "evaluate_every": 0,
        }
        return dataclasses.replace(config, **changed)


def keep_original(model: ImageClassifier, folder: Path) -> Path:
    """The model as a folder that training can start from, written once."""
    if not (folder / runs.RECORD).exists():
        runs.save(model, folder)
    return folder
