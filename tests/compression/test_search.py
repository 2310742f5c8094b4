from __future__ import annotations

import dataclasses
import json
from dataclasses import replace

import pytest
import torch

import leanformer
from leanformer.bench import count_cost
from leanformer.checkpoints import runs
from leanformer.cli.compress import paced
from leanformer.compression import Chooser, Goal, Searcher, Target, TargetMissed, Tuning, moves
from leanformer.compression.choosing import Way
from leanformer.compression.memory import FORMAT, Memory
from leanformer.compression.moves import Candidate, nested_order
from leanformer.compression.steps import Amount
from leanformer.data import Augment, DataOptions
from leanformer.edits import DropHeads, MergeTokens, RemoveAttention


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch):
    """So many that each kind of change is among them."""
    monkeypatch.setattr(moves, "HEAD_SHARES", (0.5,))
    monkeypatch.setattr(moves, "MERGED_SHARES", (0.5,))
    monkeypatch.setattr(moves, "MOST_REMOVALS", 2)


def _searcher(meter, images, folder, *, target="0.9x", max_drop=100.0, tuning=None, lines=None, tuned=1):
    return Searcher(
        original=meter.original,
        meter=meter,
        chooser=Chooser(images=images, count=64),
        goal=Goal(target=Target.parse(target), max_drop=max_drop, tuned=tuned),
        all_images=images,
        folder=folder,
        tuning=tuning,
        tell=(lines if lines is not None else []).append,
    )


def test_the_most_accurate_of_those_that_are_fast_enough_is_chosen(meter, images, folder):
    found = _searcher(meter, images, folder, target="0.8x").run()
    assert Target.parse("0.8x").reached(found.best.latency)
    tried = [
        row for row in found.rows[1:] if row.name.endswith(("removed", "dropped", "block")) and row is not found.best
    ]
    assert len(tried) > 2
    assert found.best.score == max(row.score for row in tried)
    assert found.rows[-1] is found.best and found.best.name.endswith("all images")
    assert found.best.num_images == len(images)


def test_what_is_found_is_the_model_that_was_measured(meter, images, folder, tmp_path):
    found = _searcher(meter, images, folder).run()
    runs.save(found.model, tmp_path / "lean")
    again = leanformer.load(tmp_path / "lean")
    assert meter.measure("again", again, images=images).score == found.best.score
    assert [edit.kind for edit in again.edits] == [edit["kind"] for edit in found.best.edits]


def test_a_search_that_goes_on_measures_nothing_again(meter, images, folder):
    _searcher(meter, images, folder).run()
    timed = meter.timed
    lines: list[str] = []
    _searcher(meter, images, folder, lines=lines).run()
    assert meter.timed - timed == 1  # the last measurement of the choice
    assert any(line.startswith("original: ") for line in lines)


def test_a_search_that_goes_on_plans_with_what_was_measured(meter, images, folder):
    _searcher(meter, images, folder).run()
    chooser = Chooser(images=images, count=64)
    known = Memory(folder / "figures.json", meter).plans(chooser.sees)
    amount = Amount(kind="remove_attention", share=1.0)
    fresh, again = (replace(chooser, known=figures).choose(meter.original, amount) for figures in ({}, known))
    assert again.edit == fresh.edit and [t.figures for t in again.trials] == [t.figures for t in fresh.trials]
    assert again.forward_passes == 1.0 < fresh.forward_passes  # the network itself, to see that it is the same
    assert Chooser(images=images, count=32).sees != chooser.sees


def test_a_search_says_how_far_its_plans_are(meter, images, folder, capsys):
    searcher = _searcher(meter, images, folder)
    searcher.chooser = replace(searcher.chooser, progress=paced(0.0))
    searcher.run()
    assert "  choosing: round 3 of 4, 2 variants: 64 of 64\n" in capsys.readouterr().err
    paced(60.0)("nothing yet")
    assert not capsys.readouterr().err


def test_figures_of_other_weights_are_measured_again(meter, images, folder):
    _searcher(meter, images, folder).run()
    with torch.no_grad():
        meter.original.head.classifiers()[0].bias.add_(0.25)
    del meter.fingerprint
    timed = meter.timed
    _searcher(meter, images, folder).run()
    assert meter.timed - timed > 10


def test_a_target_beyond_reach_says_what_the_fastest_is(meter, images, folder):
    with pytest.raises(TargetMissed, match=r"the fastest candidate has a median of .* of the original's speed"):
        _searcher(meter, images, folder, target="0.01x").run()


def test_an_accuracy_that_cannot_be_kept_says_what_came_nearest(meter, images, folder):
    with pytest.raises(TargetMissed, match=r"best that is fast enough is .*top-1 .*--tune-epochs"):
        _searcher(meter, images, folder, target="0.5x", max_drop=0.0).run()


