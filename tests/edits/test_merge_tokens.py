"""MergeTokens: what is exact, where it works, what it refuses. That merged models equal the published ones is in the
golden tests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import leanformer
from leanformer.checkpoints import runs
from leanformer.edits import ClassTokenTail, DiluteAttention, Edit, FoldNorms, MergeTokens, RemoveAttention
from leanformer.edits.tokens import trace_tokens
from leanformer.errors import EditError
from leanformer.layers.attention import Softmax
from leanformer.layers.block import BlockSequence
from leanformer.layers.merging import MergingSequence
from leanformer.layers.norm import Norms, PRepBN, RepBN
from leanformer.models import ImageClassifier
from leanformer.models.registry import find, list_models

FORMS = {
    "token": {},
    "mean": {"pool": "mean"},
    "distilled": {"distilled": True, "registers": 3},
    "layer_scale": {"layer_scale": 0.5, "registers": 1},
}
REFUSING = {
    "cswin_nano": r"backbone\.stages\.0\.blocks\.0\.attn\.body looks in stripes",
    "slab_swin_nano": r"backbone\.stages\.0\.blocks\.0\.attn\.body is Simplified, not softmax attention",
    "l2vit_nano": r"backbone\.stages\.0\.blocks\.0\.position works on the map",
    "pvt_nano": r"backbone\.stages\.0\.blocks\.0\.attn\.body takes its keys from a reduced map",
    "pvt_v2_nano": r"backbone\.stages\.0\.blocks\.0\.mlp\.body is more than an MLP",
    "swiftformer_nano": r"backbone\.stages\.0\.blocks\.\d+\.position works on the map",
    "swin_nano": r"backbone\.stages\.0\.blocks\.0\.attn\.region looks in windows",
}


def deit(*edits: Edit, **changes: object) -> ImageClassifier:
    torch.manual_seed(7)
    model = leanformer.build("deit_nano", **changes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # so that tokens and blocks differ
            if name.endswith(("qkv.weight", "table")):
                parameter.mul_(8)
    leanformer.apply(model, *edits)
    return model.eval()


def images(size: int = 64) -> Tensor:
    return torch.randn(3, 3, size, size)


def difference(one: Tensor, other: Tensor) -> float:
    return ((one - other).abs().max() / other.abs().max()).item()


@pytest.mark.parametrize("form", FORMS)
@torch.inference_mode()
def test_merging_no_tokens_is_the_identity_bit_for_bit(form: str) -> None:
    x, whole = images(), deit(**FORMS[form])
    merged = deit(MergeTokens(r=0), **FORMS[form])
    assert torch.equal(merged(x), whole(x))
    assert torch.equal(merged.backbone.forward_features(x)[0], whole.backbone.forward_features(x)[0])


@pytest.mark.parametrize("form", FORMS)
@torch.inference_mode()
def test_equal_tokens_merge_without_a_trace_if_they_count_as_often_as_they_stood_there(form: str) -> None:
    """Of an image of one color without positions every place is the same, so nothing is lost by merging."""
    x = torch.ones(2, 3, 64, 64)
    outputs = []
    for edits in ((), (MergeTokens(r=13),), (MergeTokens(r=13, proportional=False),)):
        model = deit(*edits, **FORMS[form])
        prefix = model.backbone.position.prefix_tokens
        model.backbone.position.table[:, prefix:] = 0.0
        outputs.append(model(x))
    whole, proportional, plain = outputs
    assert difference(proportional, whole) < 1e-5
    assert difference(plain, whole) > 1e-4 or form == "mean"


@pytest.mark.parametrize("form", FORMS)
@torch.inference_mode()
def test_every_place_has_the_token_of_its_group_and_tokens_in_front_stand_for_themselves(form: str) -> None:
    model, x = deit(MergeTokens(r=9, start=1), **FORMS[form]), images()
    prefix, last = model.backbone.prefix_tokens, trace_tokens(model, x)[-1]
    assert last.x.shape[1] == prefix + 64 - 3 * 9
    assert torch.equal(last.sizes.sum(1), torch.full((3,), prefix + 64.0))
    assert torch.equal(last.index[:, :prefix], torch.arange(prefix).expand(3, -1))
    assert (last.sizes[:, :prefix] == 1).all()
    whole = model.backbone(x)[0]
    for image, index, merged in zip(whole, last.index, last.x, strict=True):
        assert torch.equal(image, merged[index])
    if form == "mean":
        weighted = (last.x * last.sizes.unsqueeze(-1)).sum(1) / 64
        torch.testing.assert_close(whole.mean(1), weighted)


@torch.inference_mode()
def test_maps_for_dense_tasks_have_their_full_grid_behind_every_block() -> None:
    model, x = deit(MergeTokens(r=20)), torch.randn(2, 3, 40, 72)
    (image,) = model.backbone.forward_features(x)
    assert image.shape == (2, 64, 5, 9)
    ends = model.backbone.forward_blocks(x)
    assert [tokens.shape[1] for tokens, _ in ends] == [46] * 4
    assert torch.equal(ends[-1][0], model.backbone(x)[0])
    torch.testing.assert_close(image.flatten(2).transpose(1, 2), ends[-1][0][:, 1:])


def test_a_part_of_the_blocks_merges_as_they_do_in_the_whole() -> None:
    blocks = deit(MergeTokens(r=(1, 2, 3, 4))).backbone.stages[0].blocks
    assert blocks[1:3].num_merged(65) == [2, 3]
    del blocks[2:]
    assert blocks.num_merged(65) == [1, 2]


@torch.inference_mode()
def test_images_of_other_sizes_merge_as_many_as_there_are() -> None:
    model = deit(MergeTokens(r=30))
    for side in (8, 16, 32, 96):
        assert model(images(side)).shape == (3, 10)
        counts = [end.x.shape[1] for end in trace_tokens(model, images(side))]
        left, expected = 1 + (side // 8) ** 2, []
        for _ in range(4):
            left -= min(30, (left - 1) // 2)
            expected.append(left)
        assert counts == expected


@torch.inference_mode()
def test_blocks_without_attention_let_merged_tokens_pass_and_are_not_counted() -> None:
    first, then = RemoveAttention(blocks=(0, 2)), MergeTokens(r=(5, 7))
    model = deit(first, then)
    counts = [end.x.shape[1] for end in trace_tokens(model, images())]
    assert counts == [65, 60, 60, 53]
    x = images()
    assert difference(deit(RemoveAttention(blocks=(0, 2), fold=True), then)(x), model(x)) < 1e-5
    # Removed behind the merging, a block merges no more; the others stay as they were.
    later = deit(MergeTokens(r=(4, 5, 6, 7)), first)
    assert later.backbone.stages[0].blocks.num_merged(65) == [0, 5, 0, 7]
    assert torch.equal(later(x), model(x))


@torch.inference_mode()
def test_attention_that_fades_out_merges_until_it_is_gone() -> None:
    x, merge = images(), MergeTokens(r=6)
    diluted = deit(DiluteAttention(blocks=(1, 2)), merge)
    assert torch.equal(diluted(x), deit(merge)(x))
    for block in diluted.backbone.stages[0].blocks[1:3]:
        block.attn.set_scheduled(0.0)
    assert torch.equal(diluted(x), deit(merge, RemoveAttention(blocks=(1, 2)))(x))


@pytest.mark.parametrize("norm", [RepBN(), PRepBN()], ids=["RepBN", "PRepBN"])
@pytest.mark.parametrize("pool", ["token", "mean"])
@torch.inference_mode()
def test_norms_fold_before_and_behind_merging(norm: RepBN, pool: str) -> None:
    def model(*edits: Edit) -> ImageClassifier:
        built = deit(norms=Norms(block=norm), pool=pool)
        for module in built.modules():
            if hasattr(module, "set_scheduled"):
                module.set_scheduled(0.0)
        leanformer.apply(built, *edits)
        return built

    x, merge = images(), MergeTokens(r=8)
    expected = model(merge)(x)
    assert difference(model(FoldNorms(), merge)(x), expected) < 1e-5
    assert difference(model(merge, FoldNorms())(x), expected) < 1e-5


def test_a_merged_model_is_saved_by_its_edit_alone(tmp_path: object) -> None:
    for r in (9, (9, -1.0), (0, 9, 3)):
        model = deit(MergeTokens(r=r, start=1, proportional=r != 9))
        assert model.state_dict().keys() == deit().state_dict().keys()
        runs.save(model, tmp_path / "run")
        loaded = runs.load(tmp_path / "run")
        assert loaded.edits == model.edits
        x = images()
        with torch.inference_mode():
            assert torch.equal(loaded(x), model(x))


def test_threads_do_not_see_each_others_tokens() -> None:
    model = deit(MergeTokens(r=9))
    batches = [torch.randn(count, 3, 64, 64) for count in (1, 2, 3, 1, 2, 3)]
    with torch.inference_mode():
        expected = [model(x) for x in batches]

    def ask(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return model(x)

    with ThreadPoolExecutor(3) as pool:
        for found, wanted in zip(pool.map(ask, batches * 3), expected * 3, strict=True):
            assert torch.equal(found, wanted)


@pytest.mark.parametrize("form", FORMS)
def test_merged_models_train_and_recomputing_blocks_changes_no_gradient(form: str) -> None:
    x, gradients = images(), []
    for checkpointing in (False, True):
        model = deit(MergeTokens(r=9), **FORMS[form], drop_path=0.2).train()
        for module in model.modules():
            if isinstance(module, BlockSequence):
                module.checkpointing = checkpointing
        torch.manual_seed(3)
        model(x).square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None and gradient.isfinite().all(), name
        torch.testing.assert_close(gradients[1][name], gradient)


def test_merging_follows_checkpointing_and_mode_of_the_blocks_it_takes_over() -> None:
    model = leanformer.build("deit_nano").eval()
    model.backbone.stages[0].blocks.checkpointing = True
    leanformer.apply(model, MergeTokens(r=3))
    blocks = model.backbone.stages[0].blocks
    assert isinstance(blocks, MergingSequence) and blocks.checkpointing and not blocks.training


@torch.inference_mode()
def test_merged_models_compile_into_one_graph_and_export_with_the_batch_open() -> None:
    model, x = deit(MergeTokens(r=9), distilled=True, depth=2), images()
    expected = model(x)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(program.module()(x[:2]), expected[:2])


@pytest.mark.extras
@pytest.mark.parametrize(
    "edits",
    [(MergeTokens(r=9),), pytest.param((MergeTokens(r=9), ClassTokenTail()), marks=pytest.mark.slow)],
    ids=["merged", "tailed"],
)
def test_onnx_files_of_merged_models_compute_the_same_for_any_batch(edits: tuple[Edit, ...], tmp_path: object) -> None:
    pytest.importorskip("onnxruntime")
    from leanformer.export import export_model

    report = export_model(deit(*edits, depth=2), tmp_path / "model.onnx", image_size=64)
    assert report.dynamic_batch and report.verification.relative_diff < 1e-5
    assert report.graph.nodes["TopK"] >= 2


@pytest.mark.parametrize("name", REFUSING)
def test_backbones_that_need_the_whole_map_are_refused_by_the_name_of_the_module(name: str) -> None:
    with torch.device("meta"):
        model = leanformer.build(name)
    modules = list(model.modules())
    with pytest.raises(EditError, match=REFUSING[name]):
        leanformer.apply(model, MergeTokens(r=2))
    assert model.edits == [] and list(model.modules()) == modules


def test_every_backbone_merges_or_is_known_to_refuse() -> None:
    kinds = {find(name).kind for name in list_models("*_nano")}
    assert kinds == {find(name).kind for name in REFUSING} | {"vit"}


def test_later_stages_without_windows_merge_and_the_next_stage_sees_the_whole_map() -> None:
    config = replace(find("swin_nano"), attention=Softmax(), window_size=None, norms=Norms())
    torch.manual_seed(0)
    whole = leanformer.build(config).eval()
    model = leanformer.build(config).eval()
    model.load_state_dict(whole.state_dict())
    attending = sum(len(stage.blocks) for stage in model.backbone.stages)
    leanformer.apply(model, MergeTokens(r=2, start=attending - 1))
    kinds = [isinstance(stage.blocks, MergingSequence) for stage in model.backbone.stages]
    assert kinds == sorted(kinds) and kinds[-1] and not kinds[0]
    with torch.inference_mode():
        x = images()
        assert torch.equal(model.backbone.forward_stages(x)[0][0], whole.backbone.forward_stages(x)[0][0])
        assert not torch.equal(model(x), whole(x))
        assert [m.shape for m in model.backbone.forward_features(x)] == [
            m.shape for m in whole.backbone.forward_features(x)
        ]


@pytest.mark.parametrize(
    ("r", "start", "message"),
    [
        (33, 0, r"r=33 is more than half of the 64 tokens .*blocks\.0 has to merge; at most 32 fit"),
        ((40, -0.5), 0, r"r=40 is more than half of the 64 tokens"),
        ((1, 2, 3, 4), 1, r"r names 4 numbers, but 3 blocks have attention to merge behind \(start=1\)"),
        (5, 4, r"start=4 leaves no block to merge in; 4 blocks have attention"),
    ],
)
def test_what_cannot_fit_is_refused_and_nothing_is_changed(r: object, start: int, message: str) -> None:
    model = leanformer.build("deit_nano")
    with pytest.raises(EditError, match=message):
        leanformer.apply(model, MergeTokens(r=r, start=start))
    assert model.edits == [] and type(model.backbone.stages[0].blocks) is BlockSequence


def test_numbers_for_each_block_merge_as_many_as_there_are() -> None:
    model = deit(MergeTokens(r=(0, 60, 60)))
    assert model.backbone.stages[0].blocks.num_merged(65) == [0, 32, 16, 0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"r": -1}, "r is 0 or more tokens in each block, got -1"),
        ({"r": (13, -1)}, "an inflection is a float"),
        ({"r": ()}, "r is 0 or more tokens"),
        ({"r": (13, -1.5)}, "the inflection must be from -1.0 to 1.0"),
        ({"r": 3, "start": -1}, "start must be at least 0"),
    ],
)
def test_values_that_make_no_sense_are_refused(values: dict, message: str) -> None:
    with pytest.raises(EditError, match=message):
        MergeTokens(**values)


def test_models_that_have_nothing_to_merge_by_are_refused() -> None:
    model = leanformer.build("deit_nano", removed=(0, 1, 2, 3))
    with pytest.raises(EditError, match="has no attention, whose keys tell which tokens are alike"):
        leanformer.apply(model, MergeTokens(r=2))
    with pytest.raises(EditError, match="VisionTransformer is no image classifier; edit one, then take its backbone"):
        leanformer.apply(leanformer.build("deit_nano").backbone, MergeTokens(r=2))
    with pytest.raises(EditError, match=r"backbone\.stages\.0\.blocks merges tokens already"):
        leanformer.apply(deit(MergeTokens(r=2)), MergeTokens(r=2))
    with pytest.raises(EditError, match="deit_nano merges no tokens; apply MergeTokens first"):
        trace_tokens(deit(), images())
    relative = leanformer.build("deit_nano", attention=Softmax(relative_position=True))
    with pytest.raises(EditError, match=r"blocks\.0\.attn\.body\.kernel\.bias is a relative position"):
        leanformer.apply(relative, MergeTokens(r=2))
