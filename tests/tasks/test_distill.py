"""Distillation equals the published losses, and any trained model can be the teacher."""

from dataclasses import replace

import golden
import pytest
import torch
from published import HERE
from torch import nn

import leanformer
from leanformer.config import from_dict, to_dict
from leanformer.data import Batch
from leanformer.errors import ConfigError
from leanformer.models import Preprocess
from leanformer.models.vit import ViT
from leanformer.tasks import Classification, Distill, build_teacher
from leanformer.tasks.distill import Teacher

NANO = ViT(image_size=16, patch_size=4, dim=24, depth=1, num_heads=2, num_classes=4)
CLASSES = ("a", "b", "c", "d")
PLAIN = Preprocess(image_size=(16, 16))


class Says(nn.Module):
    """Gives what it was told, whatever the images."""

    def __init__(self, *scores):
        super().__init__()
        self.scores = scores

    def forward(self, images):
        return self.scores if len(self.scores) > 1 else self.scores[0]


def total(scores, teacher, labels, smoothing=0.0, **distill):
    kd = Distill(teacher="x", **distill) if distill else None
    task = Classification(smoothing, distill=kd, teacher=Teacher(Says(teacher), PLAIN, PLAIN) if kd else None)
    batch = Batch(images=torch.zeros(len(labels), 3, 2, 2), labels=labels, indices=torch.arange(len(labels)))
    return sum(term.item() for term in task.losses(Says(*scores), batch).values())


def test_losses_equal_swiftformer():
    _, arrays = golden.load(HERE / "swiftformer/training_pieces.npz")
    one, two, teacher, labels, soft = (
        torch.from_numpy(arrays[f"extra_kd_{name}"])
        for name in ("logits", "dist_logits", "teacher_logits", "labels", "soft_labels")
    )
    ours = [
        total((one, two), teacher, labels, 0.1, target="hard"),
        total((one, two), teacher, soft, target="hard"),
        total((one, two), teacher, soft, target="soft", temperature=3.0),
        total((one, two), teacher, labels, 0.1),
    ]
    assert ours == pytest.approx(arrays["extra_kd_losses"].tolist(), rel=1e-6)


def test_losses_equal_attention_dilution():
    _, arrays = golden.load(HERE / "attention_removal/module_distillation.npz")
    one, two, teacher = (
        torch.from_numpy(golden.example_input(shape)[start:])
        for shape, start in (((8, 10), 0), ((9, 10), 1), ((16, 10), 8))
    )
    labels = torch.arange(8)
    assert total((one, two), teacher, labels) == pytest.approx(arrays["extra_none_tau1"].item(), rel=1e-6)
    for target, temperature in (("soft", 1), ("soft", 3), ("hard", 1)):
        ours = total((one, two), teacher, labels, target=target, temperature=float(temperature))
        assert ours == pytest.approx(arrays[f"extra_{target}_tau{temperature}"].item(), rel=1e-6)


def test_a_model_with_one_classifier_learns_both_with_it():
    torch.manual_seed(0)
    scores, teacher = torch.randn(3, 4), torch.randn(3, 4)
    labels = torch.tensor([1, 3, 0])
    both = total((scores, scores), teacher, labels, target="soft", share=0.3)
    assert total((scores,), teacher, labels, target="soft", share=0.3) == both


def test_a_binary_loss_asks_about_each_class():
    torch.manual_seed(0)
    scores, labels = torch.randn(3, 4), torch.tensor([1, 3, 0])
    batch = Batch(images=torch.zeros(3, 3, 2, 2), labels=labels, indices=labels)
    found = Classification(0.2, "binary_cross_entropy").losses(Says(scores), batch)["loss"]
    targets = torch.full((3, 4), 0.05)
    targets[torch.arange(3), labels] = 0.85
    p = scores.sigmoid()
    torch.testing.assert_close(found, -(targets * p.log() + (1 - targets) * (1 - p).log()).mean())
    soft = Classification(0.2, "binary_cross_entropy").losses(Says(scores), replace(batch, labels=targets))["loss"]
    torch.testing.assert_close(soft, found)


def test_a_run_directory_teaches(tmp_path):
    model = leanformer.build(NANO)
    model.set_classes(CLASSES)
    leanformer.save(model, tmp_path / "teacher")
    teacher = build_teacher(Distill(teacher=str(tmp_path / "teacher")), CLASSES, PLAIN)
    images = torch.randn(2, 3, 16, 16)
    scores = teacher(images)
    assert torch.equal(scores, model.eval()(images))
    assert not scores.requires_grad and not any(p.requires_grad for p in teacher.parameters())
    with pytest.raises(ConfigError, match="in another order"):
        build_teacher(Distill(teacher=str(tmp_path / "teacher")), ("b", "a", "c", "d"), PLAIN)
    with pytest.raises(ConfigError, match="tells 4 classes apart, the data has 3"):
        build_teacher(Distill(teacher=str(tmp_path / "teacher")), ("a", "b", "c"), PLAIN)


def test_a_teacher_sees_images_normalized_as_its_own():
    torch.manual_seed(0)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    given = Preprocess(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    pixels = torch.rand(2, 3, 2, 2)
    prepared = {
        p: (pixels - torch.tensor(p.mean)[:, None, None]) / torch.tensor(p.std)[:, None, None] for p in (PLAIN, given)
    }
    scores = Teacher(flat, PLAIN, given)(prepared[given])
    torch.testing.assert_close(scores, flat(prepared[PLAIN]))


def test_a_model_of_timm_teaches_with_weights_from_a_file(tmp_path):
    import timm

    model = timm.create_model("test_resnet", num_classes=4).eval()
    torch.save(model.state_dict(), tmp_path / "teacher.pth")
    distill = Distill(teacher="timm/test_resnet", weights=str(tmp_path / "teacher.pth"))
    teacher = build_teacher(distill, CLASSES, replace(PLAIN, mean=(0.5,) * 3, std=(0.5,) * 3))
    images = torch.randn(2, 3, 16, 16)
    described = model.pretrained_cfg
    mean, std = (torch.tensor(described[name])[:, None, None] for name in ("mean", "std"))
    torch.testing.assert_close(teacher(images), model((images * 0.5 + 0.5 - mean) / std))


def test_an_unknown_teacher_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean.*test_resnet"):
        build_teacher(Distill(teacher="timm/test_resnett"), CLASSES, PLAIN)


def test_a_teacher_survives_json():
    distill = Distill(teacher="timm/regnety_160.deit_in1k", target="soft", temperature=3.0)
    assert from_dict(to_dict(distill), Distill) == distill


@pytest.mark.parametrize("changes", [{"share": 0.0}, {"temperature": 0.0}, {"target": "warm"}], ids=str)
def test_an_impossible_distillation_names_the_value(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        Distill(teacher="x", **changes)
