"""Training states survive kills, full disks and damage: the newest whole one is loaded."""

import errno
import json
import logging
import os
import random

import pytest
import torch
from safetensors.torch import load_file

from leanformer.checkpoints import files
from leanformer.checkpoints.store import CheckpointStore
from leanformer.errors import CheckpointError

META = {"seed": 3, "metrics": {"top1": 81.25, "best": None}, "names": ["é", "b"]}


def state(step: int) -> dict[str, torch.Tensor]:
    return {"model.weight": torch.full((3, 5), float(step)), "optimizer.step": torch.tensor(step)}


def filled(directory, *steps: int, keep: int = 2) -> CheckpointStore:
    store = CheckpointStore(directory, keep=keep)
    for step in steps:
        store.save(step, state(step), META)
    return store


def assert_holds(store: CheckpointStore, step: int) -> None:
    loaded = store.load_latest()
    assert loaded is not None
    found_step, tensors, meta = loaded
    assert (found_step, meta) == (step, META)
    assert tensors.keys() == state(step).keys()
    for name, tensor in state(step).items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def test_the_last_state_comes_back_as_it_was(tmp_path):
    assert_holds(filled(tmp_path / "new" / "checkpoints", 1, 20, 123), 123)


def test_there_is_nothing_to_load_at_first(tmp_path):
    assert CheckpointStore(tmp_path).load_latest() is None
    assert CheckpointStore(tmp_path / "nowhere").load_latest() is None


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_last_states_are_kept(tmp_path, keep):
    filled(tmp_path, 1, 2, 3, 4, keep=keep)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"latest.json", *(f"step_{step:08d}.safetensors" for step in range(5 - keep, 5))}


def test_the_list_names_the_latest_and_those_before_it(tmp_path):
    filled(tmp_path, 1, 2)
    record = json.loads((tmp_path / "latest.json").read_text())
    assert (record["file"], record["step"]) == ("step_00000002.safetensors", 2)
    assert record["sha256"] == files.sha256(tmp_path / record["file"])
    assert [entry["step"] for entry in record["previous"]] == [1]


def test_a_loaded_state_does_not_depend_on_its_file(tmp_path):
    store = filled(tmp_path, 1)
    loaded = store.load_latest()
    (tmp_path / "step_00000001.safetensors").write_bytes(bytes(10_000))
    assert loaded is not None and torch.equal(loaded[1]["model.weight"], state(1)["model.weight"])


def damage_by_truncation(path):
    path.write_bytes(path.read_bytes()[:-8])


def damage_by_one_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def damage_by_removal(path):
    path.unlink()


@pytest.mark.parametrize("damage", [damage_by_truncation, damage_by_one_bit, damage_by_removal])
def test_a_damaged_state_is_named_and_the_one_before_it_used(tmp_path, caplog, damage):
    store = filled(tmp_path, 5, 6, 7)
    damage(tmp_path / "step_00000007.safetensors")
    with caplog.at_level(logging.WARNING):
        assert_holds(store, 6)
    assert "step_00000007.safetensors" in caplog.text


def damaged_copies(content):
    """The content cut before each of its bytes, and with one bit of each of them changed."""
    draw = random.Random(0)
    for place in range(len(content)):
        yield content[:place]
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        yield bytes(changed)


def test_damage_at_any_byte_of_a_state_is_named_and_the_one_before_it_used(tmp_path, caplog):
    store = filled(tmp_path, 6, 7)
    newest = tmp_path / "step_00000007.safetensors"
    for content in damaged_copies(newest.read_bytes()):
        newest.write_bytes(content)
        caplog.clear()
        assert_holds(store, 6)
        assert f"{newest} is damaged" in caplog.text


def test_without_a_list_a_state_cut_at_any_byte_is_left_for_the_one_before_it(tmp_path, caplog):
    store = filled(tmp_path, 6, 7)
    (tmp_path / "latest.json").unlink()
    newest = tmp_path / "step_00000007.safetensors"
    whole = newest.read_bytes()
    for content in damaged_copies(whole):
        newest.write_bytes(content)
        caplog.clear()
        loaded = store.load_latest()
        assert loaded is not None
        if len(content) < len(whole):
            assert loaded[0] == 6
        assert loaded[0] == 7 or newest.name in caplog.text


def test_damage_at_any_byte_of_the_list_costs_one_state_at_most(tmp_path):
    store = filled(tmp_path, 6, 7)
    latest = tmp_path / "latest.json"
    for content in damaged_copies(latest.read_bytes()):
        latest.write_bytes(content)
        loaded = store.load_latest()
        assert loaded is not None and loaded[0] in (6, 7)


def test_a_state_that_cannot_be_read_is_named_and_the_one_before_it_used(tmp_path, monkeypatch, caplog):
    store = filled(tmp_path, 6, 7)
    sha256 = files.sha256

    def failing(path):
        if path.name == "step_00000007.safetensors":
            raise OSError(errno.EIO, "Input/output error")
        return sha256(path)

    monkeypatch.setattr(files, "sha256", failing)
    assert_holds(store, 6)
    assert "step_00000007.safetensors cannot be read: Input/output error" in caplog.text


