"""Attention fades out over a run: the same whether the run is stopped on the way or its batches come in parts, and
nothing is judged before it is gone."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
import torch

import leanformer
from leanformer.edits import DiluteAttention, RemoveAttention
from leanformer.edits.sites import block_sites
from leanformer.errors import ConfigError
from leanformer.layers.branch import DilutedBranch, Rescale
from leanformer.recipes import default_recipe
from leanformer.recipes.dilution import diluted, with_removal
from leanformer.training import SGD, EarlyStopping, Interrupted, Linear, PerEpoch, Scheduled, fit
from leanformer.training.callbacks import Callback

SHARE = Linear(start=1.0, end=0.0, until=0.6)
FADING = Scheduled(what="attention_share", schedule=SHARE)


@pytest.fixture
def diluted_config(nano_config):
    """Progressive norms and dilution together, averaged."""
    model = replace(nano_config.model, edits=(DiluteAttention(blocks=(1,)),))
    schedules, finish = (*nano_config.schedules, FADING), (RemoveAttention(blocks=(1,)), *nano_config.finish)
    return replace(nano_config, model=model, schedules=schedules, finish=finish)


class StopAt(Callback):
    """Ctrl-C in the middle of a step."""

    def __init__(self, stop):
        self.stop = stop

    def on_step(self, run, step):
        if step == self.stop:
            os.kill(os.getpid(), signal.SIGINT)


class Watch(Callback):
    """Notes what the branches of the model and of its averaged copy have after each step."""

    def __init__(self):
        self.seen = {}

    def after_step(self, run, step):
        found = {
            (module.share.item(), module.gone)
            for model in (run.model, run.ema)
            if model is not None
            for module in model.modules()
            if isinstance(module, DilutedBranch)
        }
        self.seen[step] = found


def weights(out):
    return (out / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("step", "accumulate"), [(4, 1), (11, 3)])
def test_a_diluted_run_that_was_stopped_ends_as_an_undisturbed_one(
    step, accumulate, diluted_config, nano_data, read_log, tmp_path
):
    config = replace(diluted_config, accumulate=accumulate)
    straight = replace(config, out=tmp_path / "straight")
    fit(straight, data=nano_data)
    with pytest.raises(Interrupted):
        fit(config, data=nano_data, callbacks=[StopAt(step)])
    fit(config, data=nano_data, resume=True)
    assert weights(config.out) == weights(straight.out)
    assert read_log(config.out) == read_log(straight.out)


def test_the_share_is_that_of_the_step_in_the_averaged_copy_too(diluted_config, nano_data):
    watch = Watch()
    fit(replace(diluted_config, accumulate=4), data=nano_data, callbacks=[watch])
    assert sorted(watch.seen) == list(range(18))
    for step, found in watch.seen.items():
        share = SHARE(step, 18)
        assert list(found) == [(pytest.approx(share, abs=1e-7), share == 0.0)]


def test_the_share_may_change_once_in_an_epoch(diluted_config, nano_data):
    by_epoch = replace(FADING, schedule=PerEpoch(schedule=SHARE))
    watch = Watch()
    fit(
        replace(diluted_config, schedules=(diluted_config.schedules[0], by_epoch), ema=None),
        data=nano_data,
        callbacks=[watch],
    )
    shares = [share for found in watch.seen.values() for share, _ in found]
    assert shares == pytest.approx([1.0] * 6 + [1 - 1 / 1.8] * 6 + [0.0] * 6)


def test_the_finished_model_has_lost_the_attention_and_comes_back(diluted_config, nano_data):
    model = fit(diluted_config, data=nano_data).model
    kinds = [type(site.block.attn).__name__ for site in block_sites(model)]
    assert kinds == ["Branch", "Rescale"]
    back = leanformer.load(diluted_config.out)
    assert back.edits == [DiluteAttention(blocks=(1,)), RemoveAttention(blocks=(1,))]
    image = torch.randn(3, 3, 16, 16)
    assert torch.equal(back(image), model(image))


def test_a_removal_before_the_attention_is_gone_is_refused_before_training(diluted_config, nano_data):
    half = Scheduled(what="attention_share", schedule=Linear(start=1.0, end=0.25))
    config = replace(diluted_config, schedules=(diluted_config.schedules[0], half))
    with pytest.raises(leanformer.errors.EditError, match="still has 0.250 of its attention"):
        fit(config, data=nano_data)
    assert not config.out.exists()


def test_dilution_without_a_schedule_is_refused_with_the_way_out(diluted_config, nano_data):
    with pytest.raises(ConfigError, match="1 modules of the model follow 'attention_share', but no schedule drives it"):
        fit(replace(diluted_config, schedules=diluted_config.schedules[:1]), data=nano_data)


def test_a_run_starts_from_one_whose_attention_was_removed(plain_config, nano_data, tmp_path):
    first = fit(diluted(replace(plain_config, epochs=1), (1,)), data=nano_data)
    config = replace(plain_config, out=tmp_path / "further", epochs=1, optimizer=SGD(lr=0.0))
    config = replace(config, model=replace(config.model, weights=str(first.out)))
    further = fit(diluted(config, (0,)), data=nano_data).model
    assert [type(site.block.attn) for site in block_sites(further)] == [Rescale, Rescale]
    image = torch.randn(3, 3, 16, 16)
    leanformer.apply(first.model, RemoveAttention(blocks=(0,)))
    torch.testing.assert_close(further(image), first.model(image))
    assert torch.equal(leanformer.load(config.out)(image), further(image))


def test_a_run_gets_what_belongs_to_its_dilution(plain_config):
    config = diluted(plain_config, (1, 0), form="skip")
    assert config.model.edits == (DiluteAttention(blocks=(1, 0), form="skip"),)
    assert config.finish == (RemoveAttention(blocks=(1, 0), form="skip"),)
    (fading,) = config.schedules
    assert (fading.what, fading.schedule(0, 400), fading.schedule(299, 400)) == ("attention_share", 1.0, 0.0)
    assert with_removal(config) == config
    assert with_removal(plain_config) == plain_config
    own = replace(config, schedules=(FADING,))
    assert with_removal(replace(own, finish=())) == own
    assert diluted(config, (2,)).finish == (RemoveAttention(blocks=(2,)), *config.finish)
    assert default_recipe(config.model, config.out).finish == config.finish


@pytest.mark.parametrize("stop", [None, 23])
def test_evaluations_count_once_the_attention_is_gone_even_if_the_run_is_stopped(stop, plain_config, nano_data):
    """18 steps of fading, then an evaluation and two more that are not better."""
    fading = Scheduled(what="attention_share", schedule=Linear(start=1.0, end=0.0, until=0.3))
    config = replace(
        diluted(replace(plain_config, schedules=(fading,)), (1,)),
        epochs=10,
        optimizer=SGD(lr=0.0),
        early_stopping=EarlyStopping(patience=2),
    )
    if stop is not None:
        with pytest.raises(Interrupted):
            fit(config, data=nano_data, callbacks=[StopAt(stop)])
    assert fit(config, data=nano_data, resume=True).steps == 36
