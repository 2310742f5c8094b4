import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from leanformer.data import Augment, DataOptions, TrainBatches, open_data
from leanformer.data import archives as archives_module
from leanformer.data.synthetic import write_folder
from leanformer.errors import DataError
from leanformer.models import Preprocess


def png(value=0):
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def zip_of(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def tar_of(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def packed(folder, prefix=""):
    return {prefix + file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*.*"))}


def shard(path, start, count=6):
    members = {}
    for number in range(start, start + count):
        members[f"./{number:05d}.png"] = png(number)
        members[f"./{number:05d}.cls"] = str(number % 3).encode()
    return tar_of(path, members)


def reds(data):
    return [int(np.asarray(data.image(index))[0, 0, 0]) for index in range(len(data))]


@pytest.mark.parametrize("prefix", ["", "photos/"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_the_folder_that_was_packed(tmp_path, prefix, method):
    folder = write_folder(tmp_path / "folder", num_classes=2, per_class=5)
    members = {"__MACOSX/._x.png": b"", "notes.txt": b"", **packed(folder, prefix)}
    path = zip_of(tmp_path / "photos.zip", members, method)
    for split in ("train", "val"):
        ours, theirs = open_data(path, split), open_data(folder, split)
        assert ours.classes == theirs.classes
        assert ours.labels.tolist() == theirs.labels.tolist()
        assert ours.name(0) == f"photos.zip/{prefix}{theirs.name(0)}"
        for index in range(len(theirs)):
            assert ours.image(index).tobytes() == theirs.image(index).tobytes()


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_an_archive_of_classes_alone_is_divided_like_a_folder(tmp_path, pack):
    folder = write_folder(tmp_path / "folder", num_classes=3, per_class=6, num_val=0)
    path = pack(tmp_path / "a.bin", packed(folder)).rename(tmp_path / f"a.{pack.__name__[:3]}")
    for split in ("train", "val"):
        ours, theirs = open_data(path, split), open_data(folder, split)
        assert [ours.name(i) for i in range(len(ours))] == [f"{path.name}/{theirs.name(i)}" for i in range(len(theirs))]
        assert ours.labels.tolist() == theirs.labels.tolist()


def test_archives_named_for_their_classes_label_their_images(tmp_path):
    for label, wnid in enumerate(("n01440764", "n01484850")):
        tar_of(tmp_path / f"{wnid}.tar", {f"{wnid}_{n}.JPEG": png(10 * label + n) for n in range(3)})
    data = open_data(tmp_path, "train", DataOptions(val_share=0.0))
    assert data.classes == ("tench", "great white shark")
    assert reds(data) == [0, 1, 2, 10, 11, 12]
    assert data.labels.tolist() == [0] * 3 + [1] * 3


def test_members_are_within_the_archive_whatever_slashes_their_paths_have(tmp_path):
    members = {"/abs/y.png": png(1), "cat/1.png": png(2), "cat//old//2.png": png(3), "abs/y.png": png(4)}
    path = zip_of(tmp_path / "a.zip", members)
    data = open_data(path, "train", DataOptions(val_share=0.0))
    assert (data.classes, data.labels.tolist(), reds(data)) == (("abs", "cat"), [0, 1, 1], [4, 2, 3])


def test_two_zips_hold_the_two_sides(tmp_path):
    zip_of(tmp_path / "train.zip", {"cat/1.png": png(1), "dog/2.png": png(2), "emu/3.png": png(3)})
    zip_of(tmp_path / "val.zip", {"dog/4.png": png(4), "emu/5.png": png(5)})
    val = open_data(tmp_path, "val")
    assert (val.classes, val.labels.tolist(), reds(val)) == (("cat", "dog", "emu"), [1, 2], [4, 5])
    assert reds(open_data(f"{tmp_path}/{{train,val}}.zip", "train")) == [1, 2, 3]


def test_the_published_zip_with_a_map_of_its_labels_is_read(tmp_path):
    zip_of(tmp_path / "train.zip", {f"n0000000{n % 2}/{n}.png": png(n) for n in range(6)}, zipfile.ZIP_STORED)
    zip_of(tmp_path / "val.zip", {f"{n}.png": png(n) for n in range(6, 8)}, zipfile.ZIP_STORED)
    (tmp_path / "train_map.txt").write_text("".join(f"n0000000{n % 2}/{n}.png\t{n % 2}\n" for n in range(6)))
    (tmp_path / "val_map.txt").write_text("6.png\t1\n7.png\t0\n")
    train, val = open_data(tmp_path, "train"), open_data(tmp_path, "val")
    assert (train.labels.tolist(), reds(train)) == ([0, 1] * 3, list(range(6)))
    assert (val.labels.tolist(), reds(val)) == ([1, 0], [6, 7])
    assert train.classes == val.classes == train.keys == ("n00000000", "n00000001")
    (tmp_path / "val_map.txt").write_text("8.png\t1\n")
    with pytest.raises(DataError, match=r"val_map.txt names '8.png', which val.zip does not hold"):
        open_data(tmp_path, "val")


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("found, missing", [("val.zip", "val_map.txt"), ("val_map.txt", "val.zip")])
def test_half_of_a_validation_side_is_refused_and_not_mixed_with_the_training_side(tmp_path, split, found, missing):
    zip_of(tmp_path / "train.zip", {f"{n}.png": png(n) for n in range(6)})
    (tmp_path / "train_map.txt").write_text("".join(f"{n}.png\t{n % 2}\n" for n in range(6)))
    both = {open_data(tmp_path, side).name(0) for side in ("train", "val")}
    assert len(both) == 2
    (tmp_path / found).write_bytes(b"")
    with pytest.raises(DataError, match=f"holds {found}, but no {missing} to go with it"):
        open_data(tmp_path, split)


def test_shards_are_labeled_by_the_members_beside_the_images(tmp_path):
    for number in range(3):
        shard(tmp_path / f"train-{number:06d}.tar", 6 * number)
    shard(tmp_path / "val-000000.tar", 18, 4)
    for source in (tmp_path, f"{tmp_path}/{{train,val}}-{{000000..000002}}.tar"):
        if source != tmp_path:
            for number in (1, 2):
                shard(tmp_path / f"val-{number:06d}.tar", 22 + number, 1)
        train, val = open_data(source, "train"), open_data(source, "val")
        assert train.classes == ("0", "1", "2")
        assert train.labels.tolist() == [n % 3 for n in range(18)]
        assert reds(train) == list(range(18))
        assert reds(val)[:4] == [18, 19, 20, 21]
    with pytest.raises(DataError, match="stands for 1 files that do not exist, such as .*train-000003.tar"):
        open_data(f"{tmp_path}/train-{{000000..000003}}.tar", "train")


def test_shards_may_be_labeled_by_json_or_by_folders(tmp_path):
    members = {"a.jpg": png(1), "a.json": b'{"label": "cat"}', "dog/b.png": png(2), "c.x.png": png(3), "c.cls": b"cat"}
    path = tar_of(tmp_path / "one.tar", members)
    data = open_data(path, "train", DataOptions(val_share=0.0))
    assert (data.classes, data.labels.tolist(), reds(data)) == (("cat", "dog"), [0, 1, 0], [1, 2, 3])
    several = {"a.png": png(1), "a.json": json.dumps({"label": ["x", "y"]}).encode()}
    data = open_data(tar_of(tmp_path / "two.tar", several), "train", DataOptions(val_share=0.0))
    assert data.several[0] == [0, 1]
    deep = tar_of(tmp_path / "deep.tar", {"a.png": png(1), "a.json": b"[" * 60_000})
    with pytest.raises(DataError, match=r"deep.tar: a.json cannot be read: maximum recursion depth exceeded"):
        open_data(deep, "train")
    with pytest.raises(DataError, match=r"a.png has no label: no a.cls, no `label` in a.json, no folder"):
        open_data(tar_of(tmp_path / "three.tar", {"a.png": png()}), "train")


def test_an_index_is_made_once_and_again_when_the_archive_changes_or_the_index_is_damaged(tmp_path, cache, monkeypatch):
    path = zip_of(tmp_path / "a.zip", {"cat/1.png": png(1), "cat/2.png": png(2)})
    whole = DataOptions(val_share=0.0)
    assert reds(open_data(path, "train", whole)) == [1, 2]
    made = list(cache.rglob("*.npz"))
    assert len(made) == 1 and [file for file in cache.rglob("*") if file.is_file()] == made
    with monkeypatch.context() as patch:
        patch.setattr(archives_module, "_zip_rows", None)  # must not be needed
        assert reds(open_data(path, "train", whole)) == [1, 2]
    made[0].write_bytes(made[0].read_bytes()[:100])
    assert reds(open_data(path, "train", whole)) == [1, 2]
    zip_of(path, {"cat/1.png": png(1), "cat/2.png": png(2), "cat/30.png": png(3)})
    assert reds(open_data(path, "train", whole)) == [1, 2, 3]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LEANFORMER_CACHE", str(tmp_path / "file"))
    path = zip_of(tmp_path / "a.zip", {"cat/1.png": png(1)})
    assert reds(open_data(path, "train", DataOptions(val_share=0.0))) == [1]


def test_damaged_members_are_named_and_left_out(tmp_path):
    path = zip_of(tmp_path / "a.zip", {f"cat/{n}.png": png(n) for n in range(4)}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    place = content.index(png(2))
    content[place + 40] ^= 0xFF
    path.write_bytes(content)
    data = open_data(path, "train", DataOptions(val_share=0.0))
    with pytest.raises(DataError, match=r"a.zip/cat/2.png cannot be read: its checksum is wrong"):
        data.image(2)
    loader = TrainBatches(data, Preprocess(image_size=(4, 4)), None, 4, 0)
    assert len(next(loader.batches(0)).indices) == 3
    assert list(loader.unreadable) == ["a.zip/cat/2.png"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_larger_than_any_image_is_damaged(tmp_path, monkeypatch, method):
    members = {f"cat/{n}.png": png(n) for n in range(3)} | {"cat/bomb.png": bytes(3 << 20)}
    data = open_data(zip_of(tmp_path / "a.zip", members, method), "train", DataOptions(val_share=0.0))
    monkeypatch.setattr(archives_module, "LARGEST_MEMBER", 3 << 20)
    assert len(data.store.read(3)) == 3 << 20
    monkeypatch.setattr(archives_module, "LARGEST_MEMBER", 2 << 20)
    with pytest.raises(DataError, match=r"cat/bomb.png cannot be read: it has 3 MB, more than the 2 MB of any image"):
        data.image(3)
    loader = TrainBatches(data, Preprocess(image_size=(4, 4)), None, 4, 0)
    assert len(next(loader.batches(0)).indices) == 3
    assert list(loader.unreadable) == ["a.zip/cat/bomb.png"]


@pytest.mark.parametrize("field, change, told", [(1, -5, "less than the 2304"), (2, -1, "more than the 2303")])
def test_a_member_that_unpacks_to_another_size_than_it_should_have_is_damaged(tmp_path, field, change, told):
    path = zip_of(tmp_path / "a.zip", {"cat/1.png": bytes(range(256)) * 9})
    index = archives_module.index_of(path)
    index.places[0, field] += change
    with pytest.raises(DataError, match=f"cat/1.png cannot be read: it unpacks to {told} bytes it should have"):
        archives_module.Archives([index]).read(0)


@pytest.mark.parametrize("kept", [10, 300, 530, 1024, 1100, 1536])
def test_a_truncated_tar_is_named(tmp_path, kept):
    path = shard(tmp_path / "train-0.tar", 0)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"train-0.tar is truncated"):
        open_data(tmp_path, "train")


def test_a_truncated_zip_is_named(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"cat/1.png": png()})
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"a.zip is truncated, or no zip archive"):
        open_data(path, "train")


def test_archives_that_cannot_be_read_by_place_say_so(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"cat/1.png": png()}, zipfile.ZIP_BZIP2)
    with pytest.raises(DataError, match=r"cat/1.png is compressed by method 12; pack the images again"):
        open_data(path, "train")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_workers_change_nothing_about_archives(tmp_path: Path, kind):
    folder = write_folder(tmp_path / "folder", per_class=8, num_unreadable=2)
    if kind == "zip":
        data = open_data(zip_of(tmp_path / "a.zip", packed(folder)), "train")
    else:
        data = open_data(tar_of(tmp_path / "a.tar", packed(folder)), "train")
    data.image(5)
    assert pickle.loads(pickle.dumps(data)).image(5).tobytes() == data.image(5).tobytes()
    arguments = data, Preprocess(image_size=(24, 20)), Augment(), 4, 0
    alone, helped = TrainBatches(*arguments), TrainBatches(*arguments, workers=2)
    for ours, theirs in zip(helped.batches(1, 2), alone.batches(1, 2), strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.indices, theirs.indices)
        assert ours.skipped == theirs.skipped
