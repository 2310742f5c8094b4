"""`leanformer convert`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from leanformer.cli.common import check_free, optional, quoted

if TYPE_CHECKING:
    from leanformer.models import ImageClassifier

OTHER_FILES = (".pt", ".bin", ".ckpt", ".tar", ".zip", ".pkl", ".h5", ".npz", ".onnx", ".json")
"""Endings of files that are not written here. Others may be a directory's, such as `deit_tiny.in1k`."""


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Turn published weights into a model directory, or a model into a file under published names."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
    """A published file, a run directory, or the name of published weights."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """A directory for a model, or a file: .safetensors, or .pth for torch."""
    model: Annotated[str | None, optional("MODEL", "none")] = None
    """The model whose weights a file holds; run directories know theirs."""
    to: Annotated[
        Literal["ours", "published", "timm"] | None, optional("{ours,published,timm}", "by what is given")
    ] = None
    """Names of the tensors in a file: ours, those of the authors, or timm's."""
    ema: bool = False
    """Take the averaged copy of the weights from a file that has one."""
    image_size: Annotated[int | None, optional("PIXELS", "the model's")] = None
    """Side of the images in pixels; learned positions are resized."""
    class_map: Annotated[Path | None, optional("PATH", "none")] = None
    """File with one integer on each line: for each class of the result the row of the classifier that is read."""

    def run(self) -> int:
        """Convert, and say what was left out."""
        from leanformer import api
        from leanformer.checkpoints import files
        from leanformer.errors import ConfigError
        from leanformer.zoo.convert import to_layout

        directory = self.out.suffix not in (".safetensors", ".pth")
        if directory and self.out.suffix.lower() in OTHER_FILES:
            raise ConfigError(f"{self.out}: files of weights end in .safetensors or .pth, directories in neither")
        to = self.to or ("ours" if directory else "published")
        if directory and to != "ours":
            raise ConfigError(f"names of {to} go into a file, and {self.out} is none; add .safetensors or .pth")
        if directory:
            check_free(self.out, "OUT")
        model = self._open()
        if directory:
            api.save(model, self.out)
            print(f"saved in {self.out}; next: leanformer predict {quoted(self.out)} IMAGE")
            return 0
        tensors = to_layout(model, to)
        if self.out.suffix == ".safetensors":
            files.write_safetensors(self.out, tensors, {"format": "pt"})
        else:
            files.write_torch(self.out, tensors)
        print(f"wrote {len(tensors)} tensors under {'our' if to == 'ours' else to} names to {self.out}")
        return 0

    def _open(self) -> ImageClassifier:
        """The model, in memory; prints what of a file does not belong to it."""
        from leanformer.cli.common import open_trainable
        from leanformer.errors import ConfigError
        from leanformer.zoo import resolve
        from leanformer.zoo.convert import dropped

        sizes = {} if self.image_size is None else {"image_size": self.image_size}
        if Path(self.source).is_dir() and resolve.kind_of(self.source) == "folder":
            if self.model is not None or sizes or self.ema or self.class_map is not None:
                raise ConfigError(
                    f"{self.source} is a finished model, which is not changed on the way; give --to alone"
                )
            return open_trainable(self.source)
        name, weights = self.model, self.source
        if name is None and Path(self.source).is_file():
            raise ConfigError(f"whose weights does {self.source} hold? add --model NAME; `leanformer list` shows names")
        if name is None and Path(self.source).is_dir():
            config, found = resolve.open_hub_folder(Path(self.source), ema=self.ema)
        else:
            name, weights = (self.source, None) if name is None else (name, weights)
            config, found = resolve.find_config(name), resolve.find_pretrained(name, weights, ema=self.ema)
        config = resolve.change(config, sizes)
        model = resolve.load_pretrained(found, config, resize=bool(sizes), class_map=self.class_map).eval()
        shapes = {key: tuple(value.shape) for key, value in found.tensors.items()}
        left = ", ".join(f"{count} x {leaf}" for leaf, count in dropped(model, shapes).items())
        print(f"read {len(shapes)} tensors; left out: {left or 'none'}")
        return model
