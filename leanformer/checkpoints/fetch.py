"""Fetching published files into a cache: over HTTPS alone, checked against a SHA-256, whole or not there.

The cache is the folder that `LEANFORMER_CACHE` names, else `leanformer` in `XDG_CACHE_HOME`, else
`~/.cache/leanformer`. Files that a person puts there are found like fetched ones. `LEANFORMER_OFFLINE=1` or
`HF_HUB_OFFLINE=1` keeps the network out.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import os
import secrets
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import leanformer
from leanformer.checkpoints import files
from leanformer.errors import CheckpointError

logger = logging.getLogger(__name__)

TIMEOUT = 30.0
"""Seconds without a byte after which a server counts as silent."""
_CHUNK = 1 << 20


class Answer(Protocol):
    """What a server sends: its headers and a stream of bytes."""

    headers: Any

    def read(self, size: int, /) -> bytes:
        """The next bytes; none at the end."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file that somebody else keeps."""

    path: str
    """Where in the cache it belongs, such as `weights/deit_tiny.in1k/deit_tiny_patch16_224-a1311bcf.pth`."""
    page: str
    """Where a person finds it."""
    url: str | None = None
    """Direct link, if there is one."""
    file: str | None = None
    """Its name on that page, where it is known."""
    sha256: str | None = None
    """Its SHA-256 in hexadecimal, or how it begins; None if nobody published it."""
    weights: str | None = None
    """The name of the weights that it holds, for messages where its own name is not known."""

    @property
    def place(self) -> Path:
        """Where the file is looked for, and put."""
        return cache_folder() / self.path

    @property
    def title(self) -> str:
        """What messages call it: never by a name that its authors did not give it."""
        return self.file or (f"the file of the weights {self.weights}" if self.weights else "the file")

    def by_hand(self) -> str:
        """What a person does to get it."""
        what = self.file or "the file"
        where = f"{self.url} (its page is {self.page})" if self.url else self.page
        return (
            f"download {what} from {where} and put it at {self.place}, where the next call finds it, "
            "or give the file (weights= or --weights)"
        )


def cache_folder() -> Path:
    """Where fetched files are kept."""
    named = os.environ.get("LEANFORMER_CACHE")
    if named:
        return Path(named).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "leanformer"


def offline() -> bool:
    """Whether the environment forbids the network."""
    return any(os.environ.get(name, "0").lower() not in ("", "0", "false") for name in _SWITCHES)


_SWITCHES = ("LEANFORMER_OFFLINE", "HF_HUB_OFFLINE")


def open_url(url: str) -> Answer:
    """Ask for a file; redirects are followed to other HTTPS addresses alone."""
    request = urllib.request.Request(url, headers={"User-Agent": f"leanformer/{leanformer.__version__}"})
    return urllib.request.build_opener(HttpsRedirects()).open(request, timeout=TIMEOUT)


def fetch(remote: Remote, opener: Callable[[str], Answer] | None = None) -> Path:
    """The file in the cache, fetched if it is not there yet, its checksum verified.

    Where nobody published a checksum, that of the first copy is written beside it and later copies are held to it.

    Args:
        opener: asks a server for a file; None for `open_url`.

    Raises:
        CheckpointError: if the file is not there and cannot be fetched, saying what to do by hand; if its checksum is
            another than it should be.
    """
    path = remote.place
    if not path.is_file():
        _download(remote, path, opener or open_url)
    _verify(remote, path)
    return path


class HttpsRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses to follow a redirect to anything but HTTPS."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The next request."""
        if not newurl.lower().startswith("https://"):
            raise urllib.error.URLError(f"it redirects to {newurl}, which is not HTTPS")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(remote: Remote, path: Path, opener: Callable[[str], Answer]) -> None:
    if remote.url is None:
        raise CheckpointError(f"{remote.title} has no direct link: {remote.by_hand()}")
    if offline():
        raise CheckpointError(
            f"{remote.title} is not in the cache, and the network is switched off: {remote.by_hand()}"
        )
    assert remote.url.startswith("https://"), remote.url
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        answer = opener(remote.url)
        try:
            digest = _copy(answer, temporary, path.name)
        finally:
            answer.close()
        _check(remote, path, digest, f"what {remote.url} sent")
        os.replace(temporary, path)
    except (OSError, http.client.HTTPException) as error:  # urllib's errors and timeouts are OSErrors
        reason = getattr(error, "reason", None) or error
        raise CheckpointError(f"{remote.title} could not be fetched ({reason}): {remote.by_hand()}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _copy(answer: Answer, target: Path, name: str) -> str:
    """Write what the server sends, whole, to `target`; returns its SHA-256."""
    length = answer.headers.get("Content-Length")
    expected = int(length) if length and length.isdigit() else None
    digest, done = hashlib.sha256(), 0
    shown = sys.stderr.isatty()
    with target.open("xb") as file:
        while chunk := answer.read(_CHUNK):
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            if shown:
                total = f" of {expected / 1e6:.0f}" if expected else ""
                sys.stderr.write(f"\r{name}: {done / 1e6:.0f}{total} MB")
                sys.stderr.flush()
        file.flush()
        os.fsync(file.fileno())
    if shown:
        sys.stderr.write("\n")
    if expected is not None and done != expected:
        raise OSError(f"the connection ended after {done} of {expected} bytes")
    return digest.hexdigest()


def _verify(remote: Remote, path: Path) -> None:
    """Check a file of the cache; note its checksum if there is none to check it against."""
    digest = files.sha256(path)
    _check(remote, path, digest, str(path))
    record = _record(path)
    if remote.sha256 is None and not record.is_file():
        files.write_text(record, f"{digest}  {path.name}\n")
        logger.info("no checksum of %s is published; that of this copy is noted in %s", path.name, record)


def _check(remote: Remote, path: Path, digest: str, what: str) -> None:
    record = _record(path)
    if remote.sha256 is not None and not digest.startswith(remote.sha256.lower()):
        raise CheckpointError(
            f"{what} is not the published file: its SHA-256 is {digest}, expected {remote.sha256}...; "
            f"remove {path} if it is there, and {remote.by_hand()}"
        )
    if remote.sha256 is None and record.is_file():
        known = record.read_text(encoding="utf-8").partition(" ")[0].strip()
        if digest != known:
            raise CheckpointError(
                f"{what} is not the file that was here first: its SHA-256 is {digest}, {record} says {known}; "
                f"it is damaged or was replaced: remove {record} if the new file is meant"
            )


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
