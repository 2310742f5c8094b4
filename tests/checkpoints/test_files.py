"""Weights are found in whatever published code wraps them in; files are written whole or not at all."""

import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file, save_file

from leanformer.checkpoints import files
from leanformer.checkpoints.files import (
    read_metadata,
    read_weights,
    write_bytes,
    write_json,
    write_safetensors,
    write_text,
)
from leanformer.errors import CheckpointError

A = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.zeros(2)}
B = {name: tensor + 1 for name, tensor in A.items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def saved(content, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state", "net"])
def test_weights_are_found_under_the_keys_of_published_code(tmp_path, key):
    assert_same(read_weights(saved({"epoch": 3, key: A, "best": None}, tmp_path / "a.pth")), A)


@pytest.mark.parametrize("key", ["model_ema", "state_dict_ema", "ema"])
def test_averaged_weights_are_read_only_when_asked_for(tmp_path, key):
    path = saved({"model": A, key: B}, tmp_path / "a.pth")
    assert_same(read_weights(path), A)
    assert_same(read_weights(path, ema=True), B)


def test_missing_averaged_weights_say_what_there_is(tmp_path):
    with pytest.raises(CheckpointError, match=r"no averaged \(EMA\) weights .* the file holds model, epoch"):
        read_weights(saved({"model": A, "epoch": 1}, tmp_path / "a.pth"), ema=True)
    with pytest.raises(CheckpointError, match="holds a bare state dict; read it without ema"):
        read_weights(saved(A, tmp_path / "a.pth"), ema=True)
    with pytest.raises(CheckpointError, match="read it with ema=True"):
        read_weights(saved({"ema": A, "epoch": 1}, tmp_path / "a.pth"))


def test_bare_and_nested_state_dicts_are_read(tmp_path):
    assert_same(read_weights(saved(A, tmp_path / "a.bin")), A)
    assert_same(read_weights(saved({"model": {"state_dict": A, "epoch": 1}}, tmp_path / "a.pt")), A)
    assert_same(read_weights(saved({"model": "deit_tiny", "state_dict": A}, tmp_path / "a.pt")), A)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrapper_prefixes_are_left_out(tmp_path, prefix):
    prefixed = {prefix + name: tensor for name, tensor in A.items()}
    assert_same(read_weights(saved({"model": prefixed}, tmp_path / "a.pth")), A)
    save_file(prefixed, tmp_path / "a.safetensors")
    assert_same(read_weights(tmp_path / "a.safetensors"), A)


def test_a_prefix_that_only_some_names_have_is_a_name(tmp_path):
    mixed = {"module.a": torch.zeros(1), "b": torch.ones(1)}
    assert_same(read_weights(saved(mixed, tmp_path / "a.pth")), mixed)


def test_parameters_come_back_as_plain_tensors(tmp_path):
    (tensor,) = read_weights(saved({"a": torch.nn.Parameter(torch.ones(2))}, tmp_path / "a.pth")).values()
    assert not tensor.requires_grad and type(tensor) is torch.Tensor


def test_what_is_no_tensor_among_weights_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"a\.pth: among its weights, step \(int\) is no tensor"):
        read_weights(saved({"model": {**A, "step": 3}}, tmp_path / "a.pth"))


@pytest.mark.parametrize("content", [{"epoch": 3}, {}, {"model": {}}, [A], torch.ones(3), "text"])
def test_a_file_without_weights_says_so(tmp_path, content):
    with pytest.raises(CheckpointError, match=r"a\.pth: (no weights under model|holds a \w+, not weights)"):
        read_weights(saved(content, tmp_path / "a.pth"))


def test_wrong_paths_say_what_would_be_right(tmp_path):
    saved(A, tmp_path / "flatten_swin_t.pth")
    with pytest.raises(CheckpointError, match=r"no file .*flatten_swin_s\.pth; did you mean flatten_swin_t\.pth\?"):
        read_weights(tmp_path / "flatten_swin_s.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_weights(tmp_path)
    with pytest.raises(CheckpointError, match="no file"):
        read_weights(tmp_path / "nowhere" / "a.pth")


@pytest.mark.parametrize("size", [0, 4, 8, 9, 40, 100, -30, -1])
def test_a_safetensors_file_cut_short_anywhere_is_named(tmp_path, size):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, A, {"note": "x"})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"a\.safetensors: not a readable safetensors file"):
        read_weights(path)


