"""Every ingredient of a run survives being stopped anywhere: the weights end as those of an undisturbed run."""

from dataclasses import replace

import pytest
import torch

import leanformer
from leanformer.data.mixing import Mixing
from leanformer.models import Preprocess
from leanformer.models.vit import ViT
from leanformer.tasks import Distill
from leanformer.training import AdamW, Groups, Linear, ModelSpec, Scheduled, TimmOptimizer, fit
from leanformer.training.callbacks import Callback
from leanformer.training.clipping import Clip
from leanformer.training.config import Execution
from leanformer.training.guard import EarlyStopping, Guard
from leanformer.training.phases import BatchNormPhase


class PowerCut(Exception):
    pass


class StopBefore(Callback):
    def __init__(self, step):
        self.step = step

    def on_step(self, run, step):
        if step == self.step:
            raise PowerCut


def with_lamb(config, tmp_path):
    groups = Groups(layer_decay=0.8, decayed=("*.alpha",))
    return replace(config, optimizer=TimmOptimizer(name="lamb", lr=3e-3, groups=groups))


def with_mixing(config, tmp_path):
    return replace(config, mixing=Mixing(mode="elem"), accumulate=3, loss="binary_cross_entropy")


def with_teacher(config, tmp_path):
    teacher = leanformer.build(ViT(image_size=16, patch_size=8, dim=12, depth=1, num_heads=1, num_classes=4))
    leanformer.save(teacher, tmp_path / "teacher")
    spec = ModelSpec(config=replace(config.model.config, distilled=True, pool="token"))
    return replace(config, model=spec, distill=Distill(teacher=str(tmp_path / "teacher")), mixing=Mixing())


def with_guard(config, tmp_path):
    return replace(config, guard=Guard(after=3, explosion=100.0), clip=Clip(limit=0.05, by="adaptive"))


def with_a_last_phase(config, tmp_path):
    drop = Scheduled(what="drop_path", schedule=Linear(start=0.0, end=1.0))
    return replace(
        config,
        schedules=(*config.schedules, drop),
        batch_norm_phase=BatchNormPhase(epochs=1, affine=True),
        execution=Execution(checkpointing=True, channels_last=True),
        early_stopping=EarlyStopping(patience=5),
    )


INGREDIENTS = [with_lamb, with_mixing, with_teacher, with_guard, with_a_last_phase]


@pytest.mark.parametrize("change", INGREDIENTS, ids=lambda change: change.__name__)
def test_a_stopped_run_ends_as_an_undisturbed_one(change, nano_config, nano_data, tmp_path):
    config = change(nano_config, tmp_path)
    straight = fit(replace(config, out=tmp_path / "straight"), data=nano_data).model.state_dict()
    for step in (6, 10):
        with pytest.raises(PowerCut):
            fit(config, data=nano_data, resume=True, callbacks=[StopBefore(step)])
    resumed = fit(config, data=nano_data, resume=True).model.state_dict()
    assert all(torch.equal(resumed[name], value) for name, value in straight.items())


def test_parts_of_a_mixed_batch_add_up_to_the_whole(plain_config, nano_data, tmp_path):
    spec = ModelSpec(config=replace(plain_config.model.config, drop_path=0.0))
    config = replace(plain_config, model=spec, epochs=1, mixing=Mixing(), optimizer=AdamW(lr=1e-3, eps=1e-3))
    whole = fit(config, data=nano_data).model.state_dict()
    parts = fit(replace(config, accumulate=4, out=tmp_path / "parts"), data=nano_data).model.state_dict()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-5)


def test_the_second_classifier_alone_learns_from_the_teacher(plain_config, nano_data, tmp_path):
    config = with_teacher(plain_config, tmp_path)
    config = replace(config, preprocess=Preprocess(image_size=(16, 16), mean=(0.0,) * 3, std=(1.0,) * 3), epochs=1)
    kept = fit(replace(config, distill=replace(config.distill, share=1.0)), data=nano_data).model
    torch.manual_seed(0)
    assert kept.head.separate is False
    biases = kept.head.linear.bias, kept.head.distillation.bias
    assert biases[0].abs().max() == 0 and biases[1].abs().max() > 0
