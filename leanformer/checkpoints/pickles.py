"""Reading torch's pickled files (`.pth`, `.pt`, `.bin`) without running anything that they name.

torch's own weights-only reader does the work. Published files also pickle harmless things beside the weights (their
options, learning-rate states, paths), which that reader refuses; here those names stand for objects without behaviour.
The list is closed: whatever else a file names is refused by that name.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, Self

import torch

from leanformer.errors import CheckpointError


class Inert:
    """What stands for a harmless object of a published file: it takes any state, keeps nothing and does nothing."""

    def __new__(cls, *_args: object, **_options: object) -> Self:
        """Take any arguments."""
        return object.__new__(cls)

    def __init__(self, *_args: object, **_options: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


class InertMapping:
    """What stands for a subclass of dict: an OrderedDict, the one mapping with attributes that the weights-only reader
    fills."""

    def __new__(cls, *_args: object, **_options: object) -> OrderedDict:  # type: ignore[misc]
        """Take any arguments, keep none."""
        return OrderedDict()


_MAPPINGS = (
    "yacs.config.CfgNode",
    "collections.defaultdict",
    "easydict.EasyDict",
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict",
)
_OBJECTS = (
    "argparse.Namespace",
    *(f"builtins.{name}" for name in ("list", "dict", "int", "float", "tuple", "str")),  # factories of a defaultdict
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
    "types.SimpleNamespace",
    "datetime.datetime",
    "datetime.timedelta",
    "mmengine.logging.history_buffer.HistoryBuffer",
    *(
        f"pathlib{home}.{name}"
        for home in ("", "._local")
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "Path")
    ),
    "torch.amp.grad_scaler.OptState",
    "torch.cuda.amp.grad_scaler.OptState",
)
_STAND_INS: list[Any] = [(InertMapping, name) for name in _MAPPINGS] + [(Inert, name) for name in _OBJECTS]

# Whatever bytes a damaged file holds, the reader meets them as one of these.
_DAMAGE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    struct.error,
    zipfile.BadZipFile,
    OSError,
    MemoryError,
    OverflowError,
    RecursionError,
)
_SCANNED = 1 << 26
_TORCH = ("Tensor", "Size", "device", "Generator")
_TENSOR_MODULES = ("torch._utils", "torch._tensor", "torch.storage", "torch.nn.parameter")


def read_pickled(path: Path) -> Any:
    """Whatever torch pickled into `path`, tensors on the CPU (memory-mapped where the format allows), the rest inert.

    Raises:
        CheckpointError: if the file names anything that could execute code, or is damaged or no checkpoint.
    """
    damaged = _damaged_part(path)
    if damaged:
        raise CheckpointError(
            f"{path.name}: damaged: the checksum of {damaged} in it differs; download or copy it again"
        )
    try:
        with torch.serialization.safe_globals(_STAND_INS), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # the error says more
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except _DAMAGE as error:
        named = _refused(str(error), _named(path))
        if named:
            raise CheckpointError(
                f"{path.name}: reading it would execute code: {named}; nothing of it was run\n"
                "  if you trust where it comes from, open it there and save the weights alone: "
                "torch.save(model.state_dict(), 'weights.pth')"
            ) from error
        reason = _reason(error)
        raise CheckpointError(f"{path.name}: not a readable checkpoint ({reason}); {_advice(path, reason)}") from error


def _damaged_part(path: Path) -> str | None:
    """The first part of a zip file whose checksum differs, which torch would not notice; None for other files."""
    name = None
    try:
        if not zipfile.is_zipfile(path):
            return None
        with zipfile.ZipFile(path) as archive:
            for part in archive.infolist():
                name = part.filename
                with archive.open(part) as stream:
                    while part.CRC and stream.read(1 << 22):  # a writer may leave the checksum out
                        pass
    except (zipfile.BadZipFile, zlib.error) as error:
        return name if "CRC" in str(error) else None
    except (OSError, RuntimeError, NotImplementedError, EOFError, UnicodeDecodeError, ValueError):
        return None  # damaged in a way that torch names
    return None


def _refused(message: str, names: list[str]) -> str:
    """Which of the `names` in a file made the reader refuse it, if that is what its message is about."""
    found = re.search(r"GLOBAL ([\w.]+)", message)
    if found and any(name.endswith(found.group(1)) for name in names):
        return found.group(1)
    # Newer pickle protocols it refuses as a whole; then any name that no checkpoint needs is what matters to say.
    allowed = {name for _, name in _STAND_INS}
    needless = [name for name in names if name not in allowed and not _of_a_tensor(name)]
    return ", ".join(dict.fromkeys(needless))


def _of_a_tensor(name: str) -> bool:
    """Whether torch itself names this to save a tensor; torch also has functions that load and run code."""
    module, _, leaf = name.rpartition(".")
    if module == "torch":
        return isinstance(getattr(torch, leaf, None), torch.dtype) or leaf.endswith("Storage") or leaf in _TORCH
    return module in _TENSOR_MODULES or name in ("collections.OrderedDict", "_codecs.encode")


def _named(path: Path) -> list[str]:
    """Every `module.name` that the pickles in a file call for, found without unpickling anything."""
    names: list[str] = []
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                start = io.BytesIO(file.read(_SCANNED))
            for _ in range(5):  # an old torch file is five pickles and then numbers
                _scan(start, names)
            return names
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                if entry.endswith(".pkl"):
                    with archive.open(entry) as file:
                        _scan(io.BytesIO(file.read(_SCANNED)), names)
    except (ValueError, LookupError, zipfile.BadZipFile, OSError, EOFError, NotImplementedError):
        pass  # the names found before the damage are what there is to say
    return names


def _scan(file: io.BytesIO, names: list[str]) -> None:
    """Append every `module.name` of one pickle."""
    strings: list[str] = []
    memo: dict[object, str] = {}
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST"):
            names.append(str(argument).replace(" ", ".").replace("__builtin__.", "builtins."))
        elif opcode.name == "STACK_GLOBAL":
            names.append(".".join(strings[-2:]))
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = strings[-1] if strings else ""
        elif opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = strings[-1] if strings else ""
        elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            strings.append(memo.get(argument, ""))
        elif isinstance(argument, str):
            strings.append(argument)


def _reason(error: BaseException) -> str:
    text = str(error).rpartition("WeightsUnpickler error: ")[2].strip()
    if not isinstance(error, (RuntimeError, pickle.UnpicklingError)) or not text:
        return type(error).__name__  # what a damaged pickle does to its reader; the rest says nothing
    return re.split(r"\. |\n", text)[0].rstrip(".")


def _advice(path: Path, reason: str) -> str:
    start = path.read_bytes()[:64] if path.stat().st_size < 1 << 20 else b""
    if not path.stat().st_size:
        return "it is empty: download or copy it again"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: run `git lfs pull` to get the file itself"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "it is a web page: download the file itself, not the page that shows it"
    if reason == "Unsupported operand 149":  # FRAME, of pickle protocol 4
        return (
            "its pickle protocol is newer than torch.save's own: write it again with torch.save(torch.load(...), path)"
        )
    return "if it should be one, it is damaged or cut short: compare its size with the original's and download it again"
