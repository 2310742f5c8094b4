"""A run's loss and the weights of its classes follow from its config and its images."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from leanformer.config import from_dict, to_dict
from leanformer.data import ArrayImages, DataOptions, Sampling
from leanformer.data.mixing import Mixing
from leanformer.data.stored import LabelSets
from leanformer.errors import ConfigError
from leanformer.tasks import Distill, MultiLabelMetrics
from leanformer.training import EarlyStopping, Interrupted, TrainConfig, fit
from leanformer.training.callbacks import Callback
from leanformer.training.config import differences
from leanformer.training.objective import build_task

CPU = torch.device("cpu")
LABELS = np.repeat(np.arange(4), (48, 24, 12, 12))


class Several:
    """Images that have their class, and every third the one after it too."""

    def __init__(self, images):
        self.images, self.classes, self.labels = images, images.classes, images.labels
        sets = ([label, (label + 1) % 4] if n % 3 == 0 else [label] for n, label in enumerate(images.labels.tolist()))
        self.several = LabelSets(sets, 4)

    def __len__(self):
        return len(self.images)

    def image(self, index):
        return self.images.image(index)

    def name(self, index):
        return self.images.name(index)


@pytest.fixture
def uneven(nano_data):
    return ArrayImages(nano_data[0].pixels, LABELS, nano_data[0].classes, "uneven")


@pytest.fixture
def several(nano_data):
    return tuple(map(Several, nano_data))


def test_what_decides_a_run_survives_json_and_may_not_change_on_resumption(nano_config):
    changed = replace(
        nano_config,
        data_options=DataOptions(multi_label=True, val_share=0.1),
        sampling=Sampling(repeat=3, fraction=0.5),
        class_weights=(1.0, 2.0, 0.5, 1.0),
        profile=True,
    )
    assert from_dict(to_dict(changed), TrainConfig) == changed
    lines = differences(to_dict(nano_config), to_dict(changed))
    assert sorted({line.split(":")[0].split(".")[0] for line in lines}) == ["class_weights", "data_options", "sampling"]


def test_a_run_of_an_earlier_version_goes_on_where_what_is_new_has_its_default(nano_config):
    saved = to_dict(nano_config)
    for fields, name in ((saved, "guard"), (saved["data_options"], "val_share"), (saved["sampling"], "repeat")):
        del fields[name]
    assert differences(saved, to_dict(nano_config)) == []
    changed = replace(nano_config, data_options=DataOptions(val_share=0.1))
    assert differences(saved, to_dict(changed)) == ["data_options.val_share: 0.2 -> 0.1"]


def test_a_config_that_can_no_longer_be_read_is_compared_as_it_stands(nano_config):
    saved = to_dict(nano_config) | {"momentum": 0.9}
    assert differences(saved, to_dict(nano_config)) == ["momentum: 0.9 -> None"]


@pytest.mark.parametrize(("fraction", "expected"), [(1.0, (0.5, 1, 2, 2)), (0.5, (0.5, 1, 2, 2))])
def test_balanced_classes_count_alike(fraction, expected, plain_config, uneven):
    config = replace(plain_config, class_weights="balanced", sampling=Sampling(fraction=fraction))
    weights = build_task(config, uneven, None, CPU).class_weights
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float32))


def test_balance_counts_every_label_of_an_image(plain_config, several):
    weights = build_task(replace(plain_config, class_weights="balanced"), several[0], None, CPU).class_weights
    counts = np.bincount(several[0].several.flat, minlength=4)
    np.testing.assert_allclose(weights.numpy() * counts, counts.sum() / 4, rtol=1e-6)


def test_weights_of_the_classes_change_what_is_learned_and_a_batch_in_parts_learns_alike(
    plain_config, uneven, nano_data
):
    certain = replace(plain_config.model, config=replace(plain_config.model.config, drop_path=0.0))

    def trained(name, **changes):
        config = replace(plain_config, epochs=1, out=plain_config.out / name, model=certain, **changes)
        return fit(config, data=(uneven, nano_data[1])).model.state_dict()

    plain, weighted = trained("plain"), trained("weighted", class_weights="balanced")
    parts = trained("parts", class_weights="balanced", accumulate=4)
    assert not torch.equal(plain["head.linear.weight"], weighted["head.linear.weight"])
    for name, value in weighted.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_weights": (1.0, 2.0)}, "one for each of the 4 classes, got 2"),
        ({"class_weights": (1.0, -2.0)}, "numbers of 0 or more"),
        ({"class_weights": (float("nan"), 1.0, 1.0, 1.0)}, "numbers of 0 or more"),
        ({"class_weights": "balanced", "sampling": Sampling(balanced=True)}, "once too often"),
    ],
    ids=str,
)
def test_weights_that_say_nothing_are_refused(changes, message, plain_config, nano_data):
    with pytest.raises(ConfigError, match=message):
        fit(replace(plain_config, **changes), data=nano_data)
    assert not plain_config.out.exists()


def test_images_of_several_classes_are_learned_by_the_binary_loss(plain_config, several, nano_data):
    assert build_task(plain_config, several[0], None, CPU).loss == "binary_cross_entropy"
    assert build_task(plain_config, nano_data[0], None, CPU).loss == "cross_entropy"
    with pytest.raises(ConfigError, match="asks for one class, but images have several"):
        build_task(replace(plain_config, loss="cross_entropy"), several[0], None, CPU)
    with pytest.raises(ConfigError, match="a teacher is asked for one class, but images have several; leave out"):
        build_task(replace(plain_config, distill=Distill(teacher="deit_tiny")), several[0], None, CPU)


def test_a_run_on_several_classes_learns_averages_stops_early_and_resumes_exactly(
    nano_config, several, tmp_path, read_log
):
    config = replace(
        nano_config,
        mixing=Mixing(),
        class_weights="balanced",
        sampling=Sampling(repeat=2),
        early_stopping=EarlyStopping(patience=5),
    )
    straight = replace(config, out=tmp_path / "straight")
    whole = fit(straight, data=several)
    with pytest.raises(Interrupted):
        fit(config, data=several, callbacks=[StopAt(7)])
    resumed = fit(config, data=several, resume=True)
    for mine, theirs in zip(resumed.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
    assert isinstance(whole.evaluation, MultiLabelMetrics)
    assert read_log(config.out) == read_log(straight.out)
    assert {"mAP", "ema_mAP"} <= set(read_log(config.out)[-2])


class StopAt(Callback):
    """Ctrl-C in the middle of a step."""

    def __init__(self, step):
        self.step = step

    def on_step(self, run, step):
        if step == self.step:
            os.kill(os.getpid(), signal.SIGINT)
