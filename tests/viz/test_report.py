"""The report is one file that shows everything, asks nobody for anything, and never runs what a name contains."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from leanformer.viz import Prediction, Report, Step, render_report, write_report

NASTY = "<script>alert('x')</script>"
ATTRIBUTE = '" onerror="alert(1)'
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Parses a page strictly enough to notice a tag left open, and keeps what tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def prediction(true: str, predicted: str, side: int = 28) -> Prediction:
    return Prediction(image=np.full((side, side + 3), 99, np.uint8), true=true, predicted=predicted, probability=0.875)


@pytest.fixture(scope="module")
def report() -> Report:
    rows = [
        {"event": "step", "step": s, "loss": 2.0 - s / 10, "lr": 1e-3, "norm_progress": 1 - s / 10} for s in range(10)
    ]
    return Report(
        title=f"run of {NASTY}",
        summary=f"90.00 % right & {NASTY}",
        metrics=[*rows, {"event": "epoch", "step": 9, "loss": 1.25, "top1": 0.9}],
        steps=(
            Step(name="trained", accuracy=0.9, median_ms=8.0, p10_ms=7.5, p90_ms=9.0, speedup=1.0, parameters=812_345),
            Step(name=NASTY, median_ms=4.0, p10_ms=3.9, p90_ms=4.1, max_diff=3.2e-6, note=f"no speed-up {NASTY}"),
        ),
        predictions=(prediction("bag", "bag"), prediction(NASTY, ATTRIBUTE, side=300)),
        classes=("bag", NASTY, ATTRIBUTE),
        confusion=[[7, 0, 3], [1, 9, 0], [0, 0, 0]],
        method=[("cpu", "fast <one>"), ("command", "leanformer bench 'a b' && rm")],
        reproduce=("leanformer demo --out 'runs/a' && echo <done>",),
    )


@pytest.fixture(scope="module")
def page(report) -> Page:
    return Page(render_report(report))


def test_nothing_is_fetched_from_anywhere(report, page):
    text = re.sub(r'"data:image/png;base64,[^"]*"', "", render_report(report))
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "embed"})
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in page.all("img"))


def test_every_picture_is_a_png_with_a_description(page):
    for image in page.all("img"):
        data = base64.b64decode((image["src"] or "").partition(",")[2], validate=True)
        assert Image.open(io.BytesIO(data)).format == "PNG"
        assert image["alt"]


def test_names_of_users_are_shown_and_never_run(report, page):
    text = render_report(report)
    assert "<script" not in text and "alert" in text
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert NASTY in page.texts, "the name is there as text"


def test_headings_are_in_order_and_tables_have_captions(page):
    assert [tag for tag, _ in page.tags if tag in ("h1", "h2", "h3")] == ["h1"] + ["h2"] * 6
    assert len(page.all("table")) == len(page.all("caption")) == 3
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.all("th"))


def test_the_language_and_the_width_of_the_device_are_declared(page):
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")


def test_the_curves_of_training_are_drawn_and_described_in_words(page):
    described = [image["alt"] or "" for image in page.all("img")]
    assert "Loss over training: training from 2 to 1.1; validation from 1.25 to 1.25." in described
    assert "Accuracy on validation images over training: top-1 from 90 to 90." in described


def test_figures_are_in_the_tables_and_unknown_ones_are_dashes(page):
    for figure in ("90.00 %", "8.00", "7.50-9.00", "1.00x", "812,345", "3.2e-06", "-"):
        assert figure in page.texts


def test_a_wrong_prediction_says_so_in_words(page):
    assert page.texts.count("✗ wrong") == 1 and page.texts.count("✓ right") == 1
    assert f"is {NASTY}" in page.texts


def test_each_class_has_its_accuracy_and_its_usual_mistake(page):
    assert "70.0 %" in page.texts and f"{ATTRIBUTE} (3)" in page.texts
    assert "0.0 %" in page.texts, "a class without images has no accuracy to boast of"


def test_parts_without_data_are_left_out():
    page = Page(render_report(Report(title="bare", summary="nothing measured")))
    assert page.all("h2") == [] and page.all("img") == []


def test_of_very_many_classes_the_least_accurate_are_listed():
    count = 60
    confusion = np.diag(np.arange(1, count + 1))
    confusion[:, 0] += 5
    names = [f"class {i}" for i in range(count)]
    page = Page(render_report(Report(title="a", summary="b", classes=names, confusion=confusion.tolist())))
    assert "The 40 least accurate of 60 classes" in page.texts
    assert "class 1" in page.texts and "class 59" not in page.texts


def test_the_file_is_written_whole_into_a_new_folder(tmp_path, report):
    path = write_report(tmp_path / "new" / "report.html", report)
    assert path.read_text(encoding="utf-8") == render_report(report)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_the_same_data_give_the_same_file(report):
    assert render_report(report) == render_report(report)
