"""What a run writes, what it refuses, and that nano models learn."""

import errno
import json
import logging
import os
from dataclasses import replace

import pytest
import torch

from leanformer.checkpoints import files, runs
from leanformer.config import from_dict, to_dict
from leanformer.data import Augment
from leanformer.data.synthetic import shapes, write_folder
from leanformer.edits import FoldNorms
from leanformer.errors import CheckpointError, ConfigError, DataError, EditError, TrainingError
from leanformer.models import Preprocess
from leanformer.training import AdamW, Constant, Linear, ModelSpec, Scheduled, TrainConfig, WarmUp, fit
from leanformer.training.callbacks import Callback


def test_a_nano_model_learns_colored_shapes(nano_config):
    learns = replace(
        nano_config, epochs=40, batch_size=32, augment=Augment(shift=1), evaluate_every=0, label_smoothing=0.0
    )
    data = shapes(256, 3, 16, seed=0), shapes(90, 3, 16, seed=1)
    result = fit(learns, data=data)
    assert result.metrics["top1"] > 0.95
    assert result.steps == 40 * 8


def test_a_run_leaves_its_config_its_log_and_a_model_that_loads(nano_config, nano_data, read_log):
    result = fit(nano_config, data=nano_data)
    out = nano_config.out
    assert from_dict(json.loads((out / "config.json").read_text()), TrainConfig) == nano_config
    loaded = runs.load(out)
    assert loaded.classes == nano_data[0].classes
    images = torch.randn(3, 3, 16, 16)
    assert torch.equal(loaded(images), result.model(images))
    assert runs.read_record(out)["extra"]["metrics"] == result.metrics
    log = read_log(out)
    assert [record["event"] for record in log].count("epoch") == 3
    assert [record["step"] for record in log if record["event"] == "step"] == [3, 6, 9, 12, 15, 18]
    assert {key: log[-1][key] for key in result.metrics} == result.metrics
    assert {"top1", "ema_top1", "train_loss"} <= log[-2].keys()


def test_edits_may_finish_a_run(nano_config, nano_data):
    folds = replace(nano_config, epochs=1, finish=(*nano_config.finish, FoldNorms()))
    result = fit(folds, data=nano_data)
    assert [edit.kind for edit in result.model.edits] == ["fold_norms"]
    assert torch.equal(runs.load(folds.out)(torch.ones(1, 3, 16, 16)), result.model(torch.ones(1, 3, 16, 16)))


def test_a_finishing_edit_that_will_refuse_does_so_before_training(nano_config, nano_data):
    blend = Scheduled(what="norm_progress", schedule=Linear(start=1.0, end=0.3))
    with pytest.raises(EditError, match=r"still blends 0\.300 of its start norm"):
        fit(replace(nano_config, schedules=(blend,), finish=(FoldNorms(),)), data=nano_data)
    assert not nano_config.out.exists()


def test_the_averaged_model_of_a_run_can_be_trained_further(nano_config, nano_data):
    model = fit(replace(nano_config, epochs=1, ema=0.9), data=nano_data).model
    model(torch.ones(1, 3, 16, 16)).sum().backward()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_same_config_gives_the_same_weights_and_another_seed_others(nano_config, nano_data, tmp_path):
    once = fit(replace(nano_config, epochs=1), data=nano_data).model.state_dict()
    torch.manual_seed(77)
    again = fit(replace(nano_config, epochs=1, out=tmp_path / "again"), data=nano_data).model.state_dict()
    other = fit(replace(nano_config, epochs=1, seed=1, out=tmp_path / "other"), data=nano_data).model.state_dict()
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert not all(torch.equal(once[name], other[name]) for name in once)


def test_a_run_leaves_the_callers_random_numbers_and_switches_alone(plain_config, nano_data):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(replace(plain_config, epochs=1), data=nano_data)
    assert torch.equal(torch.rand(3), expected)
    assert not torch.are_deterministic_algorithms_enabled()


def test_parts_of_a_batch_add_up_to_the_whole(plain_config, nano_data, tmp_path):
    plain = ModelSpec(config=replace(plain_config.model.config, drop_path=0.0))
    config = replace(plain_config, model=plain, epochs=1, optimizer=AdamW(lr=1e-3, eps=1e-3))
    whole = fit(config, data=nano_data).model.state_dict()
    parts = fit(replace(config, accumulate=3, out=tmp_path / "parts"), data=nano_data).model.state_dict()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_close_to_full(precision, plain_config, nano_data, tmp_path):
    full = fit(replace(plain_config, epochs=2), data=nano_data)
    half = fit(replace(plain_config, epochs=2, precision=precision, out=tmp_path / "half"), data=nano_data)
    assert half.metrics["loss"] == pytest.approx(full.metrics["loss"], rel=0.1)
    assert all(value.dtype != torch.bfloat16 for value in half.model.state_dict().values())


