from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

import leanformer
from leanformer.checkpoints import runs
from leanformer.compression import Chooser, Meter, parse_step, run_chain
from leanformer.compression.choosing import Way
from leanformer.compression.steps import Amount
from leanformer.data import ArrayImages
from leanformer.edits import FoldNorms, RemoveAttention
from leanformer.errors import ConfigError, DataError, EditError

from .conftest import CLASSES

LINES: list[str] = []


def _chain(meter, images, *texts, force: bool = False, way: Way = "entropy"):
    chooser = Chooser(images=images, way=way, count=64)
    steps = [parse_step(text) for text in texts]
    return run_chain(meter.original, steps, meter, chooser, force=force, tell=LINES.append)


def test_each_step_is_measured_and_the_original_stays(meter, images, vit):
    before = copy.deepcopy(vit.state_dict())
    chain = _chain(meter, images, "remove_attention:2", "merge_tokens:8")
    original, removed, merged = chain.rows
    assert original.score == 1.0 and original.num_images == len(images)
    assert original.macs > removed.macs > merged.macs
    assert original.parameters > removed.parameters == merged.parameters
    assert removed.latency.over_previous.verdict == merged.latency.over_previous.verdict == "paid"
    assert [edit["kind"] for edit in merged.edits] == ["remove_attention", "merge_tokens"]
    assert vit.edits == [] and all(torch.equal(value, before[name]) for name, value in vit.state_dict().items())


def test_the_plan_of_a_step_is_kept(meter, images):
    chain = _chain(meter, images, "remove_attention:0.5")
    (plan,) = chain.plans
    (removal,) = chain.model.edits
    assert isinstance(removal, RemoveAttention) and len(removal.blocks) == 2
    assert plan["edit"]["blocks"] == list(removal.blocks)
    assert plan["num_images"] >= 64


def test_a_step_that_makes_the_model_slower_is_refused_unless_it_is_forced(meter, images):
    slow = '{"kind": "swap_attention", "to": {"kind": "simplified_linear", "local_kernel": 31}}'
    chain = _chain(meter, images, slow)
    assert chain.rows[-1].note.startswith("refused") and chain.kept == chain.rows[:1]
    assert chain.model.edits == []
    forced = _chain(meter, images, slow, force=True)
    assert forced.rows[-1].note == "" and len(forced.model.edits) == 1


def test_an_edit_that_breaks_its_word_is_found_out(meter, images, monkeypatch):
    monkeypatch.setattr(RemoveAttention, "exact", True)
    with pytest.raises(EditError, match="remove_attention should keep the outputs"):
        _chain(meter, images, "remove_attention:0,1")


def test_a_plan_without_data_is_refused_and_says_what_needs_none(vit):
    meter = Meter(vit, None, "", repeats=2)
    with pytest.raises(DataError, match="--plan first or random"):
        _chain(meter, None, "merge_tokens:2", "remove_attention:2")
    chain = _chain(meter, None, "remove_attention:2", way="first")
    assert chain.model.edits == [RemoveAttention(blocks=(0, 1), form="skip")]
    assert chain.rows[-1].score is None


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("merge_tokens:8", "remove_attention:5"), "4 attention layers, of which 1 to 4 can be taken, got 5"),
        (("remove_attention:0,1,2,3", "remove_attention:0.5"), "no block with attention that could be removed"),
        (("remove_attention:0,1,2,3", "drop_heads:0.5"), "no block with attention"),
        (("merge_tokens:33",), "r=33 is more than half of the 64 tokens"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_measured(meter, images, texts, message):
    with pytest.raises((ConfigError, EditError), match=message):
        _chain(meter, images, *texts)
    assert meter.timed == 0


def test_a_plan_by_latency_times_batches_as_they_will_be_used(vit):
    sizes: set[int] = set()
    with vit.register_forward_pre_hook(lambda module, inputs: sizes.add(len(inputs[0]))):
        chooser = Chooser(images=None, way="latency", timed=3)
        plan = chooser.choose(vit, Amount(kind="remove_attention", count=1))
    assert plan.unit == "of the time" and 3 in sizes and sizes <= {1, 3}


def test_a_plan_by_accuracy_knows_classes_by_their_names(vit, images):
    other = ArrayImages(images.pixels, len(CLASSES) - 1 - images.labels, CLASSES[::-1], "reversed")
    amount = Amount(kind="remove_attention", count=2)
    plain, reverse = (Chooser(images=given, way="accuracy", count=64).choose(vit, amount) for given in (images, other))
    assert plain.full["accuracy"] == 1.0  # the model is right on its own images
    assert reverse.full == plain.full and reverse.edit == plain.edit


def test_the_result_loads_strictly_and_answers_alike(meter, images, tmp_path):
    chain = _chain(meter, images, "remove_attention:2", "merge_tokens:8")
    runs.save(chain.model, tmp_path / "lean")
    again = leanformer.load(tmp_path / "lean")
    batch = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(batch), chain.model(batch))


def test_times_of_a_real_clock_come_with_their_spread(vit):
    meter = Meter(vit, None, "", repeats=5)
    found = meter.measure("original", vit)
    assert 0 < found.latency.p10_ms <= found.latency.median_ms <= found.latency.p90_ms
    assert found.latency.over_original.speedup == 1.0
    assert "parameters" in found.line() and " ms (" in found.line()


def test_folding_norms_is_checked_to_be_exact(images):
    torch.manual_seed(0)
    model = leanformer.build("slab_swin_nano", image_size=32, num_classes=4).eval()
    for module in model.modules():
        if getattr(module, "scheduled", None) == "norm_progress":
            module.set_scheduled(0.0)  # type: ignore[operator]
    chain = _chain(Meter(model, None, "", repeats=2), None, "fold_norms", force=True)
    assert isinstance(chain.model.edits[0], FoldNorms)


def test_figures_of_a_busy_machine_say_so(meter):
    figures = meter.measure("original", meter.original)
    at = dataclasses.replace(figures.latency, p10_ms=1.0, p90_ms=2.9)
    busy = dataclasses.replace(figures, latency=at)
    assert busy.line().endswith("the machine was busy, times spread 2.9-fold")
    assert "busy" not in figures.line()


def test_the_page_has_no_verdict_on_the_original(meter, tmp_path):
    from leanformer.compression.page import write_page

    first = meter.measure("original", meter.original)
    text = write_page(tmp_path / "page.html", "vit", [first], first, []).read_text()
    assert "no difference measured" not in text and "original" in text
