"""Advice follows from figures: here from times that are made up, and once from a clock."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

import leanformer
from leanformer.bench import PartTimes
from leanformer.cli import main
from leanformer.compression import Gain
from leanformer.compression.advice import Advice, Timer, advice_lines, advise, rebuilt
from leanformer.compression.advice.advise import whole_crossings
from leanformer.compression.advice.changes import relatives
from leanformer.compression.advice.crossing import find_crossing
from leanformer.compression.advice.figures import Change, Setting
from leanformer.compression.advice.memory import structure
from leanformer.compression.advice.page import write_page
from leanformer.compression.advice.places import find_places, measure_place, sides_of
from leanformer.compression.advice.steps import first_steps
from leanformer.compression.advice.turns import Turns, choose
from leanformer.edits import FuseLinear, SwapNorm
from leanformer.errors import ConfigError
from leanformer.layers.norm import PRepBN
from leanformer.recipes import default_recipe
from leanformer.recipes.changes import change as set_field
from leanformer.training import ModelSpec


@dataclass(frozen=True, kw_only=True)
class MadeUp(Timer):
    """Takes the times of whole models from a table; of attention alone, 1 ns for a pair of tokens in softmax and 400 ns
    for a token in any other."""

    seconds: dict[str, float] = field(default_factory=dict)
    sides: tuple[int, ...] = ()
    calls: list[str] = field(default_factory=list)

    def turns(self, runners, *, batch_size, image_size, budget, must=1):
        """Six rounds of each, all equal."""
        self.calls.append("attention" if image_size == 1 else "models")
        if image_size == 1:
            tokens = self.sides[(self.calls.count("attention") - 1) % len(self.sides)] ** 2
            times = {r.name: 1e-9 * tokens * (tokens if r.name == "softmax" else 400) for r in runners}
        else:
            times = {r.name: self.seconds.get(r.name, 1.0) for r in runners}
        return [Turns(name=runner.name, seconds=(times[runner.name],) * 6) for runner in runners]

    def parts(self, model, images, rounds):
        """All of it is MLP."""
        self.calls.append("parts")
        return PartTimes(ms={"MLP": 1000.0}, shares={"MLP": 1.0}, whole_ms=1000.0, measuring=1.0)


def gain(speedup: float, noise: float = 0.01) -> Gain:
    return Gain(speedup=speedup, low=speedup - noise, high=speedup + noise)


def change(name: str, speedup: float, needs="images", **more) -> Change:
    given = {"attention": False, "edit": name, "median_ms": 1.0, "base_ms": 1.0, "rounds": 6, **more}
    return Change(name=name, needs=needs, gain=gain(speedup), **given)


def setting(*changes: Change, size: int = 64, batch_size: int = 1) -> Setting:
    return Setting(
        image_size=(size, size), batch_size=batch_size, median_ms=1.0, p10_ms=0.9, p90_ms=1.1, rounds=6, measuring=1.0,
        parts=(), changes=changes, refused=(), random_weights=True,
    )  # fmt: skip


def nano(size: int | None):
    return leanformer.build("deit_nano", **({} if size is None else {"image_size": size}))


def test_a_crossing_is_where_the_line_between_two_sizes_passes_one():
    found = find_crossing("a", "b", (100, 200, 400, 800), [gain(s) for s in (0.5, 0.8, 1.25, 2.0)])
    assert found.at == pytest.approx(200 * 2**0.5)  # 0.8 and 1.25 are as far from 1 on a logarithmic scale
    assert found.between == (200, 400)
    assert found.text("tokens") == "283 tokens (between 200 and 400)"


@pytest.mark.parametrize(
    ("speedups", "at"),
    [
        ((0.5, 0.7, 0.9), None),
        ((0.5, 1.5, 0.9), None),  # faster, but not from there on
        ((1.2, 1.5, 2.0), 100),
        ((0.5, 1.005, 2.0), 400),  # 1.005 is within the noise
    ],
    ids=["never", "in between", "always", "noise"],
)
def test_a_crossing_holds_for_all_larger_sizes_and_is_more_than_noise(speedups, at):
    found = find_crossing("a", "b", (100, 200, 400), [gain(s) for s in speedups])
    assert found.at == at
    assert ("none up to 400 px" in found.text("px")) == (at is None)


def test_a_budget_keeps_the_first_and_the_fastest_in_at_least_six_rounds():
    assert choose([1.0, 5.0, 2.0, 1.0], repeats=50, budget=100.0) == ([0, 1, 2, 3], 11)
    assert choose([1.0, 5.0, 2.0, 1.0], repeats=7, budget=30.0) == ([0, 2, 3], 7)
    assert choose([1.0, 5.0, 2.0, 1.0], repeats=7, budget=0.1) == ([0, 3], 6)
    assert choose([1.0, 5.0, 2.0, 1.0], repeats=7, budget=0.1, must=2) == ([0, 1, 3], 6)


def test_one_round_makes_no_claim():
    first = Turns(name="as it is", seconds=(1.0,) * 6)
    assert Turns(name="a", seconds=(0.5,)).gain_over(first) is None
    assert Turns(name="a", seconds=(0.5,) * 6).gain_over(first) == Gain(speedup=2.0, low=2.0, high=2.0)


@pytest.fixture
def stored(tmp_path, monkeypatch) -> str:
    """A run, as it is typed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "config.json").touch()
    return "runs/mine"


