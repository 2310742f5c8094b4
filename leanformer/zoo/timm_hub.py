"""Models by their timm names (`timm/swin_tiny_patch4_window7_224.ms_in1k`): our configs for them, and their files on
the Hugging Face Hub or in a folder.

timm itself (https://github.com/huggingface/pytorch-image-models) is not needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from leanformer.checkpoints import files
from leanformer.checkpoints.fetch import Remote, fetch
from leanformer.errors import CheckpointError, ConfigError, suggestion
from leanformer.models import BackboneConfig, Preprocess, find
from leanformer.zoo.weights import Weights

PREFIX = "timm/"
TENSORS, RECORD = "model.safetensors", "config.json"

_HUB = "https://huggingface.co/timm"
_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class TimmModel:
    """What a timm name stands for."""

    base: str
    """The registered model it is."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Fields of its config that differ."""
    tag: str
    """The weights meant by the name alone."""
    crop: float = 0.9
    mean: tuple[float, float, float] = Preprocess.mean
    std: tuple[float, float, float] = Preprocess.std
    license: str = "Apache-2.0"

    def config(self) -> BackboneConfig:
        """Our config for it."""
        return replace(find(self.base), **self.changes)

    def preprocess(self) -> Preprocess:
        """How images are prepared where no file says it."""
        return Preprocess(image_size=self.config().image_grid, crop=self.crop, mean=self.mean, std=self.std)


def _models() -> dict[str, TimmModel]:
    found: dict[str, TimmModel] = {}
    for size in ("tiny", "small", "base"):
        for token in ("", "_distilled"):
            name = f"deit_{size}{token}"
            found[f"{name}_patch16_224"] = TimmModel(base=name, tag="fb_in1k")
            if size == "base":
                found[f"{name}_patch16_384"] = TimmModel(base=f"{name}_384", tag="fb_in1k", crop=1.0)
    for size, patch in (("tiny", 16), ("small", 16), ("base", 16), ("small", 32), ("base", 32)):
        for pixels, crop in ((224, 0.9), (384, 1.0)):
            found[f"vit_{size}_patch{patch}_{pixels}"] = TimmModel(
                base=f"vit_{size}",
                changes={"patch_size": patch, "image_size": pixels},
                tag=f"augreg{'2' if (size, patch, pixels) == ('base', 16, 224) else ''}_in21k_ft_in1k",
                crop=crop,
                mean=_HALF,
                std=_HALF,
            )
    for size in ("small", "base"):
        for form, ours, changes in (("", "", {}), ("_reg4", "_registers", {"prefix_positions": "none"})):
            found[f"vit_{size}_patch14{form}_dinov2"] = TimmModel(
                base=f"vit_{size}_dinov2{ours}", changes=changes, tag="lvd142m", crop=1.0
            )
    for size, tag in (("tiny", "ms_in1k"), ("small", "ms_in22k_ft_in1k"), ("base", "ms_in22k_ft_in1k")):
        found[f"swin_{size}_patch4_window7_224"] = TimmModel(base=f"swin_{size}", tag=tag, license="MIT")
    large = {"image_size": 384, "window_size": 12}
    found["swin_base_patch4_window12_384"] = TimmModel(
        base="swin_base", changes=large, tag="ms_in22k_ft_in1k", crop=1.0, license="MIT"
    )
    for size in ("b0", "b1", "b2", "b3", "b4", "b5", "b2_li"):
        found[f"pvt_v2_{size}"] = TimmModel(base=f"pvt_v2_{size.replace('li', 'linear')}", tag="in1k")
    for size in ("xs", "s", "l1", "l3"):
        found[f"swiftformer_{size}"] = TimmModel(base=f"swiftformer_{size}", tag="dist_in1k", crop=0.95)
    return found


TIMM_MODELS = _models()


def find_timm(name: str) -> TimmModel:
    """What `timm/<name>` or `timm/<name>.<tag>` stands for.

    Raises:
        ConfigError: for a name that has no config here, naming the nearest ones.
    """
    architecture = name.removeprefix(PREFIX).partition(".")[0]
    if architecture not in TIMM_MODELS:
        families = "deit, vit, swin, pvt_v2 and swiftformer"
        hint = suggestion(architecture, TIMM_MODELS) or f"; those of {families} are known"
        raise ConfigError(f"unknown timm model {name!r}{hint}")
    return TIMM_MODELS[architecture]


