"""Published files come into the cache whole, over HTTPS, as their checksum says, or with what to do by hand."""

from __future__ import annotations

import hashlib
import io
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from http.client import HTTPMessage
from pathlib import Path

import pytest

from leanformer.checkpoints.fetch import Answer, HttpsRedirects, Remote, cache_folder, fetch
from leanformer.errors import CheckpointError

CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEANFORMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LEANFORMER_OFFLINE")


class Body(io.BytesIO):
    """What a server sends."""

    def __init__(self, content: bytes, length: int | None) -> None:
        super().__init__(content)
        self.headers = Message()
        if length is not None:
            self.headers["Content-Length"] = str(length)


def server(content: bytes = CONTENT, length: int | None = None) -> Callable[[str], Answer]:
    return lambda url: Body(content, length)


def silent(url: str) -> Answer:
    raise urllib.error.URLError(TimeoutError("timed out"))


def remote(**changes: str | None) -> Remote:
    values = {
        "path": "weights/a.in1k/a.pth",
        "page": "https://a.org/page",
        "url": "https://a.org/a.pth",
        "file": "a.pth",
    }
    return Remote(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("known", [None, DIGEST, DIGEST[:8], DIGEST.upper()])
@pytest.mark.parametrize("length", [None, len(CONTENT)])
def test_a_file_is_fetched_once_and_then_found(known, length):
    path = fetch(remote(sha256=known), server(length=length))
    assert path == cache_folder() / "weights/a.in1k/a.pth"
    assert path.read_bytes() == CONTENT
    assert fetch(remote(sha256=known), silent) == path


def test_another_file_than_the_published_one_is_refused_and_not_kept():
    with pytest.raises(CheckpointError, match=rf"a\.pth sent is not the published file: .* {DIGEST}, expected 0123"):
        fetch(remote(sha256="01234567"), server())
    assert not [path for path in cache_folder().rglob("*") if path.is_file()]


def test_the_first_copy_of_a_file_without_a_published_checksum_is_what_later_ones_are_held_to(caplog):
    with caplog.at_level("INFO", logger="leanformer"):
        path = fetch(remote(), server())
    assert "no checksum of a.pth is published; that of this copy is noted in" in caplog.text
    record = path.with_name("a.pth.sha256")
    assert record.read_text() == f"{DIGEST}  a.pth\n"
    path.unlink()
    with pytest.raises(CheckpointError, match=rf"is not the file that was here first: .*remove {record} if the new"):
        fetch(remote(), server(b"other"))
    path.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="damaged or was replaced"):
        fetch(remote(), silent)


def test_a_file_that_a_person_put_into_the_cache_is_found_and_checked():
    for sha256 in (None, DIGEST[:8]):
        there = remote(url=None, sha256=sha256)
        there.place.parent.mkdir(parents=True, exist_ok=True)
        there.place.write_bytes(CONTENT)
        assert fetch(there) == there.place
    there.place.write_bytes(b"<html>")
    with pytest.raises(
        CheckpointError, match=r"not the published file: .*download a\.pth from https://a\.org/page and put"
    ):
        fetch(there)


@pytest.mark.parametrize(
    ("opener", "reason"),
    [
        (silent, "timed out"),
        (server(CONTENT[:100], len(CONTENT)), "the connection ended after 100 of 7000 bytes"),
    ],
)
def test_what_fails_says_what_to_do_by_hand_and_leaves_nothing(opener, reason):
    with pytest.raises(CheckpointError) as error:
        fetch(remote(), opener)
    by_hand = f"download a.pth from https://a.org/a.pth (its page is https://a.org/page) and put it at {remote().place}"
    assert f"a.pth could not be fetched ({reason}): {by_hand}" in str(error.value)
    assert error.value.__suppress_context__  # one message, not a chain of tracebacks
    assert not [path for path in cache_folder().rglob("*") if path.is_file()]


def test_a_file_whose_name_is_not_known_is_called_by_its_weights():
    there = remote(path="weights/a.in1k/a.in1k.pth", url=None, file=None, weights="a.in1k")
    with pytest.raises(CheckpointError) as error:
        fetch(there)
    assert str(error.value).startswith(
        "the file of the weights a.in1k has no direct link: download the file from https://a.org/page and put it at "
        f"{there.place}, "
    )


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("LEANFORMER_CACHE", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="could not be fetched"):
        fetch(remote(), server())


@pytest.mark.parametrize("switch", ["LEANFORMER_OFFLINE", "HF_HUB_OFFLINE"])
def test_the_network_can_be_switched_off(monkeypatch, switch):
    monkeypatch.setenv(switch, "1")
    with pytest.raises(CheckpointError, match="the network is switched off: download a.pth from https://a.org/a.pth"):
        fetch(remote(), server())


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.delenv("LEANFORMER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "leanformer"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "leanformer"


def test_redirects_stay_on_https():
    request = urllib.request.Request("https://a.org/a.pth")
    follow = HttpsRedirects().redirect_request
    followed = follow(request, io.BytesIO(), 302, "Found", HTTPMessage(), "https://b.org/a.pth")
    assert followed is not None and followed.full_url == "https://b.org/a.pth"
    for url in ("http://b.org/a.pth", "file:///etc/passwd", "ftp://b.org/a"):
        with pytest.raises(urllib.error.URLError, match="not HTTPS"):
            follow(request, io.BytesIO(), 302, "Found", HTTPMessage(), url)


def test_progress_is_shown_on_a_terminal_alone(capsys, monkeypatch):
    fetch(remote(), server())
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    fetch(remote(path="b.pth"), server(length=len(CONTENT)))
    assert "b.pth: 0 of 0 MB\n" in capsys.readouterr().err