def test_the_log_is_json_even_where_a_gradient_overflows(plain_config, nano_data, monkeypatch):
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(float("inf")))
    fit(replace(plain_config, clip=1.0, epochs=1), data=nano_data)
    lines = (plain_config.out / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [record["gradient_norm"] for record in records if record["event"] == "step"] == [None, None]


class AfterEveryStep(Callback):
    def __init__(self, look):
        self.look = look

    def after_step(self, run, step):
        self.look(run, step)


def test_the_rate_of_every_step_is_the_schedule_times_the_base(plain_config, nano_data):
    rates = []
    watch = AfterEveryStep(lambda run, step: rates.append({group["lr"] for group in run.optimizer.param_groups}))
    config = replace(plain_config, lr=WarmUp(schedule=Linear(start=1.0, end=0.0), steps=4), optimizer=AdamW(lr=0.002))
    fit(config, data=nano_data, callbacks=[watch])
    assert [sorted(values) for values in rates] == [[pytest.approx(0.002 * config.lr(step, 18))] for step in range(18)]


def test_a_loss_that_is_not_finite_ends_the_run_and_says_where(plain_config, nano_data):
    def spoil(run, step):
        if step == 4:
            run.model.head.linear.bias.data.fill_(float("nan"))

    with pytest.raises(TrainingError, match=r"loss of step 5 is nan, at learning rate .* lower learning rate"):
        fit(plain_config, data=nano_data, callbacks=[AfterEveryStep(spoil)])


def test_a_directory_that_holds_a_run_is_not_overwritten(plain_config, nano_data):
    short = replace(plain_config, epochs=1)
    fit(short, data=nano_data)
    before = (short.out / "model.json").read_bytes()
    with pytest.raises(ConfigError, match=r"already holds a run.*--resume.*another --out"):
        fit(short, data=nano_data)
    assert (short.out / "model.json").read_bytes() == before


def test_resuming_a_finished_run_says_so_and_returns_it(nano_config, nano_data, caplog):
    short = replace(nano_config, epochs=1)
    first = fit(short, data=nano_data)
    with caplog.at_level(logging.INFO):
        again = fit(short, data=nano_data, resume=True)
    assert "is finished" in caplog.text
    assert (again.metrics, again.steps, again.evaluation) == (first.metrics, first.steps, None)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(again.model(images), first.model(images))


def test_damaged_weights_of_a_finished_run_are_made_again_as_the_message_says(plain_config, nano_data):
    short = replace(plain_config, epochs=1)
    fit(short, data=nano_data)
    weights = short.out / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-50])
    with pytest.raises(CheckpointError, match=r"remove .*model\.json and finish the run again: .* --resume"):
        fit(short, data=nano_data, resume=True)
    (short.out / "model.json").unlink()
    fit(short, data=nano_data, resume=True)
    assert weights.read_bytes() == before


@pytest.mark.parametrize("extra", [{}, None, [], {"metrics": {}, "training": {"steps": 6}}, "more"])
def test_a_finished_run_whose_record_was_edited_is_named_with_a_way_out(extra, plain_config, nano_data):
    short = replace(plain_config, epochs=1)
    fit(short, data=nano_data)
    path = short.out / "model.json"
    record = json.loads(path.read_text())
    more = record["extra"] | {"training": record["extra"]["training"] | {"place": 1}}
    path.write_text(json.dumps(record | {"extra": more if extra == "more" else extra}))
    with pytest.raises(CheckpointError, match=r"model\.json: 'extra' does not say how the run went, found "):
        fit(short, data=nano_data, resume=True)
    path.unlink()
    assert fit(short, data=nano_data, resume=True).steps == 6


def test_resuming_with_another_config_lists_what_differs(plain_config, nano_data):
    fit(replace(plain_config, epochs=1), data=nano_data)
    other = replace(plain_config, epochs=2, optimizer=AdamW(lr=0.5), workers=1)
    with pytest.raises(ConfigError) as caught:
        fit(other, data=nano_data, resume=True)
    message = str(caught.value)
    assert "epochs: 1 -> 2" in message and "optimizer.lr: 0.003 -> 0.5" in message and "workers" not in message


