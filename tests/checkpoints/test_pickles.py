"""Published torch files are read without running what they name, and damaged ones say so."""

import argparse
import datetime
import pickle
import subprocess
import sys
import types
import zipfile
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from leanformer.checkpoints.files import read_weights
from leanformer.checkpoints.pickles import read_pickled
from leanformer.errors import CheckpointError

WEIGHTS = {"proj.weight": torch.arange(6.0).view(2, 3), "proj.bias": torch.ones(2, dtype=torch.float16)}

YACS = """
import sys, types, torch
module = types.ModuleType("yacs.config")
class CfgNode(dict):
    def __init__(self, content):
        super().__init__(content)
        self.__dict__["__immutable__"] = False
        self.__dict__["__deprecated_keys__"] = set()
    def __getattr__(self, name):
        if name in self:
            return self[name]
        raise AttributeError(name)
CfgNode.__module__ = "yacs.config"
module.CfgNode = CfgNode
sys.modules["yacs"], sys.modules["yacs.config"] = types.ModuleType("yacs"), module
config = CfgNode({"MODEL": CfgNode({"NAME": "flatten_swin_tiny", "DEPTHS": [2, 2, 6, 2]})})
weights = {"proj.weight": torch.arange(6.0).view(2, 3), "proj.bias": torch.ones(2, dtype=torch.float16)}
content = {"model": weights, "config": config, "epoch": 300}
torch.save(content, sys.argv[1], _use_new_zipfile_serialization=sys.argv[2] == "zip")
"""


