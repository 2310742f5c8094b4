"""torch's own packages: a traced program (.pt2), and one that is compiled for processors like this one (.aoti.pt2)."""

from __future__ import annotations

import json
import platform
import zipfile
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from leanformer.errors import ExportError
from leanformer.export import trust
from leanformer.export.format import ExportedClassifier, Format, Graph, check_file
from leanformer.export.metadata import PREFIX, Metadata, from_properties, to_properties
from leanformer.export.program import count_program_norms, kind_of_node, root_cause, trace

EXTRA = "leanformer.json"
"""What describes a traced program, among the extra files of its package."""
SHAPE = f"{PREFIX}shape"
"""Of the images, JSON: null for a batch size that is open."""
ISA = "AOTI_CPU_ISA"
"""Instructions that a compiled package uses, by the names that torch gives them."""

Call = Callable[[Tensor], Tensor]


class _Package(Format):
    """What both kinds of package have in common. Opening one runs code: see `trust`."""

    def write(self, model: nn.Module, images: Tensor, path: Path, metadata: Metadata, dynamic_batch: bool) -> Graph:
        """Write the package, and remember that it was made here."""
        program = trace(model, images, dynamic_batch=dynamic_batch)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # paths of this machine
        shape = [None if dynamic_batch else 1, *images.shape[1:]]
        title = self.save(program, path, to_properties(metadata) | {SHAPE: json.dumps(shape)})
        trust.remember(path)
        kinds = Counter(kind_of_node(node) for node in program.graph.nodes)
        nodes = {kind: count for kind, count in kinds.items() if kind}
        return Graph(title=title, nodes=nodes, num_norms=count_program_norms(program))

    def open(self, path: Path, threads: int) -> PackageClassifier:
        """Open a package that was made here, or that LEANFORMER_TRUST allows."""
        check_file(path)
        properties = self.read(path)
        metadata = from_properties(properties, path.name)
        trust.check_trusted(path)
        shape = json.loads(properties[SHAPE])
        return PackageClassifier(self.load(path, properties), metadata, path, shape, threads)

    @abstractmethod
    def save(self, program: ExportedProgram, path: Path, properties: dict[str, str]) -> str:
        """Write a program with its description, and say what it became."""

    @abstractmethod
    def read(self, path: Path) -> dict[str, str]:
        """The description, read without running anything."""

    @abstractmethod
    def load(self, path: Path, properties: dict[str, str]) -> Call:
        """What computes logits."""


class PackageClassifier(ExportedClassifier):
    """Runs a package in torch, on the CPU."""

    def __init__(self, call: Call, metadata: Metadata, path: Path, shape: Any, threads: int) -> None:
        super().__init__(path, metadata, tuple(shape), threads)
        self._call = call

    def compute(self, images: Tensor) -> Tensor:
        """Logits of a batch that the package takes."""
        return self._call(images).clone()


@dataclass(frozen=True, kw_only=True)
class TorchProgram(_Package):
    """A program that torch.export traced, for other tools of torch."""

    name: ClassVar[str] = "torch"
    suffix: ClassVar[str] = ".pt2"

    def save(self, program: ExportedProgram, path: Path, properties: dict[str, str]) -> str:
        """Write it with its weights."""
        torch.export.save(program, path, extra_files={EXTRA: json.dumps(properties)})
        return "torch.export program"

    def read(self, path: Path) -> dict[str, str]:
        """From the extra files."""
        return json.loads(_member(path, f"extra/{EXTRA}") or "{}")

    def load(self, path: Path, properties: dict[str, str]) -> Call:
        """As a module."""
        try:
            program = torch.export.load(path).module()
        except (RuntimeError, ValueError, KeyError, AssertionError) as error:
            raise ExportError(f"{path}: torch cannot open it: {root_cause(error)}") from error
        return lambda images: program(images)  # not a part of the classifier: it has no evaluation mode


@dataclass(frozen=True, kw_only=True)
class Inductor(_Package):
    """A library of machine code that AOTInductor made: no Python is needed to run it, and the processor has to know
    the instructions of the one that it was made on."""

    name: ClassVar[str] = "inductor"
    suffix: ClassVar[str] = ".aoti.pt2"

    def save(self, program: ExportedProgram, path: Path, properties: dict[str, str]) -> str:
        """Compile it, which takes a C++ compiler and about a minute."""
        settings = {"aot_inductor.metadata": properties, "cpp.dynamic_threads": True}
        try:
            torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)
        except RuntimeError as error:
            raise ExportError(f"the model cannot be compiled: {root_cause(error)}") from error
        return f"AOTInductor package for {platform.machine()}, {self.read(path)[ISA]}"

    def read(self, path: Path) -> dict[str, str]:
        """From what the compiler noted."""
        return json.loads(_member(path, "wrapper_metadata.json") or "{}")

    def load(self, path: Path, properties: dict[str, str]) -> Call:
        """The library, if this processor knows its instructions."""
        from torch._inductor.cpu_vec_isa import pick_vec_isa

        known = str(pick_vec_isa()).upper()
        missing = set(properties[ISA].upper().split()) - set(known.split())
        if properties["AOTI_MACHINE"] != platform.machine() or missing:
            raise ExportError(
                f"{path} was compiled for {properties['AOTI_MACHINE']} with {properties[ISA]}; this processor is "
                f"{platform.machine()} with {known}: export it here"
            )
        try:
            return torch._inductor.aoti_load_package(str(path))
        except RuntimeError as error:
            raise ExportError(f"{path}: torch cannot open it: {root_cause(error)}") from error


def _member(path: Path, end: str) -> str | None:
    """The text of the member of a package whose name ends so; None if there is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = [name for name in archive.namelist() if name.endswith(end)]
            return archive.read(found[0]).decode() if found else None
    except (zipfile.BadZipFile, OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{path}: torch cannot open it: {error}") from error
