"""Parameter groups equal those of the published trainings, and layer decay knows how deep a parameter lies."""

import golden
import pytest
import torch
from published import HERE

from leanformer.errors import ConfigError
from leanformer.models import ImageClassifier
from leanformer.training.groups import Groups, depth_ids, parameter_groups
from leanformer.zoo.resolve import find_config
from leanformer.zoo.weights import layout_of

FLATTEN = {
    "flatten_pvt_t": "flatten_pvt_tiny",
    "flatten_pvt_v2_b0": "flatten_pvt_v2_b0",
    "flatten_swin_t": "flatten_swin_tiny",
    "flatten_cswin_t": "flatten_cswin_tiny",
}
SLAB = {
    "slab_deit_t": "slab_deit_tiny",
    "slab_pvt_t": "slab_pvt_tiny",
    "slab_swin_t": "slab_swin_tiny",
    "slab_cswin_t": "slab_cswin_tiny",
    "pvt_t_prepbn": "pvt_tiny_prepbn",
}


def on_paper(name: str) -> ImageClassifier:
    with torch.device("meta"):
        return ImageClassifier(find_config(name))


def split(model: ImageClassifier, decayed: list[str], spared: list[str], groups: Groups | None = None) -> None:
    """Compare our two groups with published names, through the key map."""
    renamed = layout_of(model.config).map_for(model.config).rename(decayed + spared)
    ours = [{name for name, _ in group["params"]} for group in parameter_groups(model, 1.0, 0.05, groups)]
    theirs = [{ours for key in keys for ours in renamed[key]} for keys in (decayed, spared)]
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert ours == [keys & trained for keys in theirs]
    assert ours[0] | ours[1] == trained


@pytest.mark.parametrize("key", FLATTEN)
def test_groups_equal_flatten(key):
    groups = golden.load(HERE / "flatten/optim_groups.npz")[0]["groups"][key]
    split(on_paper(FLATTEN[key]), groups["decay"], groups["no_decay"])


@pytest.mark.parametrize("key", SLAB)
def test_groups_equal_slab(key):
    decayed, spared = golden.load(HERE / "slab/modules/recipes.npz")[0]["recipes"][key]["groups"]
    split(on_paper(SLAB[key]), decayed["names"], spared["names"])


def test_groups_equal_the_training_of_attention_dilution():
    spared, decayed = golden.load(HERE / "attention_removal/module_recipe.npz")[0]["groups"]
    split(on_paper("deit_tiny"), decayed["params"], spared["params"])


def test_scales_of_one_axis_are_decayed_where_a_pattern_says_so():
    model = on_paper("swiftformer_xs")
    decayed, _ = parameter_groups(model, 1.0, 0.025, Groups(decayed=("*.layer_scale.gamma",)))
    names = {name for name, _ in decayed["params"]}
    scales = {name for name, _ in model.named_parameters() if name.endswith("gamma")}
    assert scales <= names
    assert not any(name.endswith("bias") or ".norm." in name for name in names)


@pytest.mark.parametrize(
    "name", ["deit_nano", "swin_nano", "pvt_nano", "pvt_v2_nano", "cswin_nano", "swiftformer_nano", "l2vit_nano"]
)
def test_depth_rises_from_the_stem_to_the_head(name):
    model = on_paper(name)
    ids, last = depth_ids(model)
    num_blocks = sum(len(stage.blocks) for stage in model.backbone.stages)
    assert last == num_blocks + 1
    assert set(ids) == {name for name, _ in model.named_parameters()}
    assert {ids[name] for name in ids if name.startswith("backbone.stem.")} == {0}
    assert {ids[name] for name in ids if name.startswith("head.")} == {last}
    order = [ids[name] for name in ids if ".blocks." in name]
    assert order == sorted(order) and set(order) == set(range(1, last))


def test_layer_decay_slows_each_block_down_by_its_distance_from_the_head():
    model = on_paper("swin_nano")
    ids, last = depth_ids(model)
    groups = parameter_groups(model, 0.1, 0.05, Groups(layer_decay=0.7))
    for group in groups:
        for name, _ in group["params"]:
            assert group["base_lr"] == pytest.approx(0.1 * 0.7 ** (last - ids[name])), name
    assert sum(len(group["params"]) for group in groups) == len(ids)


def test_layer_decay_needs_blocks():
    with pytest.raises(ConfigError, match="needs the blocks of a backbone, which a Linear has not"):
        parameter_groups(torch.nn.Linear(2, 2), 0.1, 0.1, Groups(layer_decay=0.5))