def full_timm_name(name: str) -> str:
    """`<name>.<tag>`, without `timm/`; the usual tag if none is given."""
    short = name.removeprefix(PREFIX)
    return short if "." in short else f"{short}.{find_timm(name).tag}"


def hub_files(name: str) -> tuple[Path, Path]:
    """Weights and description of `timm/<name>[.<tag>]`: from the Hub's own cache, ours, or the network.

    Raises:
        ConfigError: for an unknown name.
        CheckpointError: if they are in no cache and cannot be fetched, naming the file to get.
    """
    find_timm(name)
    full = full_timm_name(name)
    snapshot = _snapshot(full)
    if snapshot is not None:
        return snapshot / TENSORS, snapshot / RECORD
    weights, record = (
        Remote(path=f"timm/{full}/{file}", page=f"{_HUB}/{full}", url=f"{_HUB}/{full}/resolve/main/{file}", file=file)
        for file in (TENSORS, RECORD)
    )
    return fetch(weights), fetch(record)


def describe_timm(name: str, record: Path | None = None) -> Weights:
    """What is known of the weights of a timm name: from the `config.json` beside them, or what is usual for them.

    Raises:
        CheckpointError: if the description cannot be read.
    """
    model = find_timm(name)
    page, file = f"{_HUB}/{full_timm_name(name)}", TENSORS
    if record is None or not record.is_file():
        return Weights(page=page, file=file, license=model.license, preprocess=model.preprocess())
    content = files.read_json(record)
    described = content if isinstance(content, dict) and "architecture" in content else {}  # else it is another's file
    described = described.get("pretrained_cfg") or described
    try:
        preprocess = _preprocess(described, model.preprocess())
    except (TypeError, ValueError, LookupError, ConfigError) as error:
        raise CheckpointError(f"{record}: its preprocessing cannot be read ({error})") from error
    return Weights(page=page, file=file, license=described.get("license") or model.license, preprocess=preprocess)


def folder_model(folder: Path) -> str | None:
    """The timm name of the model in a folder that was downloaded from the Hub, or None if it is no such folder."""
    if not (folder / TENSORS).is_file() or not (folder / RECORD).is_file():
        return None
    content = files.read_json(folder / RECORD)
    name = content.get("architecture") if isinstance(content, dict) else None
    if not isinstance(name, str):
        return None
    described = content.get("pretrained_cfg")
    tag = described.get("tag") if isinstance(described, dict) else None
    return f"{PREFIX}{name}.{tag}" if tag else f"{PREFIX}{name}"


_FITS: dict[str, Literal["shorter", "squash"]] = {"center": "shorter", "squash": "squash"}
"""By timm's names of how an image is cropped."""


def _preprocess(described: Mapping[str, Any], usual: Preprocess) -> Preprocess:
    size = described.get("input_size")
    return Preprocess(
        image_size=(int(size[1]), int(size[2])) if size else usual.image_size,
        crop=float(described.get("crop_pct") or usual.crop),
        interpolation=described.get("interpolation") or "bicubic",
        fit=_FITS[described.get("crop_mode") or "center"],
        mean=_triple(described.get("mean"), usual.mean),
        std=_triple(described.get("std"), usual.std),
    )


def _triple(values: Any, usual: tuple[float, float, float]) -> tuple[float, float, float]:
    if not values:
        return usual
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _snapshot(full: str) -> Path | None:
    """The newest folder of the Hub's own cache that holds both files."""
    named = os.environ.get("HF_HUB_CACHE")
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    root = (Path(named) if named else home / "hub") / f"models--timm--{full}"
    main = root / "refs" / "main"
    revision = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
    snapshots = sorted((root / "snapshots").glob("*"), key=lambda folder: folder.name != revision)
    return next((s for s in snapshots if (s / TENSORS).is_file() and (s / RECORD).is_file()), None)