@pytest.mark.parametrize(
    "change, part",
    [
        ({"model": ModelSpec(name="swin_nano", overrides=(("image_size", 50),))}, "image_size 50"),
        ({"model": ModelSpec(name="swin_nan")}, "did you mean swin_nano"),
        ({"model": ModelSpec(name="swin_nano", overrides=(("num_classes", 3),))}, "comes from the data"),
        ({"schedules": (Scheduled(what="norm_progres", schedule=Constant()),)}, "did you mean norm_progress"),
        ({"schedules": ()}, r"modules of the model follow 'norm_progress', but no schedule drives it"),
        ({"device": "cuda"}, "no CUDA device"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_anything_is_written(change, part, nano_config, nano_data):
    if "device" in change and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ConfigError, match=part):
        fit(replace(nano_config, **change), data=nano_data)
    assert not nano_config.out.exists()


def test_missing_data_is_refused_before_anything_is_written(plain_config, tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        fit(replace(plain_config, data=str(tmp_path / "nowhere")))
    assert not plain_config.out.exists()


def test_an_out_that_is_a_file_is_refused(plain_config, nano_data):
    plain_config.out.write_text("notes")
    with pytest.raises(ConfigError, match="is a file"):
        fit(plain_config, data=nano_data)


@pytest.mark.parametrize(
    "change, part",
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"accumulate": 17}, "accumulate must be at most batch_size, 16"),
        ({"ema": 1.5}, "ema must be between 0 and 1"),
        ({"schedules": (Scheduled(what="lr", schedule=Constant()),)}, "two schedules drive lr"),
    ],
)
def test_impossible_values_are_named(change, part, nano_config):
    with pytest.raises(ConfigError, match=part):
        replace(nano_config, **change)


def test_a_full_disk_names_itself_and_leaves_the_last_checkpoint(plain_config, nano_data, monkeypatch):
    real, written = os.fsync, []

    def full_after_six(descriptor):
        written.append(descriptor)
        if len(written) > 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full_after_six)
    with pytest.raises(CheckpointError, match="No space left on device"):
        fit(replace(plain_config, checkpoint_every_steps=1), data=nano_data)
    monkeypatch.undo()
    result = fit(replace(plain_config, checkpoint_every_steps=1), data=nano_data, resume=True)
    assert result.steps == 18


def test_unreadable_images_are_counted_and_each_is_named_once(plain_config, tmp_path, caplog):
    folder = write_folder(tmp_path / "images", num_classes=2, per_class=9, num_val=3, num_unreadable=2, size=20)
    config = replace(plain_config, data=str(folder), augment=None, batch_size=4, epochs=3)
    with caplog.at_level(logging.WARNING):
        result = fit(config)
    assert len(result.skipped) == 2
    named = [record.getMessage() for record in caplog.records if record.getMessage().startswith("skipped")]
    assert len(named) == 2
    assert len(runs.read_record(config.out)["extra"]["training"]["skipped"]) == 2


def test_a_run_may_start_from_another_one_with_other_classes(plain_config, nano_data, tmp_path):
    first = fit(replace(plain_config, epochs=1), data=nano_data).model
    start = replace(plain_config.model, weights=str(plain_config.out))
    frozen = replace(plain_config, model=start, epochs=1, optimizer=AdamW(lr=0.0, weight_decay=0.0), out=tmp_path / "b")
    second = fit(frozen, data=(shapes(48, 6, 16, seed=2), shapes(12, 6, 16, seed=3))).model
    assert second.head.linear.out_features == 6
    for name, value in second.state_dict().items():
        if not name.startswith("head.linear"):
            assert torch.equal(value, first.state_dict()[name]), name


def test_the_image_size_of_the_preprocessing_follows_the_model(plain_config, nano_data):
    asked = Preprocess(image_size=(99, 99), crop=1.0, interpolation="bilinear")
    model = fit(replace(plain_config, epochs=1, preprocess=asked), data=nano_data).model
    assert model.preprocess == replace(asked, image_size=(16, 16))


def test_a_config_survives_json(nano_config):
    assert from_dict(json.loads(json.dumps(to_dict(nano_config))), TrainConfig) == nano_config


def test_the_log_is_readable_whenever_the_run_is_looked_at(plain_config, nano_data):
    def look(run, step):
        text = (run.out / "metrics.jsonl").read_text()
        assert text.count('"event": "step"') == (step + 1) // plain_config.log_every
        assert text == "" or text.endswith("\n")

    fit(plain_config, data=nano_data, callbacks=[AfterEveryStep(look)])
    assert not list(plain_config.out.rglob("*.tmp"))
    assert files.read_json(plain_config.out / "checkpoints" / "latest.json")["step"] == 18
