import io
import logging
import shutil
import tarfile
from threading import Thread

import pytest
from PIL import Image

from leanformer.data import DataOptions, open_data, unpacked
from leanformer.data.synthetic import write_folder
from leanformer.errors import DataError

ALL = DataOptions(val_share=0.0)


def png(value):
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def tar_of(path, members, mode):
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def shard(path, start, mode="w:gz"):
    numbers = range(start, start + 6)
    return tar_of(
        path, {f"{n}.png": png(n) for n in numbers} | {f"{n}.cls": str(n % 3).encode() for n in numbers}, mode
    )


def reds(data):
    return sorted(data.image(index).getpixel((0, 0))[0] for index in range(len(data)))


@pytest.mark.parametrize("ending", ["tar.gz", "TGZ", "tar.bz2", "tar.xz"])
def test_a_compressed_tar_is_the_folder_that_was_packed(tmp_path, ending):
    folder = write_folder(tmp_path / "folder", num_classes=2, per_class=5)
    members = {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*.*"))}
    path = tar_of(
        tmp_path / f"photos.{ending}", members, "w:bz2" if ending == "tar.bz2" else f"w:{ending.lower()[-2:]}"
    )
    for split in ("train", "val"):
        ours, theirs = open_data(path, split), open_data(folder, split)
        assert (ours.classes, ours.labels.tolist()) == (theirs.classes, theirs.labels.tolist())
        assert ours.name(0) == f"photos.tar/{theirs.name(0)}"
        for index in range(len(theirs)):
            assert ours.image(index).tobytes() == theirs.image(index).tobytes()


def test_compressed_shards_are_read_like_plain_ones(tmp_path):
    for number in range(2):
        shard(tmp_path / f"train-{number}.tar.gz", 6 * number)
    shard(tmp_path / "val-0.tgz", 12)
    shard(tmp_path / "train-2.tar", 20, "w")
    for source in (tmp_path, f"{tmp_path}/train-{{0..1}}.tar.gz"):
        data = open_data(source, "train", ALL)
        assert set(range(12)) <= set(reds(data))
        assert all(label == data.image(i).getpixel((0, 0))[0] % 3 for i, label in enumerate(data.labels.tolist()))
    assert reds(open_data(tmp_path, "val")) == list(range(12, 18))


def test_it_is_unpacked_once_with_a_word_on_the_room_it_takes(tmp_path, cache, caplog):
    path = shard(tmp_path / "a.tar.gz", 0)
    with caplog.at_level(logging.WARNING):
        open_data(path, "train", ALL)
        (plain,) = cache.glob("unpacked/*/a.tar")
        made = plain.stat().st_mtime_ns
        open_data(path, "train", ALL)
    assert plain.stat().st_mtime_ns == made
    assert [str(path) in record.message and str(cache) in record.message for record in caplog.records] == [True]
    shutil.rmtree(cache)
    assert reds(open_data(path, "train", ALL)) == list(range(6))


def test_a_changed_archive_is_unpacked_again(tmp_path):
    path = shard(tmp_path / "a.tar.gz", 0)
    assert reds(open_data(path, "train", ALL)) == list(range(6))
    shard(path, 100)
    assert reds(open_data(path, "train", ALL)) == list(range(100, 106))


@pytest.mark.parametrize("cut", [0.5, 0.9, 0.99])
def test_a_truncated_archive_is_named_and_leaves_nothing_behind(tmp_path, cache, cut):
    path = shard(tmp_path / "a.tar.gz", 0)
    path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
    with pytest.raises(DataError, match=r"a\.tar\.gz is truncated or damaged"):
        open_data(path, "train", ALL)
    assert [file.name for file in cache.rglob("*") if file.is_file()] == [".lock"]


def test_what_cannot_be_unpacked_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "a.tar.zst").write_bytes(b"(\xb5/\xfd")
    with pytest.raises(DataError, match=r"zst has no reader here; unpack it to a plain .tar \(zstd -d a.tar.zst\)"):
        open_data(tmp_path / "a.tar.zst", "train")
    path = shard(tmp_path / "a.tar.gz", 0)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3))
    with pytest.raises(DataError, match="LEANFORMER_CACHE chooses another place.*0.0 GB free"):
        open_data(path, "train")


def test_several_that_come_at_once_unpack_it_once(tmp_path, monkeypatch):
    path, calls = shard(tmp_path / "a.tar.gz", 0), []
    real = unpacked.write_chunks
    monkeypatch.setattr(unpacked, "write_chunks", lambda *args: calls.append(args) or real(*args))
    threads = [Thread(target=unpacked.unpacked, args=[path]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
