"""The sections that name a network from elsewhere: the teacher, and the one student of `mode: student`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from proard.common.errors import nearest
from proard.config.values import Component, Count, Number, Positive, Section

TeacherKind = Literal["own", "directory", "program", "weights", "timm", "robustbench"]
SUFFIXES: dict[str, TeacherKind] = {".pt2": "program", ".pt": "weights", ".pth": "weights", ".safetensors": "weights"}
NOUNS: dict[TeacherKind, str] = {
    "own": "the largest student as the teacher",
    "directory": "a student directory",
    "program": "a torch.export program",
    "weights": "a file of weights",
    "timm": "a model of timm",
    "robustbench": "a model of RobustBench",
}
OPTIONS: dict[TeacherKind, tuple[str, ...]] = {  # what may be said about each kind, beside its source
    "own": (),
    "directory": ("image_size",),
    "program": ("trusted", "trust", "mean", "std", "image_size", "sha256"),
    "weights": ("trust", "architecture", "architecture_options", "mean", "std", "image_size", "sha256"),
    "timm": ("trust", "pretrained", "file", "architecture_options", "mean", "std", "image_size", "sha256"),
    "robustbench": ("trust", "pretrained", "file", "image_size", "sha256"),
}


class TeacherConfig(Section):
    """Where distillation targets come from.

    Without a source, the largest student: frozen after its own phase, or trained jointly. Plain text stands for the
    mode, if it is one, and else for the source.
    """

    mode: Literal["frozen", "joint"] = Field(
        "frozen", description="frozen when the first phase that distils begins, or trained jointly."
    )
    objective: Component | None = Field(
        None, description="What the jointly trained teacher learns from; default trades."
    )
    source: str | None = Field(
        None,
        description="A student directory, zoo:SET/STUDENT, hub:OWNER/NAME, a file (.pt2, .pt, .pth, .safetensors), "
        "timm:NAME, or robustbench:NAME "
        "(robustbench:DATASET/THREAT/NAME where they are not those of the run).",
    )
    architecture: str | None = Field(None, description="The timm model that a file of weights belongs to.")
    architecture_options: dict[str, Any] = Field({}, description="Of the timm model, such as {img_size: 32}.")
    pretrained: bool = Field(
        False, description="Use published weights of timm or RobustBench; downloads them if need be."
    )
    file: Path | None = Field(
        None,
        description="Weights of timm:NAME or robustbench:NAME on this machine (or RobustBench's folder of models).",
    )
    mean: tuple[Number, ...] | None = Field(None, description="Normalisation per channel; default the timm model's.")
    std: tuple[Positive, ...] | None = Field(None, description="Likewise; positive.")
    image_size: Count | None = Field(None, description="Side to which images are resized before the teacher sees them.")
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$", description="What the file's checksum must be.")
    trust: bool = Field(
        False, description="Teach whatever its accuracy on validation images, which is measured before it does."
    )
    trusted: bool = Field(False, description="A .pt2 file is a program: say that you trust who made it.")

    @model_validator(mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        if isinstance(value, str | Path):
            return {"mode": value} if value in ("frozen", "joint") else {"source": str(value)}
        return value

    @property
    def kind(self) -> TeacherKind:
        """What the source is, told by its name alone."""
        if self.source is None:
            return "own"
        if self.source.startswith(("hub:", "zoo:")):
            return "directory"
        if self.source.startswith("timm:"):
            return "timm"
        if self.source.startswith("robustbench:"):
            return "robustbench"
        return SUFFIXES.get(Path(self.source).suffix, "directory")

    @model_validator(mode="after")
    def _options_fit_the_kind(self) -> TeacherConfig:
        if self.objective is not None and self.mode == "frozen":
            raise ValueError("teacher.objective is for mode joint; a frozen teacher is trained by the phase before it")
        if self.source is not None and self.mode == "joint":
            raise ValueError(f"mode joint trains the largest student; remove it, or the source {self.source}")
        if self.source is not None and not self.source.removeprefix(f"{self.kind}:"):
            raise ValueError(f"source: a name is missing, such as {self.kind}:NAME or a directory")
        for option in dict.fromkeys(option for options in OPTIONS.values() for option in options):
            if option not in OPTIONS[self.kind] and getattr(self, option) != type(self).model_fields[option].default:
                takes = f"; it takes {', '.join(OPTIONS[self.kind])}" if OPTIONS[self.kind] else ""
                raise ValueError(f"{option} does not go with {NOUNS[self.kind]}{takes}")
        _mean_and_std(self.mean, self.std)
        if self.kind == "weights" and self.architecture is None:
            raise ValueError(
                f"{self.source} holds weights alone; name the timm model they belong to with "
                "teacher.architecture (or give a student directory)"
            )
        if self.kind == "timm" and self.pretrained == (self.file is not None):
            raise ValueError(
                f"{self.source} needs weights: either teacher.file, or pretrained: true for published ones"
            )
        if self.kind == "program" and not self.trusted:
            raise ValueError(
                f"{self.source} is a program, which could do anything on this machine; set teacher.trusted: "
                "true if you trust who made it (a student directory or weights need no trust)"
            )
        return self


def _mean_and_std(mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> None:
    if (mean is None) != (std is None):
        raise ValueError("mean and std go together; give both or neither")


def _architecture(value: Any) -> Any:
    if isinstance(value, dict) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value.values()):
        return {str(name): choice for name, choice in value.items()}
    if value is None or value in ("smallest", "largest"):
        return value
    hint = nearest(value, ("smallest", "largest")) if isinstance(value, str) else ""
    raise ValueError(f"should be smallest, largest, or decisions and their values{hint}")


class StudentConfig(Section):
    """The one network that `mode: student` trains.

    An architecture of the family in `supernet:` (the default: the largest), the network of a student directory, or a
    model of timm.
    """

    architecture: Annotated[dict[str, Any] | str | None, BeforeValidator(_architecture)] = Field(
        None, description="smallest, largest, or {decision: value ...}; decisions left out are at their largest."
    )
    directory: Path | None = Field(
        None, description="A student directory: its network and, to begin with, its weights."
    )
    timm: str | None = Field(None, description="The name of a timm model.")
    options: dict[str, Any] = Field({}, description="Of the timm model, such as {img_size: 32, patch_size: 4}.")
    mean: tuple[Number, ...] | None = Field(
        None, description="Normalisation of the timm model; default that of its weights, else of the data."
    )
    std: tuple[Positive, ...] | None = Field(None, description="Likewise; positive.")
    pretrained: bool = Field(
        False, description="Begin with the weights that timm publishes; downloads them if need be."
    )
    weights: Path | None = Field(
        None, description="Begin with these weights: .safetensors, .pt or .pth, or a student directory."
    )

    @model_validator(mode="after")
    def _one_network(self) -> StudentConfig:
        given = [name for name in ("architecture", "directory", "timm") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other; give one of them")
        for name in ("options", "mean", "std"):
            if self.timm is None and getattr(self, name):
                raise ValueError(f"{name} is for a timm model; name one with student.timm")
        _mean_and_std(self.mean, self.std)
        if self.weights is not None and (self.pretrained or self.directory is not None):
            other = "pretrained" if self.pretrained else "directory"
            raise ValueError(f"weights and {other} exclude each other; remove one of them")
        return self