def test_what_keeps_the_outputs_comes_first_then_what_images_choose_then_training(stored):
    steps = first_steps(
        setting(
            change("swap_attention:elu_linear", 3.0, "training", attention=True),
            change("merge_tokens:4", 1.2),
            change("merge_tokens:8", 1.5),
            change("remove_attention:0.5", 1.3),
            change("fold_norms", 1.1, "nothing", difference=1e-6),
            change("fuse_linear", 1.4, "nothing", difference=0.3),
            change("class_token_tail", 0.9, "nothing", difference=1e-6),
        ),
        stored,
        stored=True,
    )
    assert [step.text.partition(" 1")[0].partition(" 3")[0] for step in steps] == [
        "the outputs stay: fold_norms", "merge_tokens:8", "remove_attention:0.5", "swap_attention:elu_linear"
    ]  # fmt: skip
    assert steps[0].command == "leanformer compress runs/mine --edit fold_norms --out runs/lean"
    assert "--data DATA --edit fold_norms --edit merge_tokens:8" in steps[1].command
    assert "--from runs/mine/config.json" in steps[-1].command
    assert '"kind": "swap_attention"' in steps[-1].command


def test_norms_are_swapped_in_a_run_with_all_that_they_need(stored):
    found = setting(change("swap_norm:p_rep_bn, then fold_norms", 3.0, "training"))
    (step,) = first_steps(found, stored, stored=True)
    words = shlex.split(step.command)
    config = default_recipe(ModelSpec(name="deit_nano"), Path("out"))
    for place, word in enumerate(words):
        config = set_field(config, words[place + 1]) if word == "--set" else config
    asked = default_recipe(ModelSpec(name="deit_nano", edits=(SwapNorm(to=PRepBN()),)), Path("out"))
    assert (config.model, config.schedules, config.finish) == (asked.model, asked.schedules, asked.finish)


def test_what_is_no_run_cannot_be_repeated(tmp_path):
    found = setting(change("swap_attention:elu_linear", 3.0, "training", attention=True))
    (step,) = first_steps(found, str(tmp_path), stored=True)
    assert "holds no run to repeat" in step.text
    assert not step.command


def test_a_model_without_weights_is_to_be_trained_before_it_is_compressed():
    found = setting(change("remove_attention:0.5", 1.3), change("fold_norms", 1.1, "nothing", difference=1e-6))
    commands = [step.command for step in first_steps(found, "deit_nano", stored=False, threads=1)]
    assert commands == [
        "leanformer compress RUN --edit fold_norms --out runs/lean --threads 1",
        "leanformer compress RUN --data DATA --edit fold_norms --edit remove_attention:0.5 --out runs/lean --threads 1",
    ]


def test_where_nothing_pays_it_says_so():
    (step,) = first_steps(
        setting(change("merge_tokens:4", 1.005), change("fold_norms", 0.7)), "deit_nano", stored=False
    )
    assert "keep the model as it is" in step.text
    assert not step.command


def test_the_crossing_of_attention_alone_is_found(vit):
    (place,) = find_places(vit)
    found = measure_place(place, (7, 14, 28), 1, MadeUp(sides=(7, 14, 28)))
    crossings = {crossing.name: crossing for crossing in found.crossings}
    assert {"focused_linear", "simplified_linear", "elu_linear", "additive"} <= set(crossings)
    assert crossings["elu_linear"].at == pytest.approx(401, abs=3)  # and the class token
    assert crossings["elu_linear"].between == (197, 785)


