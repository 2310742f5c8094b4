"""One step of a run, from published weights, equals a step that torch takes by hand."""

from dataclasses import replace

import golden
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from published import HERE, weights_of
from timm.utils.agc import adaptive_clip_grad

import leanformer
from leanformer.checkpoints import files
from leanformer.data import TrainBatches
from leanformer.data.labeled import ArrayImages
from leanformer.layers.norm import ProgressiveNorm
from leanformer.models import Preprocess
from leanformer.training import AdamW, Clip, Constant, Groups, ModelSpec, Scheduled, TrainConfig, fit
from leanformer.training.callbacks import Callback

CLASSES = tuple(f"class {i}" for i in range(1000))
MODELS = {
    "slab_deit_tiny": ("slab/slab_deit_t", 0.05, 5.0),
    "flatten_swin_tiny": ("flatten/flatten_swin_t", 0.05, 5.0),
    "swiftformer_xs": ("swiftformer/SwiftFormer_XS", 0.025, Clip(limit=0.01, by="adaptive")),
    "l2vit_tiny": ("l2vit/L2ViT_Tiny", 0.05, None),
}
PLAIN = Preprocess(crop=1.0, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
LR = 1e-3


class Keep(Callback):
    """The weights behind the step."""

    def after_step(self, run, step):
        self.weights = {name: value.clone() for name, value in run.model.state_dict().items()}


def by_hand(model, images, labels, weight_decay, clip):
    """Forward, backward and AdamW, in plain torch."""
    spared = ("class_token", "position.table", "bias.table")
    decayed, rest = [], []
    for name, parameter in model.named_parameters():
        scale = name.endswith("gamma")
        flat = parameter.ndim < 2 or name.endswith("bias")
        key_table = name.endswith("key_position.table")
        kept_from = name.endswith(spared) and not key_table
        (decayed if scale or not (flat or kept_from) else rest).append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}], lr=LR
    )
    F.cross_entropy(model.train()(images), labels, label_smoothing=0.1).backward()
    if isinstance(clip, Clip):
        adaptive_clip_grad(model.parameters(), 0.01, 1e-3)
    elif clip:
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return dict(model.named_parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_step_equals_one_by_hand(name, tmp_path):
    path, weight_decay, clip = MODELS[name]
    tensors = weights_of(golden.load(HERE / f"{path}.npz")[0])
    files.write_safetensors(tmp_path / "weights.safetensors", tensors)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    data = ArrayImages(pixels, np.array([7, 700]), CLASSES, "noise")
    model = leanformer.load(name, weights=tensors, drop_path=0.0)
    progressive = any(isinstance(module, ProgressiveNorm) for module in model.modules())
    config = TrainConfig(
        model=ModelSpec(name=name, overrides=(("drop_path", 0.0),), weights=str(tmp_path / "weights.safetensors")),
        out=tmp_path / "run",
        augment=None,
        preprocess=PLAIN,
        optimizer=AdamW(
            lr=LR, weight_decay=weight_decay, groups=Groups(decayed=("*.gamma",) if "swift" in name else ())
        ),
        lr=Constant(),
        epochs=1,
        batch_size=2,
        clip=clip,
        label_smoothing=0.1,
        schedules=(Scheduled(what="norm_progress", schedule=Constant(value=0.5)),) if progressive else (),
        evaluate_every=0,
        device="cpu",
    )
    keep = Keep()
    fit(config, data=(data, data), callbacks=[keep])
    for module in model.modules():
        if isinstance(module, ProgressiveNorm):
            module.set_scheduled(0.5)
    (batch,) = TrainBatches(data, replace(PLAIN, image_size=(224, 224)), None, 2, config.seed).batches(0)
    images = torch.from_numpy(pixels)[batch.indices].permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.25)
    torch.testing.assert_close(batch.images, images)
    # The very same numbers: a bias in front of a batch norm has no gradient but rounding, which Adam takes for one.
    expected = by_hand(model, batch.images, batch.labels, weight_decay, clip)
    for key, value in expected.items():
        torch.testing.assert_close(keep.weights[key], value.detach(), rtol=0, atol=1e-6, msg=key)
