"""Phases, freezing and ways to compute: what changes, and what does not."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from leanformer.errors import ConfigError
from leanformer.training import AdamW, Linear, ModelSpec, Scheduled, fit
from leanformer.training.callbacks import Callback
from leanformer.training.config import Execution
from leanformer.training.phases import BatchNormPhase

TO_REP_BN = Scheduled(what="norm_progress", schedule=Linear(start=1.0, end=0.0, until=0.5))


class Watch(Callback):
    def __init__(self, look):
        self.look = look
        self.seen = []

    def on_step(self, run, step):
        self.seen.append(self.look(run))


def snapshot(run):
    return {name: value.clone() for name, value in run.model.state_dict().items()}


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_in_the_last_phase_batch_norms_alone_change(affine, precision, nano_config, nano_data):
    config = replace(
        nano_config,
        schedules=(TO_REP_BN,),
        finish=(),
        ema=None,
        precision=precision,
        batch_norm_phase=BatchNormPhase(epochs=1, affine=affine),
    )
    watch = Watch(snapshot)
    model = fit(config, data=nano_data, callbacks=[watch]).model
    before, after = watch.seen[12], model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])} - {"origin"}
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm1d)}
    statistics = {f"{name}.{key}" for name in norms for key in ("running_mean", "running_var", "num_batches_tracked")}
    weights = {f"{name}.{key}" for name in norms for key in ("weight", "bias")} if affine else set()
    assert norms and changed == statistics | weights
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_frozen_parameters_and_the_statistics_under_them_rest(nano_config, nano_data):
    frozen = ("backbone.stages.0.blocks.0.*", "backbone.stem.*")
    config = replace(nano_config, model=replace(nano_config.model, freeze=frozen), finish=(), epochs=1, ema=None)
    watch = Watch(snapshot)
    model = fit(config, data=nano_data, callbacks=[watch]).model
    for name, value in model.state_dict().items():
        rests = name.startswith(("backbone.stages.0.blocks.0.", "backbone.stem.")) and "progress" not in name
        if rests:
            assert torch.equal(value, watch.seen[0][name]), name
    assert not torch.equal(model.head.linear.weight, watch.seen[0]["head.linear.weight"])


@pytest.mark.parametrize("affine", [True, False])
def test_in_the_last_phase_frozen_batch_norms_go_on_resting(affine, nano_config, nano_data):
    config = replace(
        nano_config,
        model=replace(nano_config.model, freeze=("backbone.stages.0.blocks.0.*",)),
        schedules=(TO_REP_BN,),
        finish=(),
        ema=None,
        batch_norm_phase=BatchNormPhase(epochs=2, affine=affine),
    )
    watch = Watch(snapshot)
    model = fit(config, data=nano_data, callbacks=[watch]).model
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm1d)}
    before, after = watch.seen[0], model.state_dict()
    moved = {name for name in norms if not torch.equal(after[f"{name}.running_mean"], before[f"{name}.running_mean"])}
    assert moved == {name for name in norms if "blocks.0." not in name} != norms


def test_freezing_what_is_not_there_is_an_error(nano_config, nano_data):
    with pytest.raises(ConfigError, match=r"freeze: no parameter of the model fits 'stem"):
        fit(replace(nano_config, model=replace(nano_config.model, freeze=("stem.*",))), data=nano_data)


def test_drop_path_follows_its_schedule(plain_config, nano_data):
    ramp = Scheduled(what="drop_path", schedule=Linear(start=0.0, end=1.0))
    watch = Watch(lambda run: run.model.backbone.stages[0].blocks[1].attn.drop_path.rate)
    fit(replace(plain_config, schedules=(ramp,)), data=nano_data, callbacks=[watch])
    assert watch.seen == pytest.approx([0.2 * step / 18 for step in range(18)])


@pytest.mark.parametrize(
    "execution", [Execution(channels_last=True), Execution(checkpointing=True), Execution(compile=True)], ids=str
)
def test_how_a_model_is_computed_does_not_change_what_it_learns(execution, plain_config, nano_data, tmp_path):
    spec = ModelSpec(config=replace(plain_config.model.config, drop_path=0.0))
    config = replace(plain_config, model=spec, epochs=1, optimizer=AdamW(lr=1e-3, eps=1e-3))
    plain = fit(config, data=nano_data).model.state_dict()
    other = fit(replace(config, execution=execution, out=tmp_path / "other"), data=nano_data).model.state_dict()
    for name, value in plain.items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5)


def test_a_compiled_model_has_no_drop_path_schedule(plain_config):
    ramp = Scheduled(what="drop_path", schedule=Linear(start=0.0, end=1.0))
    with pytest.raises(ConfigError, match="leave out compile or drop_path"):
        replace(plain_config, schedules=(ramp,), execution=Execution(compile=True))