def test_damaged_figures_of_a_search_are_named(meter, images, folder):
    _searcher(meter, images, folder).run()
    (folder / "figures.json").write_text(json.dumps({"format": FORMAT}))
    with pytest.raises(leanformer.errors.CheckpointError, match="figures.json: not the figures of a search"):
        _searcher(meter, images, folder).run()


def test_layers_go_in_the_order_of_a_greedy_plan(vit, images):
    chooser = Chooser(images=images, count=64)
    order = nested_order(chooser.choose(vit, Amount(kind="remove_attention", share=1.0)))
    assert sorted(map(int, order)) == list(range(4))
    for count in (1, 2):
        edit = chooser.choose(vit, Amount(kind="remove_attention", count=count)).edit
        assert isinstance(edit, RemoveAttention) and sorted(map(int, order[:count])) == list(edit.blocks)


def test_candidates_have_names_for_people_and_keys():
    one = Candidate((RemoveAttention(blocks=(0, 2)), MergeTokens(r=3)))
    assert one.name == "attention of 0,2 removed + 3 tokens merged a block"
    assert one.key == Candidate(one.changes).key != Candidate(one.changes[:1]).key


def test_trainings_differ_by_what_decides_their_weights():
    one = Tuning(data="garments", options=DataOptions(), augment=None, epochs=1)
    assert replace(one, workers=2, device="cpu").key == one.key
    others = [replace(one, epochs=2), replace(one, seed=1), replace(one, augment=Augment(hflip=0.25))]
    assert len({one.key, *(other.key for other in others)}) == 4


def _candidates(meter, images, *, way: Way = "entropy", trainable=True, slower=lambda candidate: False, lines=None):
    chooser = Chooser(images=images, way=way, seed=1, count=64)
    told = lines if lines is not None else []
    return list(moves.candidates(meter.original, chooser, told.append, trainable=trainable, slower=slower))


@pytest.mark.parametrize("way", ["random", "exhaustive", "accuracy"])
def test_layers_go_as_the_plan_would_have_so_many(way: Way, meter, images):
    removals = {
        change
        for candidate in _candidates(meter, images, way=way, trainable=False)
        for change in candidate.changes
        if isinstance(change, RemoveAttention)
    }
    chooser = Chooser(images=images, way=way, seed=1, count=64)
    amounts = [Amount(kind="remove_attention", count=count) for count in (2, 3)]
    assert removals == {chooser.choose(meter.original, amount).edit for amount in amounts}
    assert way != "random" or RemoveAttention(blocks=(0, 1), form="skip") not in removals


def test_no_change_of_a_candidate_is_undone_by_another(meter, images):
    heads = [(c, d) for c in _candidates(meter, images) for d in c.changes if isinstance(d, DropHeads)]
    removals = [change for c, _ in heads for change in c.changes if isinstance(change, RemoveAttention)]
    assert heads and removals  # together, where some heads are dropped from attention that stays
    costs = [(count_cost(c.built(meter.original, ()), 32), c.swaps_norms) for c in _candidates(meter, images)]
    assert len(set(costs)) == len(costs)


def test_norms_that_fold_are_tried_where_the_model_may_be_trained(meter, images):
    swapping = [candidate for candidate in _candidates(meter, images) if candidate.swaps_norms]
    assert len(swapping) == len(_candidates(meter, images, trainable=False))
    assert swapping[0].name == "PRepBN, folded"
    lean = swapping[0].built(meter.original, ())
    assert [edit.kind for edit in lean.edits] == ["swap_norm", "fold_norms"]
    assert not any(isinstance(module, torch.nn.LayerNorm) for module in lean.modules())
    assert any(isinstance(module, torch.nn.LayerNorm) for module in meter.original.modules())


def test_a_class_token_keeps_an_attention_that_shows_it_the_image(meter, images):
    removed = [
        change.blocks
        for candidate in _candidates(meter, images)
        for change in candidate.changes
        if isinstance(change, RemoveAttention)
    ]
    assert max(map(len, removed)) == 3


def test_what_slows_the_model_alone_is_in_no_combination(meter, images):
    lines: list[str] = []

    def slower(candidate):
        return isinstance(candidate.changes[0], MergeTokens)

    tried = _candidates(meter, images, slower=slower, lines=lines)
    assert tried and not any(isinstance(change, MergeTokens) for candidate in tried for change in candidate.changes)
    assert any("each of them alone makes the model slower: " in line and "tokens merged" in line for line in lines)