def test_safetensors_are_known_by_their_content(tmp_path):
    save_file(A, tmp_path / "weights.bin")
    assert_same(read_weights(tmp_path / "weights.bin"), A)


@pytest.mark.parametrize("dtype", list(files._DTYPES), ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (3,), (5, 1, 7)], ids=str)
def test_every_dtype_and_shape_survives(tmp_path, dtype, shape):
    tensors = {
        "odd": torch.ones(3, dtype=torch.uint8),
        "t": torch.arange(torch.Size(shape).numel()).view(shape).to(dtype),
    }
    write_safetensors(tmp_path / "a.safetensors", tensors)
    assert_same(load_file(tmp_path / "a.safetensors"), tensors)


@given(
    hnp.arrays("float32", hnp.array_shapes(max_dims=4), elements=st.floats(width=32)),
    st.text(max_size=8),
    st.text(max_size=8),
)
def test_any_numbers_names_and_notes_survive(tmp_path_factory, array, name, note):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    tensor = torch.from_numpy(array)
    write_safetensors(path, {f"x{name}": tensor}, {f"k{name}": note})
    (read,) = load_file(path).values()
    assert read.view(torch.int32).equal(tensor.view(torch.int32))
    assert read_metadata(path) == {f"k{name}": note}


def test_strided_and_shared_tensors_are_written_whole(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    tensors = {
        "base": base,
        "same": base,
        "transposed": base.T,
        "row": base[1],
        "steps": base[:, ::2],
        "wide": base[:1].expand(5, 4),
    }
    write_safetensors(tmp_path / "a.safetensors", tensors)
    assert_same(load_file(tmp_path / "a.safetensors"), tensors)


def test_equal_content_gives_equal_bytes(tmp_path):
    notes = {str(i): "note" for i in range(20)}
    first = write_safetensors(tmp_path / "a", A, notes)
    second = write_safetensors(tmp_path / "b", dict(reversed(A.items())), dict(reversed(notes.items())))
    assert first == second == files.sha256(tmp_path / "a") == files.sha256(tmp_path / "b")


def test_a_dtype_without_a_place_in_the_format_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="a has dtype torch.complex64"):
        write_safetensors(tmp_path / "a.safetensors", {"a": torch.zeros(2, dtype=torch.complex64)})
    assert list(tmp_path.iterdir()) == []


def test_text_and_json_are_written_with_their_hash(tmp_path):
    assert write_text(tmp_path / "new" / "a.txt", "é\n") == files.sha256(tmp_path / "new" / "a.txt")
    write_json(tmp_path / "a.json", {"b": 1, "a": ["é"]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"b": 1, "a": ["é"]}
    assert files.read_json(tmp_path / "a.json") == {"b": 1, "a": ["é"]}


def test_json_holds_paths_that_are_not_utf_8(tmp_path):
    value = {"data": os.fsdecode(b"caf\xe9"), "out": "süß"}
    files.write_json(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json") == value


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "\xff"], ids=["cut", "deep", "latin"])
def test_json_that_is_damaged_says_so(tmp_path, text):
    (tmp_path / "a.json").write_text(text, "latin-1")
    with pytest.raises(CheckpointError, match="a.json: not valid JSON"):
        files.read_json(tmp_path / "a.json")


def test_files_get_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("x")
    write_bytes(tmp_path / "atomic", b"x")
    assert (tmp_path / "plain").stat().st_mode == (tmp_path / "atomic").stat().st_mode


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, stage):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, A)

    def fail(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, stage, fail)
    with pytest.raises(
        CheckpointError, match=r"could not be written \(No space left on device\); it needs 0\.0 MB .* MB free"
    ):
        write_safetensors(path, B)
    monkeypatch.undo()
    assert_same(load_file(path), A)
    assert list(tmp_path.iterdir()) == [path]


def test_room_is_spoken_of_only_where_it_lacks(tmp_path, monkeypatch):
    def fail(*_args):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointError, match=r"\(Read-only file system\); what was there before is untouched$"):
        write_text(tmp_path / "a.txt", "new")


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX limit on file sizes")
def test_a_disk_that_fills_up_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, A)
    script = f"""
        import resource, torch
        from leanformer.checkpoints.files import write_safetensors
        from leanformer.errors import CheckpointError
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            write_safetensors({str(path)!r}, {{"a": torch.zeros(1_000_000)}})
        except CheckpointError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert "could not be written (File too large); it needs 4.0 MB" in done.stdout
    assert_same(load_file(path), A)
    assert list(tmp_path.iterdir()) == [path]