def test_windows_are_a_rival_of_their_own():
    model = leanformer.build("swin_nano")
    place = find_places(model)[0]
    assert sides_of(place, model, [(64, 64), (256, 256)])[-1] == 64
    found = measure_place(place, (8,), 1, MadeUp(sides=(8,)))
    assert len({crossing.baseline for crossing in found.crossings}) == 2


def test_relatives_differ_in_attention_alone():
    with torch.device("meta"):
        assert [name for name, _ in relatives(leanformer.build("swin_tiny"))] == ["flatten_swin_tiny"]


def test_the_crossing_of_whole_models_is_among_the_sizes_asked_for():
    def at(size: int, speedup: float) -> Setting:
        return setting(change("flatten_swin_tiny", speedup, "training", attention=True, edit=None), size=size)

    (found,) = whole_crossings("swin_tiny", [at(512, 1.25), at(224, 0.8)])
    assert found.between == (224, 512)
    assert found.at == pytest.approx((224 * 512) ** 0.5)


def test_advice_says_what_pays_what_is_refused_and_is_measured_once(tmp_path, monkeypatch):
    monkeypatch.setattr("leanformer.bench.method._commit", lambda folder: None)  # another commit is another version
    timer = MadeUp(seconds={"merge_tokens:4": 0.5, "elu_linear": 2.0}, sides=(7, 8, 10, 14, 20, 28))
    given = {"image_sizes": (64, 65), "timer": timer, "folder": tmp_path}
    first = advise("deit_nano", nano, **given)
    calls = len(timer.calls)
    assert [refusal.name for refusal in first.refused] == ["65 px"]
    assert {"fold_norms", "fuse_linear"} <= {refusal.name for refusal in first.settings[0].refused}
    assert [step.text[:14] for step in first.steps["64 px, batch 1"]] == ["merge_tokens:4"]

    again = advise("deit_nano", nano, **given)
    assert len(timer.calls) == calls
    assert replace(again, measured=()) == replace(first, measured=())
    assert all(each.path is not None for each in again.measured)
    said = "\n".join(advice_lines(again))
    assert "--fresh measures" in said
    assert "(RUN is a trained run of deit_nano, and DATA its images)" in said
    assert re.search(r"merge_tokens:4 +500\. of 1\.00e\+03 ms  2\.00x", said)
    assert Advice.from_dict(json.loads(json.dumps(first.to_dict()))) == first

    (damaged,) = [path for path in tmp_path.glob("*.json") if '"place"' in path.read_text()]
    damaged.write_text("{")  # measured again
    assert replace(advise("deit_nano", nano, **given), measured=()) == replace(first, measured=())
    assert len(timer.calls) > calls

    page = write_page(tmp_path / "page.html", first).read_text()
    assert "merge_tokens:4" in page
    assert "65 px" in page


def test_what_is_kept_belongs_to_one_structure_whatever_its_weights():
    models = [leanformer.build("pvt_nano", **more) for more in ({}, {}, {"image_size": 96}, {})]
    leanformer.apply(models[3], FuseLinear())
    first, same, larger, edited = map(structure, models)
    assert first == same
    models[1].origin = {"from": "training"}  # of which advice does not say that its weights are random
    assert len({first, structure(models[1]), larger, edited}) == 4


def test_a_model_that_can_be_built_for_no_size_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="multiple of the patch size"):
        advise("deit_nano", nano, image_sizes=(65,), timer=MadeUp(), folder=tmp_path)


def test_an_edited_model_is_rebuilt_for_another_size():
    model = leanformer.build("pvt_nano").eval()
    leanformer.apply(model, FuseLinear())
    other = rebuilt(model, 96)
    assert other.config.image_grid == (96, 96)
    assert other.edits == model.edits
    assert other(torch.zeros(1, 3, 96, 96)).shape == (1, model.config.num_classes)


def test_real_times_have_a_spread_and_a_baseline(vit):
    found = measure_place(find_places(vit)[0], (7,), 1, Timer(repeats=6, threads=1))
    assert {"softmax", "focused_linear"} <= {curve.name for curve in found.curves}
    assert all(ms > 0 for curve in found.curves for ms in curve.median_ms)
    assert {crossing.up_to for crossing in found.crossings} <= {50}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--repeats", "5"), "--repeats must be at least 6"),
        (("--image-sizes", "0"), "--image-sizes must be at least 1, got 0"),
        (("--threads", "0"), "--threads must be at least 1"),
    ],
    ids=["repeats", "size", "threads"],
)
def test_settings_that_cannot_be_measured_are_refused(options, message, capsys):
    assert main(["advise", "deit_nano", *options]) == 2
    assert message in capsys.readouterr().err
