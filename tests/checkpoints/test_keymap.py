"""Key maps: strict, invertible, and clear about what does not fit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leanformer.checkpoints.keymap import Drop, JoinRows, KeyMap, Rename, Reshape, ScheduleCounters, SplitRows
from leanformer.checkpoints.pattern import Pattern
from leanformer.errors import CheckpointError

SMALL = KeyMap(
    Drop("layers.{s}.blocks.{b}.attn_mask"),
    Rename("layers.{s}.downsample.{rest}", "stages.{s+1}.downsample.{rest}"),
    Rename("layers.{s}.blocks.{b}.norm.norm1.{leaf}", "stages.{s}.blocks.{b}.norm.start.{leaf}"),
    ScheduleCounters("layers.{s}.blocks.{b}.norm", "stages.{s}.blocks.{b}.norm"),
    SplitRows("stage{s}.{b}.qkv.{leaf}", ("stages.{s-1}.{b}.left.{leaf}", "stages.{s-1}.{b}.right.{leaf}"), groups=3),
    JoinRows(("blocks.{b}.q.{leaf}", "blocks.{b}.k.{leaf}", "blocks.{b}.v.{leaf}"), "stages.0.blocks.{b}.qkv.{leaf}"),
    Reshape("network.{b}.layer_scale", "blocks.{b}.scale", "c 1 1 -> c"),
    Rename("head.{rest}", "head.linear.{rest}"),
    name="small",
)


def numbers(*shape: int) -> torch.Tensor:
    return torch.arange(1.0, 1.0 + torch.Size(shape).numel()).view(shape)


def assert_equal(left: dict, right: dict) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=0, atol=0)


names = st.text("abcdefgh_12", min_size=1, max_size=6)
indices = st.integers(0, 120)
leaves = st.sampled_from(("weight", "bias"))


@given(indices, indices, st.lists(names, min_size=1, max_size=3).map(".".join), names)
def test_a_pattern_reads_back_what_it_wrote(s, b, rest, leaf):
    pattern = Pattern("layers.{s+1}.{leaf}.blocks{b}.{rest}")
    values = {"s": s, "b": b, "rest": rest, "leaf": leaf}
    name = pattern.fill(values)
    assert name is not None
    assert pattern.match(name) == values


@pytest.mark.parametrize("name", ["a.01.x", "a.-1.x", "a.0", "a.0.", "a.1.x.y.", "b.a.0.x", "a.x.x", "a.0..x"])
def test_a_pattern_matches_only_plain_indices_and_whole_parts(name):
    assert Pattern("a.{s}.{rest}").match(name) is None


def test_leaf_is_one_part_and_rest_is_one_or_more():
    assert Pattern("{rest}.bias").match("a.b.c.bias") == {"rest": "a.b.c"}
    assert Pattern("a.{leaf}").match("a.b.c") is None


def test_a_placeholder_that_occurs_twice_has_one_value():
    assert Pattern("a{s}.b{s+1}").match("a2.b3") == {"s": 2}
    assert Pattern("a{s}.b{s+1}").match("a2.b2") is None


def test_an_index_that_would_become_negative_matches_no_rule():
    with pytest.raises(CheckpointError, match=r"stage0\.0\.qkv\.weight"):
        SMALL.to_ours({"stage0.0.qkv.weight": numbers(6, 2)})


def test_the_first_rule_that_matches_wins():
    key_map = KeyMap(Rename("a.{s}.norm.{rest}", "first.{s}.{rest}"), Rename("a.{rest}", "second.{rest}"))
    assert key_map.rename(["a.0.norm.weight", "a.0.proj.weight"]) == {
        "a.0.norm.weight": ["first.0.weight"],
        "a.0.proj.weight": ["second.0.proj.weight"],
    }


def test_rows_split_within_each_group():
    fused = torch.tensor([0.0, 1, 10, 11, 20, 21]).repeat_interleave(2)  # q of left, q of right, k of left, ...
    ours = SMALL.to_ours({"stage1.0.qkv.bias": fused})
    assert ours["stages.0.0.left.bias"].tolist() == [0, 0, 10, 10, 20, 20]
    assert ours["stages.0.0.right.bias"].tolist() == [1, 1, 11, 11, 21, 21]


def test_joined_rows_follow_one_another():
    parts = {
        f"blocks.2.{leaf}.weight": torch.full((2, 3), value) for leaf, value in (("q", 1.0), ("k", 2.0), ("v", 3.0))
    }
    ours = SMALL.to_ours(dict(reversed(parts.items())))
    assert ours["stages.0.blocks.2.qkv.weight"][:, 0].tolist() == [1, 1, 2, 2, 3, 3]


def test_reshape_moves_named_axes():
    key_map = KeyMap(Reshape("a", "b", "o i 1 -> i o"))
    published = {"a": numbers(2, 3, 1)}
    torch.testing.assert_close(key_map.to_ours(published)["b"], published["a"][:, :, 0].T)
    assert_equal(key_map.to_published(key_map.to_ours(published)), published)


@pytest.mark.parametrize(
    ("left", "total", "progress"), [(0, 300_000, 0.0), (300_000, 300_000, 1.0), (75_000, 300_000, 0.25)]
)
def test_the_counters_of_a_progressive_norm_become_its_progress(left, total, progress):
    counters = {"iter": left, "total_step": total, "warm": 0}
    published = {f"layers.0.blocks.1.norm.{leaf}": torch.tensor(count) for leaf, count in counters.items()}
    ours = SMALL.to_ours(published)
    assert_equal(ours, {"stages.0.blocks.1.norm.progress": torch.tensor(progress)})
    back = SMALL.to_published(ours)
    assert all(t.dtype == torch.int64 and t.ndim == 0 for t in back.values())
    assert_equal(SMALL.to_ours(back), ours)


@given(st.integers(1, 1_000_000), st.data())
def test_any_progress_survives_being_written_as_counters(total, data):
    progress = torch.tensor(data.draw(st.integers(0, total)) / total)
    ours = {"stages.0.blocks.0.norm.progress": progress}
    assert_equal(SMALL.to_ours(SMALL.to_published(ours)), ours)


def test_impossible_counters_are_an_error():
    counters = {"iter": 5, "total_step": 3, "warm": 0}
    published = {f"layers.0.blocks.1.norm.{leaf}": torch.tensor(count) for leaf, count in counters.items()}
    with pytest.raises(CheckpointError, match="iter is 5 of total_step 3"):
        SMALL.to_ours(published)


@st.composite
def checkpoints(draw) -> dict[str, torch.Tensor]:
    """A published checkpoint that `SMALL` reads, with nothing that it drops."""
    size = st.integers(1, 3)
    out: dict[str, torch.Tensor] = {"head.weight": numbers(draw(size), draw(size))}
    for s, b in draw(st.sets(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=4)):
        out[f"stage{s + 1}.{b}.qkv.weight"] = numbers(6 * draw(size), draw(size))
        out[f"layers.{s}.blocks.{b}.norm.norm1.bias"] = numbers(draw(size))
        out[f"network.{b}.layer_scale"] = numbers(draw(size), 1, 1)
        rows = draw(size)
        out |= {f"blocks.{b}.{leaf}.weight": numbers(rows, 2) + i for i, leaf in enumerate("qkv")}
        out[f"layers.{s}.downsample.norm.weight"] = numbers(draw(size))
    return out


@settings(deadline=None, max_examples=50)
@given(checkpoints())
def test_there_and_back_is_the_identity(published):
    ours = SMALL.to_ours(published)
    assert_equal(SMALL.to_published(ours), published)
    assert_equal(SMALL.to_ours(SMALL.to_published(ours)), ours)


@settings(deadline=None, max_examples=50)
@given(checkpoints())
def test_renaming_names_agrees_with_converting_tensors(published):
    renamed = SMALL.rename(published)
    assert {name for several in renamed.values() for name in several} == set(SMALL.to_ours(published))
    for name, ours in renamed.items():
        assert all(name in SMALL.published_name(target) for target in ours)


def test_dropped_names_stay_dropped_on_the_way_back():
    published = {"layers.0.blocks.1.attn_mask": numbers(4), "head.bias": numbers(2)}
    assert SMALL.rename(published)["layers.0.blocks.1.attn_mask"] == []
    assert SMALL.to_published(SMALL.to_ours(published)).keys() == {"head.bias"}


def test_the_way_back_takes_the_rule_that_leads_forward_again():
    key_map = KeyMap(
        Rename("old.{s}.x", "ours.{s}.x"), Rename("old.{rest}", "ours.{rest}"), Rename("new.{rest}", "ours.{rest}")
    )
    assert key_map.published_name("ours.3.x") == ["old.3.x"]
    assert key_map.published_name("ours.y") == ["old.y"]


def test_two_spellings_of_one_tensor_are_both_read():
    key_map = KeyMap(
        Rename("{rest}.norm2.bn.{leaf}", "{rest}.rep.bn.{leaf}"), Rename("{rest}.bn.{leaf}", "{rest}.rep.bn.{leaf}")
    )
    assert key_map.rename(["a.b.norm2.bn.weight", "c.bn.weight"]) == {
        "a.b.norm2.bn.weight": ["a.b.rep.bn.weight"],
        "c.bn.weight": ["c.rep.bn.weight"],
    }


def test_unmatched_names_are_counted_listed_and_compared_with_the_nearest_rule():
    published = {f"layers.{s}.blocks.0.norm.norm1.extra.weight": numbers(1, 3) for s in range(7)}
    with pytest.raises(CheckpointError) as caught:
        SMALL.to_ours({**published, "head.bias": numbers(1)}, source="file.pth")
    text = str(caught.value)
    assert text.startswith("file.pth: 7 keys match no rule of the key map 'small'")
    assert "layers.0.blocks.0.norm.norm1.extra.weight (1, 3)" in text
    assert "and 2 more" in text
    assert "closest rule: Rename(published='layers.{s}.blocks.{b}.norm.norm1.{leaf}'" in text


def test_two_names_that_become_one_are_an_error():
    key_map = KeyMap(Rename("a.{rest}", "x.{rest}"), Rename("b.{rest}", "x.{rest}"))
    with pytest.raises(CheckpointError, match=r"a\.w and b\.w both become x\.w"):
        key_map.to_ours({"a.w": numbers(1), "b.w": numbers(1)})


def test_a_missing_part_is_named():
    with pytest.raises(
        CheckpointError, match=r"blocks\.0\.v\.bias missing beside blocks\.0\.q\.bias, blocks\.0\.k\.bias"
    ):
        SMALL.to_ours({"blocks.0.q.bias": numbers(2), "blocks.0.k.bias": numbers(2)})
    with pytest.raises(CheckpointError, match=r"stages\.0\.1\.right\.bias missing"):
        SMALL.to_published({"stages.0.1.left.bias": numbers(3)})


@pytest.mark.parametrize(
    ("name", "shape"),
    [("stage1.0.qkv.weight", (9, 2)), ("network.1.layer_scale", (3, 2, 1)), ("network.1.layer_scale", (3,))],
)
def test_a_shape_that_does_not_fit_its_rule_is_named(name, shape):
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.") + ".*shape"):
        SMALL.to_ours({name: numbers(*shape)})


def test_maps_compose_by_their_rules():
    both = KeyMap(Rename("neck.{rest}", "neck.{rest}"), *SMALL.rules, name="both")
    assert both.rename(["neck.a.b", "head.bias"]) == {"neck.a.b": ["neck.a.b"], "head.bias": ["head.linear.bias"]}


def test_a_rule_whose_placeholders_differ_is_a_mistake():
    with pytest.raises(AssertionError, match="placeholders"):
        KeyMap(Rename("a.{s}", "b.{t}"))
