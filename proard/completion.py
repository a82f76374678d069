"""What a shell proposes for the values of options: names that are known without importing torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

# Names of registries that need torch to be read; a test compares both.
ATTACKS = (
    "fgsm",
    "fgm",
    "pgd20",
    "pgd50x5",
    "pgd100",
    "cw",
    "mifgsm",
    "nfgsm",
    "deepfool",
    "apgd-ce",
    "apgd-dlr",
    "apgd-t",
    "square",
    "autoattack",
    "autoattack-plus",
    "autoattack-rand",
)
FORMATS = ("safetensors", "pt2", "onnx", "onnx-int8", "pt2-int8", "executorch")
PREFERENCES = ("robust", "clean", "balanced")
DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("float32", "bfloat16", "float16")
RUNTIMES = ("eager", "export", "onnxruntime")
FAMILIES = ("mobilenetv2", "mobilenetv3", "proxyless", "resnet", "resnet50", "timm", "vit")


def among(names: Iterable[str]) -> Callable[[str], list[str]]:
    """A completion with those of the names that begin as the word does."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


def packaged(incomplete: str) -> list[str]:
    """Packaged configurations."""
    from proard.config import packaged_configs

    return [name for name in packaged_configs() if name.startswith(incomplete)]


def configs(incomplete: str) -> list[str]:
    """Packaged configurations, and YAML files."""
    folder = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    files = [path for path in _entries(folder) if path.suffix in (".yaml", ".yml")]
    return [*packaged(incomplete), *(name for name in map(str, files) if name.startswith(incomplete))]


def overrides(incomplete: str) -> list[str]:
    """Keys of a configuration, one level at a time, and the families behind ``supernet.family=``."""
    from pydantic import BaseModel

    from proard.config import Config

    key = "supernet.family="
    if incomplete.startswith(key):
        return [key + name for name in FAMILIES if name.startswith(incomplete[len(key) :])]
    *parents, _ = incomplete.split(".")
    section: type[BaseModel] = Config
    for name in parents:
        kind = section.model_fields[name].annotation if name in section.model_fields else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return []
        section = kind
    found = []
    for name, field in section.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        found.append(".".join([*parents, name]) + ("." if nested else "="))
    return [name for name in found if name.startswith(incomplete)]


def runs(incomplete: str) -> list[str]:
    """Run directories in ``runs/``."""
    found = [path.parent for path in sorted(Path("runs").glob("*/config.yaml"))]
    return [name for name in map(str, found) if name.startswith(incomplete)]


def students(incomplete: str) -> list[str]:
    """Student directories of the runs in ``runs/``, and those runs."""
    found = [path.parent for path in sorted(Path("runs").glob("*/students/*/student.json"))]
    return [*(name for name in map(str, found) if name.startswith(incomplete)), *runs(incomplete)]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
