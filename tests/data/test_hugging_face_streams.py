import io
import logging
import pickle
import tarfile

import pytest
import torch
from PIL import Image

from leanformer.data import Augment, DataOptions, EvalBatches, TrainBatches, open_data
from leanformer.errors import DataError, TrainingError
from leanformer.models import Preprocess

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.extras

PLAIN = Preprocess(image_size=(4, 4))
STREAMED = DataOptions(streaming=True, shuffle_buffer=3, val_share=0.25)


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")


def png(value):
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def table(numbers, label=lambda n: n % 2, broken=(), kind=None):
    rows = {
        "image": [{"bytes": b"none" if n in broken else png(n), "path": None} for n in numbers],
        "label": [label(n) for n in numbers],
    }
    kind = kind or datasets.ClassLabel(names=["cat", "dog"])
    return datasets.Dataset.from_dict(rows, datasets.Features({"image": datasets.Image(), "label": kind}))


def parquet(folder, shards=(range(7), range(7, 10), range(10, 23)), side="train", **how):
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for number, rows in enumerate(shards):
        table(rows, **how).to_parquet(folder / "data" / f"{side}-{number:05d}-of-{len(shards):05d}.parquet")
    return folder


def shards_of(folder):
    folder.mkdir()
    for side, numbers in (("train", [range(5), range(5, 12)]), ("test", [range(12, 15)])):
        for shard, rows in enumerate(numbers):
            with tarfile.open(folder / f"{side}-{shard}.tar", "w") as archive:
                for n in rows:
                    for ending, data in (("png", png(n)), ("cls", str(n % 3).encode())):
                        info = tarfile.TarInfo(f"{n:05d}.{ending}")
                        info.size = len(data)
                        archive.addfile(info, io.BytesIO(data))
    return folder


def reds(data):
    return [data.image(index).getpixel((0, 0))[0] for index in range(len(data))]


def test_a_streamed_set_is_the_one_that_is_read_by_place(tmp_path):
    folder = parquet(tmp_path / "set")
    for side in ("train", "val"):
        ours, theirs = (open_data(folder, side, DataOptions(val_share=0.25, streaming=yes)) for yes in (True, False))
        assert ours.classes == theirs.classes == ("cat", "dog")
        assert ours.labels.tolist() == theirs.labels.tolist()
        assert reds(ours) == reds(theirs)
        assert ours.name(1) == theirs.name(1)


def test_shards_of_webdataset_are_streamed_with_their_own_side_for_validation(tmp_path, caplog):
    folder = shards_of(tmp_path / "set")
    with caplog.at_level(logging.WARNING):
        train, val = (open_data(f"hf:{folder}", side, STREAMED) for side in ("train", "val"))
    assert (train.classes, val.classes) == (("0", "1", "2"),) * 2
    assert (reds(train), train.labels.tolist()) == (list(range(12)), [n % 3 for n in range(12)])
    assert (reds(val), val.labels.tolist()) == ([12, 13, 14], [0, 1, 2])
    assert sum("all of it is read once" in record.message for record in caplog.records) == 2


def test_labels_are_counted_once_until_the_files_change(tmp_path, cache, caplog):
    folder = parquet(tmp_path / "set")
    caplog.set_level(logging.INFO)
    assert len(open_data(folder, "train", DataOptions(streaming=True, val_share=0))) == 23
    open_data(folder, "train", STREAMED)
    assert ["23 images in 3 shards" in record.message for record in caplog.records].count(True) == 1
    for kept in cache.rglob("*.json"):
        kept.write_text('{"sizes"')
    assert len(open_data(folder, "train", DataOptions(streaming=True, val_share=0))) == 23
    table(range(7, 9)).to_parquet(folder / "data" / "train-00001-of-00003.parquet")
    assert len(open_data(folder, "train", DataOptions(streaming=True, val_share=0))) == 22


def test_workers_change_nothing_and_a_run_goes_on_at_any_step(tmp_path):
    folder = parquet(tmp_path / "set", broken={4})

    def batches(workers, epoch, start=0):
        loader = TrainBatches(open_data(folder, "train", STREAMED), PLAIN, Augment(), 3, 0, workers)
        return list(loader.batches(epoch, start))

    whole = batches(0, 1)
    for ours, theirs in zip(batches(2, 1, 2), whole[2:], strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.indices, theirs.indices)
    assert [name for batch in whole for name, _ in batch.skipped] == [f"{folder}[4]"]
    assert [batch.indices.tolist() for batch in batches(0, 0)] != [batch.indices.tolist() for batch in whole]


def test_a_stream_goes_to_another_process(tmp_path):
    data = open_data(parquet(tmp_path / "set"), "train", STREAMED)
    data.image(2)
    assert pickle.loads(pickle.dumps(data)).image(1).tobytes() == data.image(1).tobytes()


def test_rows_may_have_several_labels_or_names(tmp_path):
    several = datasets.Sequence(datasets.ClassLabel(names=["cat", "dog"]))
    folder = parquet(tmp_path / "several", [range(8)], label=lambda n: [0, 1] if n % 2 else [1], kind=several)
    data = open_data(folder, "train", DataOptions(streaming=True, val_share=0))
    assert next(iter(EvalBatches(data, PLAIN, 4))).labels.tolist() == [[0, 1], [1, 1]] * 2
    named = parquet(tmp_path / "named", label=lambda n: "ab"[n % 2], kind=datasets.Value("string"))
    data = open_data(
        parquet(named, [range(3)], "validation", label=lambda n: "b", kind=datasets.Value("string")), "val", STREAMED
    )
    assert (data.classes, data.labels.tolist()) == (("a", "b"), [1, 1, 1])


def test_what_lies_on_the_disk_as_a_table_is_not_streamed(tmp_path):
    table(range(6)).save_to_disk(tmp_path / "set")
    data = open_data(tmp_path / "set", "train", DataOptions(streaming=True, val_share=0))
    assert not hasattr(data, "stream")
    assert reds(data) == list(range(6))


def test_what_cannot_be_streamed_says_why(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"a\.zip cannot be streamed; give a .parquet or .tar file, or a folder of them"
    ):
        open_data(tmp_path / "a.zip", "train", STREAMED)
    with pytest.raises(DataError, match="there is no .*none to stream; a data set of the hub is written hf:owner/name"):
        open_data(str(tmp_path / "none"), "train", STREAMED)
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "set" / "train-0.parquet")
    with pytest.raises(DataError, match="has no column of images; its columns are text"):
        open_data(tmp_path / "set", "train", STREAMED)


def test_a_file_that_is_damaged_later_ends_the_run_and_is_not_skipped(tmp_path):
    folder = parquet(tmp_path / "set")
    loader = TrainBatches(open_data(folder, "train", STREAMED), PLAIN, None, 3, 0)
    file = folder / "data" / "train-00002-of-00003.parquet"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(
        TrainingError, match=r"reading broke off in shard 2.*goes on from its last checkpoint by --resume"
    ):
        list(loader.batches(0))
