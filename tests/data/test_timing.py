from leanformer.data import Augment, TrainBatches, open_data
from leanformer.data.synthetic import write_folder
from leanformer.data.timing import images_per_second, measure_parts
from leanformer.models import Preprocess

PREPROCESS = Preprocess(image_size=(24, 20))


def test_the_parts_of_the_pipeline_are_timed(tmp_path):
    data = open_data(write_folder(tmp_path, size=60), "train")
    plain = measure_parts(data, PREPROCESS, None, num_images=8)
    assert plain.decode > 0 and plain.resize > 0 and plain.augment == 0
    varied = measure_parts(data, PREPROCESS, Augment(auto_augment="rand-m9-mstd0.5-inc1"), num_images=8)
    assert "decode" in str(varied) and "images/s in one process" in str(varied)
    total = varied.decode + varied.resize + varied.augment + varied.collate
    assert varied.images_per_second == 1 / total


def test_a_loader_is_timed(tmp_path):
    data = open_data(write_folder(tmp_path), "train")
    assert images_per_second(TrainBatches(data, PREPROCESS, None, 4, 0), seconds=0.1) > 1
