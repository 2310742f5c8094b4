"""`leanformer train` leaves the page of the run; `leanformer report` writes it again."""

from __future__ import annotations


def test_training_says_where_the_page_of_the_run_is(trained):
    page = trained.out / "report.html"
    assert f"the page of the run is {page}" in trained.outcome.out
    assert "<h2>Calibration</h2>" in page.read_text(encoding="utf-8")


def test_the_page_can_be_written_again(run, trained):
    page = trained.out / "report.html"
    before = page.read_text(encoding="utf-8")
    page.unlink()
    outcome = run("report", trained.out, "--batch-size", 64)
    assert (outcome.status, outcome.out) == (0, f"wrote {page}\n")
    assert len(page.read_text(encoding="utf-8")) == len(before)


def test_a_directory_without_a_run_is_refused(refused, tmp_path):
    assert "holds no training run" in refused("report", tmp_path)
