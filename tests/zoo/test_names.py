"""Every published model has its name, and what the papers count of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from leanformer.bench import known_cost
from leanformer.zoo.weights import published

NAMES = json.loads((Path(__file__).parents[1] / "golden/names.json").read_text())
FIGURES = {
    # name: parameters, multiply-accumulates in G at its resolution; as measured on the published implementations
    "deit_tiny": (5_717_416, 1.2584),
    "deit_small": (22_050_664, 4.6083),
    "deit_base": (86_567_656, 17.5827),
    "deit_tiny_removed_024": (5_271_592, 1.1260),
    "deit_tiny_removed_0246": (5_122_984, 1.0818),
    "deit_small_removed_024": (20_274_280, 4.1692),
    "deit_small_removed_0246": (19_682_152, 4.0228),
    "deit_base_removed_01346": (74_748_136, 14.9570),
    "deit_base_removed_013469": (72_384_232, 14.4318),
    "flatten_pvt_tiny": (12_150_504, 2.037),
    "flatten_pvt_small": (21_670_248, 4.030),
    "flatten_pvt_medium": (37_242_216, 7.036),
    "flatten_pvt_base": (50_649_192, 10.380),
    "flatten_pvt_v2_b0": (3_594_824, 0.580),
    "flatten_pvt_v2_b1": (12_931_240, 2.219),
    "flatten_pvt_v2_b2": (22_548_264, 4.251),
    "flatten_pvt_v2_b3": (38_273_832, 7.284),
    "flatten_pvt_v2_b4": (51_836_968, 10.677),
    "flatten_pvt_v2_b5": (67_061_544, 12.436),
    "flatten_swin_tiny": (29_192_384, 4.483),
    "flatten_swin_small": (50_510_288, 8.734),
    "flatten_swin_base": (88_972_488, 15.421),
    "flatten_swin_base_384": (91_433_928, 46.382),
    "flatten_cswin_tiny": (21_201_768, 4.324),
    "flatten_cswin_small": (35_451_752, 6.783),
    "flatten_cswin_base": (74_867_032, 14.913),
    "flatten_cswin_base_384": (78_369_112, 46.305),
    "deit_tiny_prepbn": (5_717_441 + 25 * 2 * 192, 1.256),  # published bare, without the LayerNorms that it grows from
    "deit_small_prepbn": (22_069_889, 4.603),
    "slab_deit_tiny": (6_198_401, 1.141),
    "slab_deit_small": (22_992_641, 4.363),
    "pvt_tiny_prepbn": (13_239_554, 1.931),
    "pvt_small_prepbn": (24_507_801, 3.814),
    "pvt_medium_prepbn": (44_253_117, 6.660),
    "pvt_large_prepbn": (61_434_724, 9.819),
    "slab_pvt_tiny": (12_157_692, 2.041),
    "slab_pvt_small": (21_683_788, 4.036),
    "slab_pvt_medium": (37_267_300, 7.045),
    "slab_pvt_large": (50_684_478, 10.394),
    "slab_pvt_v2_b0": (3_599_968, 0.582),
    "slab_pvt_v2_b1": (12_941_504, 2.223),
    "slab_pvt_v2_b2": (22_564_880, 4.257),
    "slab_pvt_v2_b3": (38_301_992, 7.293),
    "slab_pvt_v2_b4": (51_875_330, 10.691),
    "slab_pvt_v2_b5": (67_111_640, 12.452),
    "pvt_v2_b0_prepbn": (3_672_928, 0.569),
    "pvt_v2_b1_prepbn": (14_021_312, 2.113),
    "pvt_v2_b2_prepbn": (25_383_632, 4.035),
    "pvt_v2_b3_prepbn": (45_274_856, 6.909),
    "pvt_v2_b4_prepbn": (62_605_826, 10.118),
    "pvt_v2_b5_prepbn": (82_021_400, 11.737),
    "swin_tiny_prepbn": (28_288_383 + 24_768, 4.498),
    "slab_swin_tiny": (29_216_605, 4.491),
    "slab_swin_small": (50_552_965, 8.745),
    "slab_swin_base": (89_029_373, 15.437),
    "slab_cswin_tiny": (21_227_807, 4.332),
    "slab_cswin_small": (35_494_205, 6.794),
    "swiftformer_xs": (3_475_360, 0.602),
    "swiftformer_s": (6_092_128, 0.985),
    "swiftformer_l1": (12_057_920, 1.596),
    "swiftformer_l3": (28_494_736, 4.008),
    "l2vit_tiny": (28_596_781, 4.688),
    "l2vit_small": (50_199_157, 8.980),
    "l2vit_base": (88_577_188, 15.808),
    "l2vit_base_384": (88_577_188, 47.322),
}


def test_every_published_name_is_counted_here() -> None:
    assert len(NAMES) == 65
    assert set(NAMES.values()) == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_a_published_model_has_its_parameters_and_multiply_accumulates(name: str) -> None:
    parameters, giga_macs = FIGURES[name]
    cost = known_cost(name)  # counted again in tests/bench
    assert cost.parameters == parameters
    assert cost.macs / 1e9 == pytest.approx(giga_macs, rel=0.01)


@pytest.mark.parametrize("name", FIGURES)
def test_a_published_model_says_where_its_weights_come_from_or_that_there_are_none(name: str) -> None:
    weights = published(name)
    assert weights is None or weights.page.startswith("https://")
