from __future__ import annotations

import pytest

from leanformer.compression import Target, parse_step
from leanformer.compression.steps import Amount
from leanformer.edits import FoldNorms, MergeTokens, RemoveAttention, SwapAttention, SwapNorm
from leanformer.errors import ConfigError, EditError
from leanformer.layers.attention import FocusedLinear
from leanformer.layers.norm import RepBN


@pytest.mark.parametrize(
    ("text", "edit"),
    [
        ("fold_norms", FoldNorms()),
        ("remove_attention:0.4", Amount(kind="remove_attention", share=0.4)),
        ("remove_attention:4", Amount(kind="remove_attention", count=4)),
        ("remove_attention:0,2,4", RemoveAttention(blocks=(0, 2, 4))),
        ("remove_attention:3,", RemoveAttention(blocks=(3,))),
        ("merge_tokens:13", MergeTokens(r=13)),
        ("merge_tokens:13,-1.0", MergeTokens(r=(13, -1.0))),
        ("merge_tokens:[0,5,40]", MergeTokens(r=(0, 5, 40))),
        ("drop_heads:0.25", Amount(kind="drop_heads", share=0.25)),
        ("swap_norm:rep_bn", SwapNorm(to=RepBN())),
        ("swap_attention:focused_linear", SwapAttention(to=FocusedLinear())),
        ('{"kind": "merge_tokens", "r": 13, "start": 1}', MergeTokens(r=13, start=1)),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_edit_is_asked_for_in_few_words(text, edit):
    step = parse_step(text)
    assert step.edit == edit
    assert step.text == text
    assert step.needs_data == isinstance(edit, Amount)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fold_norm", "did you mean fold_norms"),
        ("fold_norms:2", "takes no short value"),
        ("remove_attention", "remove_attention:0.4 for a share"),
        ("remove_attention:1.5", "a share lies between 0 and 1, got 1.5"),
        ("remove_attention:0", "1 or more"),
        ("remove_attention:-0.1", "a share lies between 0 and 1"),
        ("remove_attention:a,b", "numbers of blocks"),
        ("remove_attention:many", "'many' is not a number"),
        ("merge_tokens:x", "a number of tokens"),
        ("merge_tokens:", "merge_tokens"),
        ("swap_norm:rep_bm", "did you mean rep_bn"),
        ("swap_attention:", "there are: additive"),
        ('{"kind": "fold_norms"', "not JSON"),
        ('{"kind": "layer_norm"}', "not a Edit|is not a"),
    ],
)
def test_what_is_no_edit_is_refused_with_the_way_out(text, message):
    with pytest.raises((EditError, ConfigError), match=message):
        parse_step(text)


def test_a_target_is_a_share_or_milliseconds():
    assert Target.parse("0.6x") == Target(share=0.6)
    assert Target.parse(" 8 ms") == Target(milliseconds=8.0)


@pytest.mark.parametrize("text", ["0.6", "fast", "1.0x", "2x", "0x", "-3ms", "", "8 m"])
def test_what_is_no_target_is_refused(text):
    with pytest.raises(ConfigError, match="0.6x"):
        Target.parse(text)
