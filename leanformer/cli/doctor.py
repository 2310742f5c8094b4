"""`leanformer doctor`."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
from dataclasses import dataclass

from leanformer.cli.common import print_json

EXTRAS = {
    "default": ("torch", "torchvision", "timm", "safetensors", "numpy", "pillow", "tyro", "rich", "matplotlib"),
    "export": ("onnx", "onnxscript", "onnxruntime", "openvino"),
    "quantize": ("nncf",),
    "executorch": ("executorch",),
    "coreml": ("coremltools",),
    "dense": ("segmentation-models-pytorch", "faster-coco-eval"),
    "language": ("transformers", "tokenizers", "lm-eval"),
    "data": ("datasets", "webdataset"),
    "track": ("tensorboard", "wandb", "mlflow"),
}
MODULES = {"pillow": "PIL", "segmentation-models-pytorch": "segmentation_models_pytorch", "lm-eval": "lm_eval",
           "faster-coco-eval": "faster_coco_eval"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Show versions, threads, accelerators, and which optional parts work here."""

    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        """Print what was found; 1 if a default dependency is missing or broken."""
        import torch

        from leanformer import __version__
        from leanformer.bench.method import cpu_name

        machine = {
            "leanformer": __version__,
            "python": platform.python_version(),
            "system": platform.platform(),
            "cpu": cpu_name(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "torch threads": torch.get_num_threads(),
            "accelerators": _accelerators(),
        }
        extras = {extra: {name: _state(name) for name in names} for extra, names in EXTRAS.items()}
        if self.json:
            print_json({**machine, "extras": extras})
        else:
            for name, value in machine.items():
                print(f"{name}: {', '.join(value) or 'none' if isinstance(value, list) else value}")
            for extra, states in extras.items():
                line = ", ".join(f"{name} {state}" for name, state in states.items())
                print(f"{extra}: {line}")
                if extra != "default" and "not installed" in states.values():
                    print(f"  for all of it: pip install 'leanformer[{extra}]'")
        return int(any(state == "not installed" or state.startswith("broken") for state in extras["default"].values()))


def _accelerators() -> list[str]:
    import torch

    found = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return found + (["Apple GPU (mps)"] if torch.backends.mps.is_available() else [])


def _state(name: str) -> str:
    """The version of a package that imports, or why it does not."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
    try:
        importlib.import_module(MODULES.get(name, name))
    except (ImportError, OSError, RuntimeError) as error:
        return f"broken ({str(error).splitlines()[0]})"
    return version