def test_a_state_under_the_name_of_another_is_damaged(tmp_path, caplog):
    filled(tmp_path, 6)
    (tmp_path / "latest.json").unlink()
    (tmp_path / "step_00000007.safetensors").write_bytes((tmp_path / "step_00000006.safetensors").read_bytes())
    assert_holds(CheckpointStore(tmp_path), 6)
    assert "step_00000007.safetensors is damaged: it says that it is of step 6" in caplog.text


def test_if_no_state_is_whole_all_are_named(tmp_path):
    store = filled(tmp_path, 6, 7)
    damage_by_removal(tmp_path / "step_00000006.safetensors")
    damage_by_one_bit(tmp_path / "step_00000007.safetensors")
    with pytest.raises(CheckpointError, match=r"(?s)7\.safetensors is damaged: its SHA-256.*6\.safetensors is missing"):
        store.load_latest()


@pytest.mark.parametrize("content", [b"", b'{"file": "step_', b"[]", b'{"file": 3}'])
def test_a_damaged_list_is_named_and_the_folder_read_instead(tmp_path, caplog, content):
    store = filled(tmp_path, 6, 7)
    (tmp_path / "latest.json").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert_holds(store, 7)
    assert "latest.json is damaged" in caplog.text
    damage_by_truncation(tmp_path / "step_00000007.safetensors")
    assert_holds(store, 6)


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("failing_call", [0, 1])
@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=["full", "kill"]
)
def test_a_failure_before_either_rename_loses_no_state(tmp_path, monkeypatch, keep, failing_call, failure):
    store = filled(tmp_path, 6, 7, keep=keep)
    calls = iter(range(9))
    replace = os.replace

    def sometimes(source, target):
        if next(calls) == failing_call:
            raise failure
        replace(source, target)

    monkeypatch.setattr(os, "replace", sometimes)
    with pytest.raises((CheckpointError, KeyboardInterrupt)):
        store.save(8, state(8), META)
    monkeypatch.undo()
    assert_holds(store, 7)
    store.save(8, state(8), META)
    assert_holds(store, 8)


@pytest.mark.parametrize("failing_call", [0, 1, 2])
def test_a_kill_while_a_state_is_written_again_leaves_the_old_one_or_the_new(tmp_path, monkeypatch, failing_call):
    store = filled(tmp_path, 7, keep=1)
    calls = iter(range(9))
    replace = os.replace

    def sometimes(source, target):
        if next(calls) == failing_call:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", sometimes)
    with pytest.raises(KeyboardInterrupt):
        store.save(7, {"again": torch.ones(2)}, META)
    loaded = CheckpointStore(tmp_path, keep=1).load_latest()
    assert loaded is not None and loaded[0] == 7
    assert loaded[1].keys() == ({"again"} if failing_call == 2 else state(7).keys())


def test_a_kill_before_pruning_leaves_the_new_state(tmp_path, monkeypatch):
    store = filled(tmp_path, 6, 7)

    def kill(_keep):
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "_prune", kill)
    with pytest.raises(KeyboardInterrupt):
        store.save(8, state(8), META)
    assert_holds(CheckpointStore(tmp_path), 8)
    filled(tmp_path, 9)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_a_kill_in_the_very_first_save_leaves_a_state_or_none(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path)
    monkeypatch.setattr(files, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.save(1, state(1), META)
    monkeypatch.undo()
    assert_holds(store, 1)


def test_leftovers_of_killed_writes_are_removed_and_other_files_are_not(tmp_path):
    (tmp_path / ".step_00000001.safetensors.0a1b2c3d.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    filled(tmp_path, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "latest.json", "step_00000002.safetensors"}


def test_going_back_forgets_the_states_after_it(tmp_path):
    store = filled(tmp_path, 10, 20)
    store.save(15, state(15), META)
    assert_holds(store, 15)
    damage_by_removal(tmp_path / "step_00000015.safetensors")
    assert_holds(store, 10)


def test_equal_states_are_equal_bytes(tmp_path):
    filled(tmp_path / "a", 3)
    filled(tmp_path / "b", 3)
    name = "step_00000003.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert load_file(tmp_path / "a" / name).keys() == state(3).keys()


@pytest.mark.parametrize("change", [{"file": 5}, {"file": "../model.safetensors"}, {"step": "2"}, {"previous": None}])
def test_a_list_that_was_edited_wrongly_is_left_for_what_the_folder_holds(tmp_path, change):
    store = filled(tmp_path, 1, 2)
    record = json.loads((tmp_path / "latest.json").read_text())
    (tmp_path / "latest.json").write_text(json.dumps(record | change))
    loaded = store.load_latest()
    assert loaded is not None and loaded[0] == 2


def test_a_state_from_before_a_step_is_found_if_it_is_there_and_whole(tmp_path):
    store = CheckpointStore(tmp_path)
    for step in (4, 8):
        store.save(step, {"weight": torch.full((2,), float(step))}, {})
    found = store.load_latest(before=8)
    assert found is not None and (found[0], found[1]["weight"].tolist()) == (4, [4.0, 4.0])
    assert store.load_latest(before=4) is None
    (tmp_path / "step_00000004.safetensors").write_bytes(b"")
    assert store.load_latest(before=8) is None
    assert store.load_latest()[0] == 8
