"""The page of a run shows what the run's directory holds, finished or not, as one file that fetches nothing."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from html import unescape

import pytest
import torch

from leanformer.data.mixing import Mixing
from leanformer.data.synthetic import write_folder
from leanformer.errors import ConfigError
from leanformer.layers.norm import Norms, RepBN
from leanformer.models import ImageClassifier
from leanformer.models.vit import ViT
from leanformer.tasks import measure_calibration
from leanformer.training import Linear, ModelSpec, Result, Scheduled, TrainConfig, fit
from leanformer.viz import RunPage, render_run_page, write_run_page
from leanformer.viz.run_page import _names, _next_commands
from leanformer.viz.sections import calibration, classes

NASTY = "<script>alert('x')</script>"
TINY = ViT(image_size=16, patch_size=4, dim=16, depth=1, num_heads=2, pool="mean")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Result:
    folder = tmp_path_factory.mktemp("data") / "photos"
    write_folder(folder, per_class=12, num_val=6, num_unreadable=1)
    config = TrainConfig(
        model=ModelSpec(config=TINY), data=str(folder), out=folder.parent / "run", epochs=2, batch_size=8, log_every=1,
        schedules=(Scheduled(what="weight_decay", schedule=Linear(start=1.0, end=0.5)),), ema=0.5, clip=1.0,
        mixing=Mixing(mixup=0.8), device="cpu",
    )  # fmt: skip
    return fit(config)


@pytest.fixture(scope="module")
def page(finished) -> str:
    return unescape(write_run_page(finished.out, finished.evaluation).read_text(encoding="utf-8"))


def headings(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_the_page_has_every_part(page):
    assert headings(page) == [
        "Training", "Training images", "Classes", "Calibration", "Mistakes", "Skipped images", "Configuration",
        "Versions", "Next",
    ]  # fmt: skip


def test_nothing_is_fetched_from_anywhere(page):
    text = re.sub(r'"data:image/png;base64,[^"]*"', "", page)
    assert not re.search(r"https?:|@import|url\(|<script|<link", text)


def test_losses_accuracies_and_everything_else_that_steps_report_have_curves(page):
    for described in (
        "Loss over training: training", "validation, averaged from", "Learning rate over training",
        "top-1, averaged from", "Norm of the gradient, before clipping over training",
    ):  # fmt: skip
        assert described in page


def test_a_scheduled_value_without_a_title_of_its_own_is_drawn_under_its_name():
    rows = [{"event": "step", "step": s, "loss": 1.0, "temperature": 1 - s / 4} for s in range(4)]
    page = render_run_page(RunPage(title="a", summary="b", metrics=rows))
    assert "temperature over training: temperature from 1 to 0.25." in page
    assert "RepBN alone" not in page


def test_a_page_of_a_blended_run_says_why_validation_is_poor_meanwhile():
    rows = [{"event": "step", "step": 1, "loss": 1.0, "norm_progress": 0.5}]
    assert "validation uses RepBN alone" in render_run_page(RunPage(title="a", summary="b", metrics=rows))


def test_the_training_images_are_those_of_the_first_epoch(page, finished):
    sheet = page[page.index("<h2>Training images") : page.index("<h2>Classes")]
    labels = re.findall(r"<figcaption>(.*?)</figcaption>", sheet)
    assert len(labels) == 16
    mixed = [re.fullmatch(r"(.+?) (\d+)%, (.+?) (\d+)%", label) for label in labels]
    assert any(mixed)
    for label, parts in zip(labels, mixed, strict=True):
        assert ({parts[1], parts[3]} if parts else {label}) <= set(finished.model.classes)
        assert parts is None or (99 <= int(parts[2]) + int(parts[4]) <= 101 and int(parts[2]) >= int(parts[4]))


def test_a_target_names_its_classes_with_their_shares_where_they_are_not_whole():
    classes = ("cat", "dog", "emu")
    assert _names(torch.tensor(1), classes) == "dog"
    assert _names(torch.tensor([1.0, 0.0, 1.0]), classes) == "cat, emu"
    assert _names(torch.tensor([0.25, 0.0, 0.75]), classes) == "emu 75%, cat 25%"


def test_the_surest_mistakes_come_first_and_are_all_wrong(page, finished):
    sheet = page[page.index("<h2>Mistakes") : page.index("<h2>Skipped")]
    shares = [int(share) for share in re.findall(r"says .*?, (\d+)%", sheet)]
    wrong = int((finished.evaluation.predictions != finished.evaluation.labels).sum())
    assert len(shares) == min(wrong, 24) and shares == sorted(shares, reverse=True)
    assert "✓ right" not in sheet


def test_the_config_versions_and_skipped_images_are_listed(page, finished):
    assert '<th scope="row">model.config.image_size</th><td>16</td>' in page
    assert f'<th scope="row">torch</th><td>{torch.__version__.partition("+")[0]}' in page
    for name in finished.skipped:
        assert name in page


def test_the_least_accurate_class_is_listed_first():
    rows = classes([[9, 1, 0], [5, 5, 0], [0, 0, 0]], ("a", "b", "empty"))
    assert re.findall(r'<tr><th scope="row">(\w+)', rows) == ["b", "a", "empty"]


def test_of_very_many_classes_the_most_frequent_mistakes_are_listed():
    confusion = [[9 if i == j else 0 for j in range(60)] for i in range(60)]
    confusion[7][41] = 3
    found = classes(confusion, [f"class {i}" for i in range(60)])
    assert re.search(r'"row">class 7</th><td>class 41</td><td class="number">3</td><td class="number">25.0 %', found)


def test_calibration_gives_the_figures_of_the_evaluation(finished):
    found = measure_calibration(finished.evaluation)
    text = calibration(found, finished.evaluation.top1)
    assert f"{100 * found.ece:.2f} %, over 15 bins" in text and f"{found.brier:.4f}" in text


def test_a_run_that_is_not_finished_shows_what_there_is(finished, tmp_path):
    for name in ("config.json", "metrics.jsonl"):
        (tmp_path / name).write_bytes((finished.out / name).read_bytes())
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "st')
    page = write_run_page(tmp_path).read_text()
    assert headings(page) == ["Training", "Configuration", "Versions"]
    assert "not finished" in page


def test_without_an_evaluation_the_model_is_evaluated_here(finished, page):
    assert unescape(write_run_page(finished.out).read_text()) == page


def test_a_run_that_stopped_early_says_after_how_many_epochs(finished, tmp_path):
    stopped = tmp_path / "stopped early"
    shutil.copytree(finished.out, stopped)
    lines = (finished.out / "metrics.jsonl").read_text().splitlines(keepends=True)
    (stopped / "metrics.jsonl").write_text("".join(line for line in lines if '"epoch": 2,' not in line))
    assert " classes after epoch 2. " in write_run_page(finished.out, finished.evaluation).read_text()
    text = unescape(write_run_page(stopped, finished.evaluation).read_text())
    assert " classes after epoch 1 of 2, where training stopped. " in text
    assert f"leanformer export '{stopped}' --out '{stopped}/model.onnx'" in text


def test_the_next_commands_fold_norms_only_where_there_are_some(finished):
    folding = [classifier_of(norms) for norms in (Norms(), Norms(block=RepBN()))]
    found = [any("fold_norms" in line for line in _next_commands(finished.out, model)) for model in folding]
    assert found == [False, True]


def classifier_of(norms):
    return ImageClassifier(replace(TINY, norms=norms, num_classes=3)).eval()


def test_a_directory_without_a_run_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no training run.*config\.json"):
        write_run_page(tmp_path)


def test_names_of_users_are_shown_and_never_run():
    page = render_run_page(RunPage(title=NASTY, summary=NASTY, skipped={NASTY: NASTY}, config=((NASTY, NASTY),)))
    assert "<script" not in page