class Touch:
    """Unpickled by pickle, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


class Evaluate:
    """Unpickled by pickle, it would evaluate an expression."""

    def __reduce__(self):
        return eval, ("1 + 1",)


def save(content: object, path: Path, form: str) -> Path:
    if form == "plain":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    return path


def assert_are_weights(found: dict[str, torch.Tensor]) -> None:
    assert found.keys() == WEIGHTS.keys()
    for name, tensor in WEIGHTS.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_files_with_a_pickled_yacs_config_are_read(tmp_path, form):
    path = tmp_path / "ckpt.pth"
    subprocess.run([sys.executable, "-c", YACS, str(path), form], check=True)
    assert_are_weights(read_weights(path))


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize(
    "beside",
    [
        argparse.Namespace(lr=1e-3, betas=(0.9, 0.999), out=Path("runs/a")),
        np.float64(81.3),
        np.arange(4),
        np.dtype("int32"),
        defaultdict(list, {0: [1]}),
        defaultdict(dict),
        OrderedDict(a=1),
        Counter("aab"),
        {1, 2},
        torch.amp.GradScaler("cpu").state_dict(),
        torch.float16,
        torch.device("cpu"),
    ],
    ids=lambda beside: type(beside).__name__,
)
def test_harmless_things_beside_the_weights_do_not_matter(tmp_path, form, beside):
    content = {"args": beside, "nested": [{"again": (beside, beside)}], "state_dict": WEIGHTS}
    assert_are_weights(read_weights(save(content, tmp_path / "ckpt.pth", form)))


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_optimizer_and_schedule_states_do_not_matter(tmp_path, form):
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [8, 11])
    content = {"model": WEIGHTS, "optimizer": optimizer.state_dict(), "lr_scheduler": schedule.state_dict()}
    assert_are_weights(read_weights(save(content, tmp_path / "ckpt.pth", form)))


def test_stand_ins_keep_nothing_of_what_they_stand_for(tmp_path):
    content = {"args": argparse.Namespace(lr=1.0), "path": Path("a")}
    read = read_pickled(save(content, tmp_path / "ckpt.pth", "zip"))
    assert all(vars(value) == {} for value in read.values())


@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
def test_code_is_refused_by_name_and_not_run(tmp_path, form):
    touched = tmp_path / "touched"
    content = {"model": WEIGHTS, "payload": Touch(touched)}
    if form == "plain":
        content["model"] = {}
    path = save(content, tmp_path / "evil.pth", form)
    with pytest.raises(CheckpointError, match=r"evil\.pth: .*would execute code: posix\.system; nothing of it was run"):
        read_weights(path)
    assert not touched.exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_is_refused_by_name_in_every_pickle_protocol(tmp_path, protocol):
    touched = tmp_path / "touched"
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps({"a": "b", "payload": Touch(touched)}, protocol))
    with pytest.raises(CheckpointError, match=r"would execute code: posix\.system"):
        read_weights(path)
    torch.save({"payload": Touch(touched)}, path, pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=r"would execute code: posix\.system"):
        read_weights(path)
    assert not touched.exists()


def test_builtins_and_whole_modules_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="would execute code: eval"):
        read_weights(save({"payload": Evaluate()}, tmp_path / "evil.pth", "zip"))
    with pytest.raises(CheckpointError, match=r"would execute code: torch\.nn\.modules\.linear\.Linear"):
        read_weights(save({"model": torch.nn.Linear(2, 2)}, tmp_path / "whole.pth", "zip"))


def test_the_refused_names_do_not_stay_allowed_after_a_read(tmp_path):
    path = save({"model": WEIGHTS, "args": argparse.Namespace()}, tmp_path / "ckpt.pth", "zip")
    read_weights(path)
    with pytest.raises(pickle.UnpicklingError, match="Namespace"):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.3, 0.5, 0.8, 0.95, 0.999])
def test_a_file_cut_short_anywhere_is_named(tmp_path, form, share):
    path = save({"model": {"a": torch.randn(64, 33), "b": torch.randn(7)}, "epoch": 3}, tmp_path / "ckpt.pth", form)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r"ckpt\.pth: not a readable checkpoint .* (download|copy) it again"):
        read_weights(path)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_file_with_damaged_bytes_is_read_or_refused_but_nothing_else(tmp_path, form):
    path = save({"model": {"a": torch.randn(3, 5)}, "args": argparse.Namespace(a=1)}, tmp_path / "ckpt.pth", form)
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        for position in generator.integers(0, len(content), 3):
            damaged[position] = generator.integers(0, 256)
        path.write_bytes(damaged)
        try:
            read_weights(path)
        except CheckpointError as error:
            assert "ckpt.pth" in str(error)


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (b"", "it is empty"),
        (b"hello", "damaged or cut short"),
        (b"\x89PNG\r\n" + bytes(400), "damaged or cut short"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "it is a web page"),
    ],
)
def test_files_that_are_no_checkpoints_say_what_they_are(tmp_path, content, advice):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"weights\.pth: not a readable checkpoint .*{advice}"):
        read_weights(path)


def test_a_zip_of_other_things_is_no_checkpoint(tmp_path):
    path = tmp_path / "photos.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cat.jpg", b"jpg")
    with pytest.raises(CheckpointError, match=r"photos\.pth: not a readable checkpoint"):
        read_weights(path)


def test_a_newer_pickle_protocol_is_named_as_the_reason(tmp_path):
    path = tmp_path / "ckpt.pth"
    torch.save({"model": WEIGHTS}, path, pickle_protocol=4)
    with pytest.raises(CheckpointError, match="its pickle protocol is newer"):
        read_weights(path)


@pytest.mark.parametrize("function", [torch.hub.load, torch.load, torch.jit.load])
def test_what_torch_itself_could_load_and_run_is_refused_by_name_in_a_newer_protocol(tmp_path, function):
    class Call:
        def __reduce__(self):
            return function, ("x",)

    torch.save({"model": WEIGHTS, "other": Call()}, tmp_path / "evil.pth", pickle_protocol=4)
    with pytest.raises(CheckpointError, match=rf"execute code: {function.__module__}\.load; nothing of it was run"):
        read_pickled(tmp_path / "evil.pth")


def test_a_byte_that_changed_in_a_weight_is_noticed(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"model": {"weight": torch.arange(4096.0)}}, path)
    content = bytearray(path.read_bytes())
    place = content.index(torch.arange(2000.0, 2004.0).numpy().tobytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"weights\.pth: damaged: the checksum of .*data/0 in it differs"):
        read_pickled(path)


def wrapped_again() -> dict:
    content: dict = {"epoch": 3, "state_dict": WEIGHTS}
    content["model"] = content
    return content


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize(
    "content",
    [
        wrapped_again(),
        {"state_dict": {"model": {"net": WEIGHTS}}},
        {"model": {f"module.{key}": value for key, value in WEIGHTS.items()}, "rng": np.random.get_state()},
        {"meta": {"mmdet_version": "2.11", "CLASSES": ("a",)}, "state_dict": OrderedDict(WEIGHTS), "optimizer": {}},
        {"model": WEIGHTS, "when": datetime.datetime(2024, 1, 1), "args": types.SimpleNamespace(a=1)},
        {"model": {key: torch.nn.Parameter(value) for key, value in WEIGHTS.items()}, "best": np.float32(1.5)},
    ],
    ids=["holds itself", "nested", "module", "mmcv", "dates", "parameters"],
)
def test_weights_are_found_in_what_real_files_wrap_around_them(tmp_path, form, content):
    assert_are_weights(read_weights(save(content, tmp_path / "ckpt.pth", form)))


@pytest.mark.parametrize("key", ["model_ema", "state_dict_ema", "ema"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_averaged_weights_are_found(tmp_path, key, prefix):
    averaged = {f"{prefix}{name}": value for name, value in WEIGHTS.items()}
    content = {"model": {"proj.weight": torch.zeros(1)}, key: averaged}
    assert_are_weights(read_weights(save(content, tmp_path / "ckpt.pth", "zip"), ema=True))
    content[key] = {"module": averaged}
    assert_are_weights(read_weights(save(content, tmp_path / "ckpt.pth", "zip"), ema=True))


def random_content(generator: np.random.Generator, depth: int = 0) -> object:
    """Something a training script might pickle: nested containers of harmless things and tensors."""
    leaves = (
        None,
        True,
        3,
        2.5,
        "text",
        np.float64(1.0),
        np.arange(3),
        torch.ones(2),
        argparse.Namespace(a=1),
        Path("a"),
    )
    if depth == 3 or generator.random() < 0.3:
        return leaves[generator.integers(len(leaves))]
    inside = [random_content(generator, depth + 1) for _ in range(generator.integers(4))]
    keys = ("model", "state_dict", "epoch", "ema", 5)
    return (inside, tuple(inside), dict(zip(keys, inside, strict=False)), OrderedDict(zip(keys, inside, strict=False)))[
        generator.integers(4)
    ]


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_whatever_harmless_content_a_file_has_it_gives_tensors_or_says_why_not(tmp_path, form):
    generator = np.random.default_rng(0)
    for _ in range(100):
        path = save(random_content(generator), tmp_path / "ckpt.pth", form)
        try:
            found = read_weights(path)
        except CheckpointError as error:
            assert "ckpt.pth" in str(error)
        else:
            assert found and all(isinstance(value, torch.Tensor) for value in found.values())
