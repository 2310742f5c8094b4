"""From a file to a model's input: `open_image` reads anything as RGB, `prepare` carries out a `Preprocess`.

Pillow and numpy alone, yet equal to the torchvision and timm transforms that the published models were evaluated with.
"""

from __future__ import annotations

import math
import struct
import warnings
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from leanformer.errors import DataError
from leanformer.models.preprocess import Preprocess

# What pillow's readers raise on damaged files; OSError includes UnidentifiedImageError and truncation.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    NotImplementedError,
    struct.error,
    zlib.error,
    MemoryError,  # of a damaged or hostile header
    Image.DecompressionBombError,
)
ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
LONGEST_ASPECT = 64


def open_image(source: str | Path | BinaryIO) -> Image.Image:
    """Read an image as upright RGB: EXIF orientation applied, transparency on white, the first frame of several.

    Raises:
        DataError: if the file is missing, damaged, truncated, no image, or so large that it may be an attack.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pillow warns of odd EXIF, palettes and sizes that it then reads
        try:
            _check_is_regular(source)
            with Image.open(source) as image:
                image.load()
                orientation = _orientation(image)
                rgb = to_rgb(image)
        except UNREADABLE as error:
            name = source if isinstance(source, (str, Path)) else getattr(source, "name", "the image")
            raise DataError(f"{printable(str(name))} cannot be read as an image: {_reason(error)}") from error
    return rgb if orientation is None else rgb.transpose(orientation)


def printable(name: str) -> str:
    """A file name as text that any file or terminal takes: bytes that are no UTF-8 are written as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def to_rgb(image: Image.Image) -> Image.Image:
    """Any pillow image as RGB: transparency on white, and more than 8 bits scaled (see `_to_8_bit`)."""
    if image.mode.startswith(("I", "F")):
        image = _to_8_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def prepare(image: Image.Image, preprocess: Preprocess) -> Tensor:
    """What a model is fed for `image`: float32 (3, H, W), resized, centre-cropped and normalized."""
    pixels = np.array(resize_and_crop(to_rgb(image), preprocess))  # (H, W, 3)
    return normalize(pixels[None], preprocess)[0]


def prepare_arrays(pixels: np.ndarray, preprocess: Preprocess) -> Tensor:
    """`prepare` for uint8 (B, H, W) or (B, H, W, 3) images of one size at once: float32 (B, 3, H, W)."""
    height, width = pixels.shape[1:3]
    if preprocess.image_size != (height, width) or _resized((width, height), preprocess) != (width, height):
        pixels = np.stack([np.asarray(resize_and_crop(Image.fromarray(image), preprocess)) for image in pixels])
    return normalize(pixels, preprocess)


def resize_and_crop(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """`image` resized and centre-cropped to the image size; what it lacks after the resize is black."""
    image = _shorten(image) if preprocess.fit == "shorter" else image
    image = image.resize(_resized(image.size, preprocess), FILTERS[preprocess.interpolation])
    height, width = preprocess.image_size
    left, top = _margin(image.width, width), _margin(image.height, height)
    return image.crop((left, top, left + width, top + height))


def normalize(pixels: np.ndarray, preprocess: Preprocess) -> Tensor:
    """uint8 (B, H, W) or (B, H, W, 3) as float32 (B, 3, H, W), scaled to 0..1 and normalized by channel."""
    x = torch.from_numpy(pixels)
    x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (preprocess.mean, preprocess.std))
    return ((x.float() / 255 - mean) / std).contiguous()


def _resized(size: tuple[int, int], preprocess: Preprocess) -> tuple[int, int]:
    """Width and height that an image of width and height `size` is resized to."""
    height, width = (math.floor(side / preprocess.crop) for side in preprocess.image_size)
    if preprocess.fit == "squash":
        return width, height
    if height == width:
        short, long = min(size), max(size)
        stretched = int(height * long / short)
        return (height, stretched) if size[0] <= size[1] else (stretched, height)
    ratio = min(size[0] / width, size[1] / height)
    return round(size[0] / ratio), round(size[1] / ratio)


def _margin(have: int, want: int) -> int:
    """Where a centred crop starts, rounded as torchvision does; negative where the crop is larger than the image."""
    return round((have - want) / 2) if have >= want else -((want - have) // 2)


def _shorten(image: Image.Image) -> Image.Image:
    """The middle of an extremely long image: the crop sees nothing else, and resizing all of it could fill the
    memory."""
    limit = LONGEST_ASPECT * min(image.size)
    width, height = min(image.width, limit), min(image.height, limit)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image if (width, height) == image.size else image.crop((left, top, left + width, top + height))


def _to_8_bit(image: Image.Image) -> Image.Image:
    """A grey image of 16 or 32 bits or floats as 8 bits.

    16 bits are scaled by their full range. The other modes do not say their range: values within 0..1 (floats), 0..255
    or 0..65535 are taken to be of that range, anything else is stretched from its minimum to its maximum.
    """
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    low, high = float(values.min()), float(values.max())
    if image.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    elif image.mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 65535:
        low, high = 0.0, 255.0 if high <= 255 else 65535.0
    scaled = (values - low) * (255 / max(high - low, 1e-12))
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def _orientation(image: Image.Image) -> Image.Transpose | None:
    """What turns the image upright, if it does not stand so."""
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except UNREADABLE:
        return None  # damaged EXIF says nothing about the pixels, which were read


def _check_is_regular(source: str | Path | BinaryIO) -> None:
    """Refuse pipes and devices, whose reading may never end."""
    if not isinstance(source, (str, Path)):
        return
    path = Path(source)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError("it is no regular file")


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, Image.UnidentifiedImageError):
        return "its content is no known image format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{error}" or type(error).__name__
