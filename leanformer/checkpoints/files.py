"""Reading weight files, published ones included, and writing files that are whole or not there.

All that leanformer writes is safetensors and JSON. A write goes to a temporary file beside its target, is flushed to
the disk and then takes the target's name, so that a crash or a full disk leaves the old file as it was.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from leanformer.checkpoints.pickles import read_pickled
from leanformer.errors import CheckpointError, suggestion

_PLAIN = ("model", "state_dict", "model_state", "net", "module")
_EMA = ("model_ema", "state_dict_ema", "ema")
_PREFIXES = ("module.", "_orig_mod.")
_WRAPPERS = 4
"""Dicts around the weights, at most; a dict may hold itself."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk, or of a share of it, that is full."""

_DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}


def read_weights(path: str | Path, *, ema: bool = False) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a pickled torch file, by the names they have there.

    A state dict is found under the keys that published training code uses (model, state_dict, ...; with `ema` the
    averaged weights under model_ema, state_dict_ema or ema), and `module.` and `_orig_mod.` in front of every name are
    left out.

    Raises:
        CheckpointError: if the file is missing or damaged, could execute code, or does not hold such weights.
    """
    path = Path(path)
    _check_is_file(path)
    content = read_tensors(path) if _is_safetensors(path) else read_pickled(path)
    return _without_prefixes(_state_dict(content, path.name, ema))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        CheckpointError: if it is damaged.
    """
    return _open_safetensors(path, lambda file: {name: file.get_tensor(name) for name in list(file.keys())})


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file, without its tensors.

    Raises:
        CheckpointError: if it is missing or damaged.
    """
    _check_is_file(Path(path))
    return _open_safetensors(Path(path), lambda file: dict(file.metadata() or {}))


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        CheckpointError: if it is missing or no JSON.
    """
    _check_is_file(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # the latter of lists in lists in lists
        raise CheckpointError(f"{path}: not valid JSON ({error}); it is damaged or was edited") from error


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: str | Path, data: bytes) -> str:
    """Write a file atomically; returns its SHA-256.

    Raises:
        CheckpointError: if the disk is full or the folder cannot be written; an older file of that name is untouched.
    """
    return _write(Path(path), [data], len(data))


def write_chunks(path: str | Path, chunks: Iterable[bytes], size: int) -> str:
    """`write_bytes` of what comes in parts, of about `size` bytes together, which only a message needs."""
    return _write(Path(path), chunks, size)


def write_text(path: str | Path, text: str) -> str:
    """`write_bytes` of text in UTF-8."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> str:
    """`write_bytes` of a JSON value, indented, its keys in the order given."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a path that is not in UTF-8 comes back from escapes alone
        text = json.dumps(value, indent=2)
    return write_text(path, text + "\n")


def write_safetensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> str:
    """Write a safetensors file atomically; returns its SHA-256. Equal tensors and metadata give equal bytes.

    Tensors may be strided, share memory or lie on any device; each is written whole.
    """
    # The safetensors library orders its metadata at random, so the header (https://github.com/huggingface/safetensors)
    # is made here.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # aligned to its size, each
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in names:
        tensor = tensors[name]
        if tensor.dtype not in _DTYPES:
            raise CheckpointError(
                f"{path}: {name} has dtype {tensor.dtype}, which a safetensors file does not hold; convert it first"
            )
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)

    def chunks() -> Iterator[bytes | memoryview]:
        yield len(text).to_bytes(8, "little") + text
        for name in names:
            yield _raw(tensors[name])

    return _write(Path(path), chunks(), 8 + len(text) + end)


def write_torch(path: str | Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a torch file that holds a plain dict of tensors and nothing else, atomically; returns its SHA-256."""
    buffer = io.BytesIO()
    torch.save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, buffer)
    return write_bytes(path, buffer.getvalue())


def _raw(tensor: Tensor) -> memoryview:
    assert sys.byteorder == "little", "safetensors files are little-endian"
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _write(path: Path, chunks: Iterable[bytes | memoryview], size: int) -> str:
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    digest = hashlib.sha256()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
        return digest.hexdigest()
    except OSError as error:
        _remove(temporary)  # before the room is measured
        room = _room(path.parent, size) if error.errno in FULL else ""
        raise CheckpointError(
            f"{path}: could not be written ({error.strerror or error}); {room}what was there before is untouched"
        ) from error
    finally:
        _remove(temporary)


def _remove(temporary: Path) -> None:
    with contextlib.suppress(OSError):
        temporary.unlink()


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power failure; only POSIX systems can, or need to."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _room(folder: Path, size: int) -> str:
    existing = next((place for place in (folder, *folder.absolute().parents) if place.is_dir()), Path("/"))
    free = shutil.disk_usage(existing).free
    return f"it needs {size / 1e6:.1f} MB and {existing} has {free / 1e6:.1f} MB free; "


def _check_is_file(path: Path) -> None:
    if path.is_dir():
        raise CheckpointError(
            f"{path} is a folder, not a weight file; a run directory is loaded as a model: load({str(path)!r})"
        )
    if not path.is_file():
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise CheckpointError(f"no file {path}{suggestion(path.name, siblings)}")
    if not os.access(path, os.R_OK):
        raise CheckpointError(f"{path} cannot be read: permission denied")


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or start[8:] == b"{"


def _open_safetensors(path: Path, read: Callable[[Any], Any]) -> Any:
    try:
        with safe_open(path, framework="pt") as file:
            return read(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path.name}: not a readable safetensors file ({error}); it is damaged or cut short: "
            "compare its size with the original's, then download or copy it again"
        ) from error


def _state_dict(content: Any, name: str, ema: bool, depth: int = 0) -> dict[str, Tensor]:
    """The wanted state dict inside whatever a file holds."""
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{name}: holds a {type(content).__name__}, not weights by name; save model.state_dict() instead"
        )
    for key in _EMA if ema else _PLAIN:
        inner = content.get(key)
        if isinstance(inner, dict) and inner and inner is not content and depth < _WRAPPERS:
            return _state_dict(inner, name, ema=False, depth=depth + 1)
    if ema or not any(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(_no_weights(content, name, ema))
    odd = [f"{key} ({type(value).__name__})" for key, value in content.items() if not isinstance(value, Tensor)]
    if odd:
        raise CheckpointError(
            f"{name}: among its weights, {', '.join(odd[:5])} {'is' if len(odd) == 1 else 'are'} no tensor"
        )
    return {str(key): value.detach() for key, value in content.items()}


def _no_weights(content: dict, name: str, ema: bool) -> str:
    wanted = "averaged (EMA) weights" if ema else "weights"
    places = ", ".join(_EMA if ema else _PLAIN)
    tensors = any(isinstance(value, Tensor) for value in content.values())
    there = "a bare state dict" if tensors else ", ".join(str(key) for key in list(content)[:8]) or "nothing"
    text = f"{name}: no {wanted} under {places}; the file holds {there}"
    if ema:
        return f"{text}; read it without ema"
    return f"{text}; read it with ema=True" if any(isinstance(content.get(key), dict) for key in _EMA) else text


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave out what DistributedDataParallel and torch.compile put in front of every name."""
    for prefix in _PREFIXES * 2:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
