import io
import json
import os
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from leanformer.data.preprocess import open_image, prepare, prepare_arrays
from leanformer.errors import DataError
from leanformer.models import Preprocess

GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "eval_transform.npz"
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)).resize((31, 43))


def saved(image, path, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize("name", ["land", "port", "small"])
def test_preparing_an_image_equals_the_published_evaluation_transform(name):
    with np.load(GOLDEN) as golden:
        height, width = json.loads(str(golden["meta"]))["sizes"][name][:2]
        image = Image.fromarray(golden[f"extra_{name}_image_lowres"]).resize((width, height), Image.Resampling.BILINEAR)
        out = prepare(image, Preprocess())[:, ::8, ::8].numpy()
        np.testing.assert_allclose(out, golden[f"extra_{name}_out_stride8"], rtol=0, atol=1e-5)


def test_squashing_without_a_crop_equals_the_published_transform_without_a_crop():
    with np.load(GOLDEN) as golden:
        image = Image.fromarray(golden["extra_small_image_lowres"]).resize((100, 120), Image.Resampling.BILINEAR)
        out = prepare(image, Preprocess(fit="squash", crop=1.0))[:, ::8, ::8].numpy()
        np.testing.assert_allclose(out, golden["extra_small_nocrop_stride8"], rtol=0, atol=1e-5)


@pytest.mark.extras
@pytest.mark.parametrize("size", [(43, 31), (31, 43), (57, 224), (300, 225), (8, 9), (224, 224), (1, 5)])
@pytest.mark.parametrize("image_size", [(224, 224), (33, 33), (28, 45), (45, 28)], ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"fit": "squash"}, {"crop": 1.0}, {"crop": 0.9, "interpolation": "bilinear"}], ids=str
)
def test_preparing_an_image_equals_timm(size, image_size, options):
    from timm.data.transforms_factory import create_transform

    preprocess = Preprocess(image_size=image_size, **options)
    theirs = create_transform(
        input_size=(3, *image_size),
        crop_pct=preprocess.crop,
        crop_mode="squash" if preprocess.fit == "squash" else "center",
        interpolation=preprocess.interpolation,
        mean=preprocess.mean,
        std=preprocess.std,
    )
    image = PHOTO.resize(size, Image.Resampling.BICUBIC)
    torch.testing.assert_close(prepare(image, preprocess), theirs(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("preprocess", [
    Preprocess(image_size=(28, 28), crop=1.0),
    Preprocess(image_size=(28, 28)),
    Preprocess(image_size=(40, 33), interpolation="bilinear"),
    Preprocess(image_size=(19, 19), fit="squash"),
], ids=str)  # fmt: skip
def test_preparing_arrays_equals_preparing_each_image(color, preprocess):
    pixels = np.random.default_rng(1).integers(0, 256, (3, 28, 28, 3) if color else (3, 28, 28), np.uint8)
    each = torch.stack([prepare(Image.fromarray(image), preprocess) for image in pixels])
    torch.testing.assert_close(prepare_arrays(pixels, preprocess), each, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_an_extremely_long_image_is_prepared_without_filling_the_memory(size):
    out = prepare(Image.new("RGB", size, "white"), Preprocess(image_size=(64, 64)))
    assert out.shape == (3, 64, 64)
    assert (out > 2).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_images_are_turned_upright(tmp_path, orientation, ending):
    quarters = np.array([[[250, 10, 10], [10, 250, 10]], [[10, 10, 250], [240, 240, 240]]], np.uint8)  # R G / B white
    upright = Image.fromarray(quarters.repeat(16, 0).repeat(24, 1))  # 48 wide, 32 high
    undo = {
        2: 0,
        3: 3,
        4: 1,
        5: 5,
        6: 2,
        7: 6,
        8: 4,
    }  # the transpose that stores it so that `orientation` turns it upright
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_image(saved(stored, tmp_path / f"x.{ending}", exif=exif))
    assert image.size == (48, 32)
    np.testing.assert_allclose(np.asarray(image)[4::16, 4::24], quarters, atol=12)


def test_transparency_shows_white(tmp_path):
    clear = Image.new("RGBA", (4, 3), (200, 0, 0, 0))
    half = Image.new("LA", (4, 3), (55, 128))
    palette = Image.new("P", (4, 3), 0)
    palette.putpalette([9, 9, 9, 80, 90, 100])
    palette.putpixel((0, 0), 1)
    keyed = Image.new("RGB", (4, 3), (1, 2, 3))
    assert open_image(saved(clear, tmp_path / "a.png")).getpixel((1, 1)) == (255, 255, 255)
    assert open_image(saved(half, tmp_path / "b.png")).getpixel((1, 1)) == (155, 155, 155)
    image = open_image(saved(palette, tmp_path / "c.png", transparency=0))
    assert (image.getpixel((0, 0)), image.getpixel((1, 1))) == ((80, 90, 100), (255, 255, 255))
    image = open_image(saved(palette, tmp_path / "d.gif", transparency=0))
    assert (image.getpixel((0, 0)), image.getpixel((1, 1))) == ((80, 90, 100), (255, 255, 255))
    assert open_image(saved(keyed, tmp_path / "e.png", transparency=(1, 2, 3))).getpixel((1, 1)) == (255, 255, 255)


def test_grey_and_one_bit_images_become_rgb(tmp_path):
    assert open_image(saved(Image.new("L", (2, 2), 77), tmp_path / "a.png")).getpixel((0, 0)) == (77, 77, 77)
    assert open_image(saved(Image.new("1", (2, 2), 1), tmp_path / "b.png")).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(("ending", "values", "expected"), [
    ("png", np.array([[0, 32896, 65535]], np.uint16), [0, 128, 255]),
    ("tif", np.array([[0, 32896, 65535]], np.uint16), [0, 128, 255]),
    ("tif", np.array([[0, 32896, 65535]], np.int32), [0, 128, 255]),
    ("tif", np.array([[0, 128, 255]], np.int32), [0, 128, 255]),
    ("tif", np.array([[-1000, 0, 1000]], np.int32), [0, 128, 255]),
    ("tif", np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
    ("tif", np.array([[0, 128, 255]], np.float32), [0, 128, 255]),
    ("tif", np.array([[np.nan, -1, 1]], np.float32), [128, 0, 255]),
    ("tif", np.array([[7, 7, 7]], np.float32), [7, 7, 7]),
])  # fmt: skip
def test_more_than_8_bits_are_scaled_to_8(tmp_path, ending, values, expected):
    image = open_image(saved(Image.fromarray(values), tmp_path / f"x.{ending}"))
    assert image.mode == "RGB"
    assert np.asarray(image)[0, :, 0].tolist() == expected


def test_cmyk_images_keep_their_colors(tmp_path):
    red = Image.new("RGB", (16, 16), (230, 20, 30)).convert("CMYK")
    np.testing.assert_allclose(open_image(saved(red, tmp_path / "x.jpg")).getpixel((5, 5)), (230, 20, 30), atol=6)


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.new("RGB", (5, 4), color) for color in ("red", "blue", "green")]
    path = saved(frames[0], tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert open_image(path).getpixel((2, 2)) == (255, 0, 0)


def test_an_open_file_is_read_like_a_path(tmp_path):
    path = saved(PHOTO, tmp_path / "x.png")
    with path.open("rb") as file:
        assert open_image(file).tobytes() == open_image(str(path)).tobytes() == PHOTO.tobytes()


def test_unreadable_images_are_named_with_the_reason(tmp_path):
    path = saved(PHOTO, tmp_path / "x.jpg")
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError, match="x.jpg cannot be read as an image: image file is truncated"):
        open_image(path)
    path.write_text("not an image")
    with pytest.raises(DataError, match="x.jpg cannot be read as an image: its content is no known image format"):
        open_image(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="its content is no known image format"):
        open_image(path)
    with pytest.raises(DataError, match="missing.jpg cannot be read as an image: there is no such file"):
        open_image(tmp_path / "missing.jpg")
    with pytest.raises(DataError, match="it is a folder"):
        open_image(tmp_path)


def test_damaged_exif_does_not_cost_the_image(tmp_path):
    for ending in ("jpg", "png", "webp"):
        path = saved(Image.new("RGB", (4, 3), "white"), tmp_path / f"x.{ending}", exif=b"Exif\0\0garbage!")
        assert open_image(path).getpixel((1, 1)) == (255, 255, 255)


def test_a_decompression_bomb_is_refused(tmp_path):
    path = saved(Image.new("1", (20_000, 20_000)), tmp_path / "bomb.png")
    with pytest.raises(DataError, match="bomb.png cannot be read as an image: .*decompression bomb"):
        open_image(path)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "gif", "bmp"])
def test_damaged_files_raise_data_errors_alone_and_warn_of_nothing(tmp_path, ending):
    content = saved(PHOTO, tmp_path / f"x.{ending}").read_bytes()
    source = random.Random(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(100):
            damaged = bytearray(content[: source.randrange(1, len(content))] if source.random() < 0.5 else content)
            for _ in range(3):
                damaged[source.randrange(min(len(damaged), 200))] = source.randrange(256)
            try:
                assert open_image(io.BytesIO(damaged)).mode == "RGB"
            except DataError as error:
                assert "cannot be read as an image" in str(error)


def test_a_header_that_asks_for_more_memory_than_there_is_is_refused(tmp_path, monkeypatch):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")

    def exhausted(_image):
        raise MemoryError

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", exhausted)
    with pytest.raises(DataError, match=r"a\.png cannot be read as an image: MemoryError"):
        open_image(tmp_path / "a.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png cannot be read as an image: it is no regular file"):
        open_image(tmp_path / "a.png")