@pytest.mark.slow
def test_norms_are_swapped_trained_and_folded(folder, tmp_path, monkeypatch):
    from leanformer.data import open_data
    from leanformer.data.part import some_of

    from .conftest import CountingMeter

    monkeypatch.setattr(moves, "HEAD_SHARES", ())
    monkeypatch.setattr(moves, "MERGED_SHARES", ())
    monkeypatch.setattr(Candidate, "swaps_norms", property(lambda self: True))  # no other is evaluated untrained
    start = leanformer.build("deit_nano", image_size=28, patch_size=7, depth=2, dim=32, num_heads=2, num_classes=10)
    train, val = (open_data("garments", side) for side in ("train", "val"))
    start.set_classes(train.classes)
    meter = CountingMeter(start.eval(), some_of(val, 200), "garments", repeats=2)
    tuning = Tuning(data="garments", options=DataOptions(), augment=None, epochs=1)
    found = _searcher(meter, val, folder, target="0.999x", max_drop=-5.0, tuning=tuning, tuned=3).run()
    assert found.best.name == "PRepBN, folded, trained, all images"
    assert not any(isinstance(module, torch.nn.LayerNorm) for module in found.model.modules())
    runs.save(found.model, tmp_path / "lean")
    again = leanformer.load(tmp_path / "lean")
    assert meter.measure("again", again, images=val).score == found.best.score


@pytest.mark.slow
def test_a_candidate_that_lost_too_much_is_trained_with_its_attention_fading(vit, folder, tmp_path, monkeypatch):
    from leanformer.data import open_data
    from leanformer.data.part import some_of

    from .conftest import CountingMeter

    monkeypatch.setattr(moves, "HEAD_SHARES", ())
    monkeypatch.setattr(moves, "MERGED_SHARES", ())
    start = leanformer.build("deit_nano", image_size=28, patch_size=7, depth=4, dim=32, num_heads=2, num_classes=10)
    train, val = (open_data("garments", side) for side in ("train", "val"))
    start.set_classes(train.classes)
    meter = CountingMeter(start.eval(), some_of(val, 200), "garments", repeats=2)
    tuning = Tuning(data="garments", options=DataOptions(), augment=None, epochs=1)
    # Random weights are right by chance: a single epoch beats them, so that no accuracy is lost.
    searcher = _searcher(meter, train, folder, target="0.8x", max_drop=-20.0, tuning=tuning)
    found = searcher.run()
    assert found.best.name.endswith("trained, all images")
    assert "dilute_attention" in str(found.best.edits) and "remove_attention" in str(found.best.edits)
    assert found.best.score is not None and found.rows[0].score is not None
    assert found.best.score > found.rows[0].score + 0.2
    runs.save(found.model, tmp_path / "lean")
    assert meter.measure("again", leanformer.load(tmp_path / "lean"), images=train).score == found.best.score


@pytest.mark.slow
def test_another_training_or_another_model_begins_anew(folder, monkeypatch):
    from leanformer.data import open_data
    from leanformer.data.part import some_of

    from .conftest import CountingMeter

    monkeypatch.setattr(moves, "HEAD_SHARES", ())
    monkeypatch.setattr(moves, "MERGED_SHARES", ())
    start = leanformer.build("deit_nano", image_size=28, patch_size=7, depth=2, dim=32, num_heads=2, num_classes=10)
    val = open_data("garments", "val")
    start.set_classes(val.classes)

    def search(epochs):
        meter = CountingMeter(start.eval(), some_of(val, 50), "garments", repeats=2)
        tuning = Tuning(data="garments", options=DataOptions(), augment=None, epochs=epochs)
        with pytest.raises(TargetMissed):  # nothing is better than right
            _searcher(meter, some_of(val, 64), folder, target="0.99x", max_drop=-100.0, tuning=tuning).run()
        return sorted(path.name for path in folder.iterdir())

    assert len(search(1)) == len(search(1)) == 3  # the figures, the original, a training
    assert len(search(2)) == 4
    with torch.no_grad():
        start.head.classifiers()[0].bias.add_(0.25)
    names = search(2)
    assert len([name for name in names if name.startswith("original-")]) == 2 and len(names) == 6


def test_a_latency_near_the_target_is_measured_in_more_rounds(meter, images, folder, monkeypatch):
    rounds: list[int | None] = []
    steady = type(meter).latency

    def unsure(self, model, previous=None, *, repeats=None):
        rounds.append(repeats)
        found = steady(self, model, previous, repeats=repeats)
        wide = dataclasses.replace(found.over_original, low=0.5, high=99.0)
        return found if repeats == 9 * self.repeats else dataclasses.replace(found, over_original=wide)

    monkeypatch.setattr(type(meter), "latency", unsure)
    found = _searcher(meter, images, folder, target="0.8x").run()
    assert found.best.latency.over_original.high < 99.0
    assert {3 * meter.repeats, 9 * meter.repeats} <= set(rounds)
