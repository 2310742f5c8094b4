import json
import re

import numpy as np
import pytest
from PIL import Image

from leanformer.data import open_data
from leanformer.data.imagenet import as_imagenet, imagenet_classes, present_classes, share_among, with_real_labels
from leanformer.errors import DataError

FISH, SHARK, CRANE, MACHINE = "n01440764", "n01484850", "n02012849", "n03126707"


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2)).save(path)


def imagenet(root, flat=True):
    for wnid in (FISH, SHARK, CRANE):
        put(root / "train" / wnid / f"{wnid}_1.JPEG")
    for number, wnid in enumerate((CRANE, FISH, SHARK, CRANE), 1):
        put(root / "val" / ("" if flat else wnid) / f"ILSVRC2012_val_{number:08d}.JPEG")
    return root


def test_folders_of_imagenet_have_readable_classes(tmp_path):
    data = open_data(imagenet(tmp_path, flat=False), "val")
    assert data.classes == ("tench", "great white shark", "crane")
    assert data.keys == (FISH, SHARK, CRANE)
    assert data.labels.tolist() == [0, 1, 2, 2]


def test_classes_of_one_name_are_told_apart(tmp_path):
    for wnid in (CRANE, MACHINE, FISH):
        put(tmp_path / "val" / wnid / "1.JPEG")
    assert open_data(tmp_path, "val").classes == ("tench", f"crane ({CRANE})", f"crane ({MACHINE})")


def test_a_file_of_names_in_the_root_comes_first(tmp_path):
    imagenet(tmp_path)
    (tmp_path / "LOC_synset_mapping.txt").write_text(f"{FISH} a fish, some fish\n{SHARK} a shark\n")
    assert open_data(tmp_path, "train").classes == ("a fish", "a shark", CRANE)


@pytest.mark.parametrize(("name", "text"), [
    ("val.txt", "ILSVRC2012_val_00000001.JPEG 2\nILSVRC2012_val_00000002.JPEG 0\n"
                "ILSVRC2012_val_00000003.JPEG 1\nILSVRC2012_val_00000004.JPEG 2\n"),
    ("LOC_val_solution.csv", f"ImageId,PredictionString\nILSVRC2012_val_00000004,{CRANE} 1 2 3 4 \n"
                             f"ILSVRC2012_val_00000001,{CRANE} 1 2 3 4\nILSVRC2012_val_00000002,{FISH} 1 2 3 4\n"
                             f"ILSVRC2012_val_00000003,{SHARK} 1 2 3 4\n"),
    ("imagenet_2012_validation_synset_labels.txt", f"{CRANE}\n{FISH}\n{SHARK}\n{CRANE}\n"),
    ("ILSVRC2012_validation_ground_truth.txt", "7\n1\n3\n7\n"),
])  # fmt: skip
def test_a_flat_val_folder_is_labeled_by_a_file_of_the_truth(tmp_path, name, text):
    imagenet(tmp_path)
    (tmp_path / name).write_text(text)
    (tmp_path / "map_clsloc.txt").write_text(f"{FISH} 1 fish\n{SHARK} 3 shark\n{CRANE} 7 crane\n")
    assert open_data(tmp_path, "val").labels.tolist() == [2, 0, 1, 2]
    assert len(open_data(tmp_path, "train")) == 3


def test_kaggles_folders_are_found(tmp_path):
    imagenet(tmp_path / "ILSVRC" / "Data" / "CLS-LOC")
    (tmp_path / "imagenet_2012_validation_synset_labels.txt").write_text(f"{CRANE}\n{FISH}\n{SHARK}\n{CRANE}\n")
    assert open_data(tmp_path, "val").labels.tolist() == [2, 0, 1, 2]


def test_a_flat_val_folder_without_its_truth_says_what_to_add(tmp_path):
    imagenet(tmp_path)
    with pytest.raises(DataError, match=r"no file says the class of its 4 images; put one of LOC_val_solution.csv"):
        open_data(tmp_path, "val")
    (tmp_path / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG 2\n")
    with pytest.raises(DataError, match=r"val.txt does not name val/ILSVRC2012_val_00000002.JPEG"):
        open_data(tmp_path, "val")
    (tmp_path / "val.txt").unlink()
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_text("7\n1\n3\n")
    with pytest.raises(DataError, match=r"in the order of the development kit, which .*map_clsloc.txt would give"):
        open_data(tmp_path, "val")


def test_test_sets_are_labeled_among_the_thousand_classes(tmp_path):
    for name in ("0", "10", "2"):
        put(tmp_path / "v2" / "val" / name / "1.jpeg")
    v2 = as_imagenet(open_data(tmp_path / "v2", "val"))
    assert v2.labels.tolist() == [0, 10, 2]
    assert len(v2.classes) == len(set(v2.classes)) == 1000
    assert v2.classes[0] == "tench" and v2.keys == imagenet_classes()
    for wnid in (SHARK, CRANE):
        put(tmp_path / "r" / "test" / wnid / "art_1.jpg")
    r = as_imagenet(open_data(tmp_path / "r", "val"))
    assert present_classes(r).tolist() == sorted(imagenet_classes().index(wnid) for wnid in (SHARK, CRANE))
    put(tmp_path / "pets" / "val" / "cat" / "1.jpg")
    with pytest.raises(DataError, match="has classes like n01440764 or 0 to 999; found 'cat'"):
        as_imagenet(open_data(tmp_path / "pets", "val"))


def test_real_labels_replace_those_of_the_validation_images(tmp_path):
    imagenet(tmp_path, flat=False)
    data = open_data(tmp_path, "val")  # by class: images 2, 3, 1, 4
    truth = tmp_path / "real.json"
    truth.write_text(json.dumps([[134], [], [2, 0], [1]]))
    data = as_imagenet(data)
    real = with_real_labels(data, truth)
    assert [real.several[index] for index in range(3)] == [[0, 2], [134], [1]]
    assert [real.name(index)[-6] for index in range(3)] == ["3", "1", "4"]
    assert share_among(np.array([2, 133, 1]), np.arange(3), real.several) == 2 / 3
    assert len(with_real_labels(data)) == 3  # timm's copy has nothing to say of image 1
    put(tmp_path / "val" / FISH / "other.JPEG")
    with pytest.raises(DataError, match="not 'other'"):
        with_real_labels(as_imagenet(open_data(tmp_path, "val")))


@pytest.mark.parametrize("label", ["0", 1.0, None, True, 99999, -1, [3]], ids=json.dumps)
def test_real_labels_are_numbers_of_classes(tmp_path, label):
    data = as_imagenet(open_data(imagenet(tmp_path, flat=False), "val"))
    truth = tmp_path / "real.json"
    truth.write_text(json.dumps([[134], [], [2, label], [1]]))
    told = f"real.json gives image 3 the label {json.dumps(label)}; ReaL labels are whole numbers from 0 to 999"
    with pytest.raises(DataError, match=re.escape(told)):
        with_real_labels(data, truth)


def test_many_folders_without_a_val_side_can_all_be_trained_on(tmp_path):
    from leanformer.data import DataOptions

    for number in range(200):
        put(tmp_path / f"n{number:08d}" / "1.JPEG")
    data = open_data(tmp_path, "train", DataOptions(val_share=0.0))
    assert (len(data.classes), len(data)) == (200, 200)
    with pytest.raises(DataError, match="has no val folder, and val_share 0 leaves none"):
        open_data(tmp_path, "val", DataOptions(val_share=0.0))
