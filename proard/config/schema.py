"""The schema of a run's configuration: every key of a YAML file is a field of the pydantic models below.

``{name: ..., option: ...}`` sections (objectives, samplers, families) take the options of the Python class they name,
and are checked against it by ``proard.common.registry``.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from proard.common.errors import UserError
from proard.config.networks import StudentConfig, TeacherConfig
from proard.config.values import (
    AMBIGUOUS,
    Component,
    Count,
    Fraction,
    NonNegative,
    Number,
    OpenSection,
    Positive,
    Section,
    parse_number,
)

DEVICE_NAMES = r"^(auto|cpu|cuda(:\d+)?)$"


class AugmentationConfig(Section):
    """Random changes of the training images, drawn per image, in batches on the device."""

    crop_padding: int = Field(0, ge=0, description="Pixels of zero padding before a random crop to the original size.")
    crop_shift: int = Field(
        0,
        ge=0,
        description="Most rows and columns together that are cut off, before the rest is put down anywhere on black "
        "(CropShift, arXiv 2301.09879, where it is 10 for 32 x 32 pixels); less than a side. 0 is off.",
    )
    color_shape: bool = Field(
        False, description="One of eight changes of colour or shape for each image (IDBH, arXiv 2301.09879)."
    )
    erase: Annotated[Number, Field(ge=0, le=1)] = Field(
        0, description="Share of images in which a rectangle is set to black (arXiv 1708.04896, as IDBH has it)."
    )
    flip: bool = Field(False, description="Mirror half of the images left to right.")
    cutout: int = Field(0, ge=0, description="Side in pixels of a square set to mid-grey; 0 is off.")


class ExtraConfig(Section):
    """Further training images, such as generated ones, in every batch; they never validate."""

    file: Path = Field(description="An .npz file, or a folder of .npy files, with `image` and `label`.")
    fraction: Annotated[Number, Field(gt=0, lt=1)] = Field(description="Of every batch, that is theirs.")


class DataConfig(OpenSection):
    """Which images, and how they are split; every further key is an option of the set of that name."""

    name: str = Field(description="The set; digits and digit_pairs are embedded, image_folder is a folder of your own.")
    root: Path | None = Field(None, description="Where the files are; default $PROARD_DATA, else ~/.cache/proard/data.")
    download: bool = Field(False, description="Fetch missing files over the network (never for image_folder).")
    image_size: Count | None = Field(
        None, description="Side to which images are resized: of image_folder, and of huggingface if it is set."
    )
    validation: Annotated[Number, Field(gt=0, lt=1)] = Field(
        0.1, description="Fraction of the training images held out for selection; the test split is never used for it."
    )
    limit: Count | None = Field(None, description="Use a stratified subset of this many training images.")
    split_seed: int = Field(0, ge=0, description="Seed of the validation split and of the subset.")
    memory_limit: Positive = Field(4e9, description="Bytes up to which decoded images are held in memory.")
    workers: int = Field(2, ge=0, description="Processes that decode images of a set too large for memory.")
    skip_broken: bool = Field(False, description="Leave out images that cannot be read, and say which.")
    augmentation: AugmentationConfig = Field(AugmentationConfig(), description="Of training images alone.")
    extra: ExtraConfig | None = Field(None, description="Generated or additional images to train on.")

    @model_validator(mode="before")
    @classmethod
    def _no_key_is_misspelt(cls, values: Any) -> Any:
        """Else it would be taken for an option of the set, which is not known here."""
        for key in values if isinstance(values, dict) else ():
            if key not in cls.model_fields and get_close_matches(str(key), cls.model_fields, n=1, cutoff=0.75):
                problem: Any = {"type": "extra_forbidden", "loc": (key,), "input": values[key]}
                raise ValidationError.from_exception_data(cls.__name__, [problem])
        return values

    @model_validator(mode="after")
    def _folder_needs_a_place_and_a_size(self) -> DataConfig:
        if self.name == "image_folder" and self.root is None:
            raise ValueError("image_folder needs data.root, a folder with train/ and test/ (or val/) inside")
        if self.name == "image_folder" and self.image_size is None:
            raise ValueError("image_folder needs data.image_size, the side in pixels that images are resized to")
        return self


class SupernetConfig(OpenSection):
    """The elastic network: a family, and that family's options."""

    family: str = Field("resnet", description="Its name; the options of that family are further keys of this section.")
    weights: Path | None = Field(None, description="A run directory, whose supernet's best weights are begun with.")


class ThreatConfig(Section):
    """What the adversary may do: move a pixel value in [0, 1] by up to ``eps`` in the given norm."""

    norm: Literal["linf", "l2", "l1"] = Field(
        "linf", description="How a perturbation is measured: its largest change, its length, or the sum of all changes."
    )
    eps: Positive = Field(description="The radius, for pixel values in [0, 1]; at most 1 for linf.")

    @model_validator(mode="after")
    def _eps_within_the_images(self) -> ThreatConfig:
        if self.norm == "linf" and self.eps > 1:
            raise ValueError(
                f"eps is {self.eps:g}, but images are in [0, 1]; for pixel values of 0-255 write {self.eps:g}/255"
            )
        return self


class PGDOptions(Section):
    """The options of ``pgd``, with the defaults of its class, but for the steps: those are each section's own."""

    steps: Count = Field(description="Gradient steps; by default 10, and 20 of evaluation.")
    step_size: Positive | None = Field(None, description="Default: 2.5 x eps / steps.")
    start: Literal["uniform", "gaussian", "clean"] = Field(
        "uniform", description="uniform in the ball, gaussian (deviation 0.001), or clean: at the image itself."
    )
    restarts: Count = Field(1, description="Runs from different starts; the worst of them counts for each image.")


class AttackConfig(Component):
    """An attack by name; every further key is an option of the attack of that name."""

    name: str = Field("pgd", description="Its name; what is not pgd takes the options of the attack of that name.")
    option_names: ClassVar[tuple[str, ...]] = tuple(PGDOptions.model_fields)

    @model_validator(mode="before")
    @classmethod
    def _options_of_pgd(cls, values: Any) -> Any:
        """Those of the usual attack are checked, and completed, here, where the file and line are known."""
        if not isinstance(values, dict) or values.get("name", "pgd") != "pgd":
            return values
        options = PGDOptions.model_validate({key: value for key, value in values.items() if key != "name"})
        return {"name": "pgd", **options.model_dump()}


def _steps_by_default(steps: int) -> BeforeValidator:
    """Of a section's attack, where it is ``pgd`` and does not say how many."""

    def complete(values: Any) -> Any:
        usual = isinstance(values, dict) and values.get("name", "pgd") == "pgd"
        return {"steps": steps, **values} if usual else values

    return BeforeValidator(complete)


TenSteps = Annotated[AttackConfig, _steps_by_default(10)]
TwentySteps = Annotated[AttackConfig, _steps_by_default(20)]


class PhaseConfig(Section):
    """One stage of the progressive schedule. Learning rate: linear warm-up, then cosine to zero, over the phase."""

    name: str = Field(description="Yours; it names the phase in metrics and messages. Names differ.")
    epochs: Count = Field(description="Passes over the training images.")
    learning_rate: Positive = Field(description="The highest of the phase, after warm-up; for batch_size as it is.")
    elastic: tuple[str, ...] = Field(
        (), description="Kinds of decisions that vary, or [all]; all others stay at their largest."
    )
    objective: Component = Field(Component(name="rslad"), description="The loss of a student.")
    sampler: Component = Field(Component(name="robustness"), description="Which students train in a step.")
    crafting: Component = Field(
        Component(name="own"), description="Whether the students of a step share adversarial images."
    )
    attack: TenSteps | None = Field(
        None, description="Of this phase: cheaper in an early one, say. Default: the run's."
    )
    weight_perturbation: NonNegative = Field(
        0.0,
        description="Take gradients at weights that are moved to raise the loss, each layer by this part of its length "
        "(AWP, arXiv 2004.05884, where it is 0.005 to 0.01); a pass of the loss more. 0 is off.",
    )
    warmup_epochs: NonNegative = Field(0.0, description="Of rising learning rate; less than epochs.")
    refresh_teacher: bool = Field(
        False, description="Freeze the largest student anew, as it is when this phase begins, as the teacher."
    )


DISTILLATION = Component(name="rslad", adversarial_weight=1.0, label_weight=0.5)  # what pays: docs/results/samplers.md
DEFAULT_PHASES = (
    PhaseConfig(name="teacher", epochs=30, learning_rate=0.1, objective=Component(name="trades")),
    PhaseConfig(
        name="students",
        epochs=150,
        learning_rate=0.1,
        elastic=("all",),
        objective=DISTILLATION,
        attack=AttackConfig(name="nfgsm"),
    ),
)


class OptimizerConfig(Section):
    """The optimizer, remade at the start of each phase."""

    name: Literal["sgd", "adamw"] = Field("sgd", description="adamw is for transformers.")
    momentum: Fraction = Field(0.9, description="Nesterov momentum of sgd; first-moment decay of adamw.")
    weight_decay: NonNegative = Field(
        5e-4, description="Applied to weight matrices and kernels, not to batch norm or biases."
    )
    gradient_clip: Positive | None = Field(None, description="Largest l2 norm of a step's summed gradient.")


class ValidationConfig(Section):
    """What is measured at the end of an epoch, on validation images: it chooses the best weights of each phase."""

    every: Count = Field(1, description="Epochs between validations; the last epoch of a phase is always validated.")
    students: int = Field(2, ge=0, description="Random students measured beside the largest and the smallest.")
    images: Count = Field(500, description="Validation images on which each student is measured.")
    calibration_images: Count = Field(1000, description="Training images from which batch-norm statistics are made.")
    attack: TenSteps = Field(AttackConfig(steps=10), description="Of these measurements.")


class SearchConfig(Section):
    """How students are chosen, on validation images: by `search`, or by `extract` where there was no search."""

    images: Count = Field(500, description="Validation images per label: per student that is measured.")
    attack: TenSteps = Field(AttackConfig(steps=10), description="Of these measurements.")
    labels: Annotated[Count, Field(ge=8)] = Field(100, description="Students that `search` measures for its predictor.")
    population: Annotated[Count, Field(ge=2)] = Field(100, description="Architectures in a generation of NSGA-II.")
    generations: Count = Field(100, description="Of NSGA-II.")
    verify: int = Field(24, ge=0, description="Students of the predicted front that are then measured.")
    candidates: Count = Field(8, description="Without a search: random architectures measured per budget.")
    mutations: int = Field(8, ge=0, description="Without a search: mutations of the best so far, measured per budget.")


class EvaluationConfig(Section):
    """The final measurement, on test images."""

    attack: TwentySteps = Field(AttackConfig(steps=20), description="What robust accuracy is measured under.")
    limit: Count | None = Field(None, description="Use a stratified subset of this many test images; default all.")
    format_images: Count = Field(256, description="Test images on which every written file is run, clean and attacked.")
    square_queries: Annotated[Count, Field(ge=2)] = Field(200, description="Of Square Attack on int8 files.")


class EnergyConfig(Section):
    """Energy accounting through codecarbon's offline tracker."""

    enabled: bool = Field(True, description="Measure or estimate energy while training; written to energy.json.")
    country: str | None = Field(
        None,
        pattern="^[A-Z]{3}$",
        description="ISO code (FRA, USA ...) for kg CO2eq; default: the world average, stated.",
    )


class _Dumper(yaml.SafeDumper):
    """Quotes texts that look like numbers, such as the name of a phase '08', which `load_config` would refuse."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="'" if AMBIGUOUS.fullmatch(text) else None
    ),
)


def _weights(value: Any) -> Any:
    """One sentence for what is neither `balanced` nor numbers, in the place of one for each kind of value."""
    numbers = [parse_number(entry) for entry in value] if isinstance(value, list | tuple) else []
    usable = all(isinstance(number, int | float) and 0 <= number < float("inf") for number in numbers) and any(numbers)
    if value is None or value == "balanced" or usable:
        return value
    raise ValueError("should be balanced, or numbers of at least 0, one per class and not all 0")


def _named(value: Any) -> Any:
    """``tensorboard`` alone stands for ``{name: tensorboard}``."""
    return {"name": value} if isinstance(value, str) else value


class Config(Section):
    """The whole configuration of a run."""

    seed: int = Field(0, ge=0, description="Of weights, order of images, students and attacks.")
    imports: tuple[str, ...] = Field(
        (), description="Python modules to import first, which register what is yours: a family, a data set ..."
    )
    mode: Literal["supernet", "student"] = Field("supernet", description="What is trained: see `student`.")
    data: DataConfig = Field(description="Which images.")
    supernet: SupernetConfig = Field(SupernetConfig(), description="Which elastic network.")
    threat: ThreatConfig = Field(ThreatConfig(eps=8 / 255), description="What the adversary may do.")
    attack: TenSteps = Field(AttackConfig(steps=10), description="The attack inside training.")
    student: StudentConfig = Field(StudentConfig(), description="The network of `mode: student`.")
    teacher: TeacherConfig = Field(TeacherConfig(), description="Whose outputs students learn.")
    phases: tuple[PhaseConfig, ...] = Field(
        DEFAULT_PHASES, min_length=1, description="One after the other; default a teacher, then all students."
    )
    batch_size: Count = Field(128, description="Images per optimizer step, of all processes together.")
    batch_parts: Count = Field(
        1, description="Compute a step's images in so many parts, one after the other: 2 takes half of the memory."
    )
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="What updates the weights.")
    class_weights: Annotated[Literal["balanced"] | tuple[NonNegative, ...] | None, BeforeValidator(_weights)] = Field(
        None,
        description="Of what the objectives learn from labels: one number per class, or balanced: by which every class "
        "counts as much as any other, however many training images it has. Default: every image counts as much.",
    )
    ema_decay: Fraction | None = Field(None, description="Average the weights over steps with this decay; null is off.")
    average_from: Fraction | None = Field(
        None,
        description="Average the weights of all steps from this part of a phase on, equally (SWA, arXiv 1803.05407, on "
        "every step), in the place of ema_decay; null is off.",
    )
    sort_channels: bool = Field(True, description="Order channels by importance before narrower choices are unlocked.")
    device: str = Field("auto", pattern=DEVICE_NAMES, description="auto, cpu, cuda or cuda:N; auto is a GPU if any.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Of training; auto is bfloat16 where the device multiplies in it."
    )
    threads: Count | None = Field(None, description="CPU threads; default what PyTorch chooses.")
    checkpoint_minutes: Positive = Field(10.0, description="Also save within an epoch after this many minutes.")
    validation: ValidationConfig = Field(ValidationConfig(), description="Measurements while training.")
    search: SearchConfig = Field(SearchConfig(), description="How students are chosen.")
    evaluation: EvaluationConfig = Field(EvaluationConfig(), description="The final measurement.")
    energy: EnergyConfig = Field(EnergyConfig(), description="Accounting of energy and emissions.")
    trackers: tuple[Annotated[Component, BeforeValidator(_named)], ...] = Field(
        (), description="Where metrics.jsonl is shown too: tensorboard, wandb, mlflow, or {name: ..., option: ...}."
    )

    @model_validator(mode="after")
    def _mode_student_trains_one_network(self) -> Config:
        if self.mode == "supernet":
            if self.student != StudentConfig():
                raise ValueError("student: is for mode student; add the top-level key 'mode: student', or remove it")
            return self
        if self.supernet.weights is not None:
            raise ValueError("supernet.weights is for mode supernet; remove it, or give student.weights")
        for kind in ("directory", "timm"):
            if getattr(self.student, kind) is not None and self.supernet != SupernetConfig():
                raise ValueError(f"supernet: remove it; student.{kind} says what network it is")
        if self.student.pretrained and self.student.timm is None and self.supernet.family != "timm":
            raise ValueError(
                "student.pretrained is for a timm model; name one with student.timm, or give student.weights"
            )
        if self.teacher.mode == "joint":
            raise ValueError("teacher: mode joint is for mode supernet; there is no larger student to train jointly")
        if "phases" not in self.model_fields_set:
            objective = Component(name="trades") if self.teacher.source is None else DISTILLATION
            phase = PhaseConfig(name="student", epochs=30, learning_rate=0.1, objective=objective)
            object.__setattr__(self, "phases", (phase,))
        for index, phase in enumerate(self.phases):
            if phase.elastic:
                raise ValueError(f"phases.{index}.elastic: mode student trains one network, of which nothing varies")
        return self

    @model_validator(mode="after")
    def _weights_are_averaged_in_one_way(self) -> Config:
        if self.average_from is not None and self.ema_decay is not None:
            raise ValueError("average_from: ema_decay averages the weights already; take one of the two")
        return self

    @model_validator(mode="after")
    def _teachers_are_refreshed_from_the_run(self) -> Config:
        for index, phase in enumerate(self.phases):
            if not phase.refresh_teacher:
                continue
            if self.teacher.source is not None or self.teacher.mode == "joint":
                other = "joint" if self.teacher.source is None else f"from {self.teacher.source}"
                raise ValueError(f"phases.{index}.refresh_teacher: the teacher is {other}, so it is never frozen anew")
            if index == 0 and self.supernet.weights is None:
                raise ValueError("phases.0.refresh_teacher: nothing is trained before the first phase")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Config:
        for section, entries in (("trackers", self.trackers), ("phases", self.phases)):
            names = [entry.name for entry in entries]
            if len(set(names)) < len(names):
                raise ValueError(f"{section}: names must differ, got {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _phases_unlock_progressively(self) -> Config:
        for before, after in zip(self.phases, self.phases[1:], strict=False):
            if "all" in after.elastic:
                continue
            if missing := sorted(set(before.elastic) - set(after.elastic)):
                raise ValueError(
                    f"phases: '{after.name}' locks {', '.join(missing)} again, which '{before.name}' had unlocked; "
                    f"add it to the elastic kinds of '{after.name}'"
                )
        return self

    def scaled(self, factor: float) -> Config:
        """The same run with every phase ``factor`` times as long, at least one epoch each."""
        if not 0 < factor < float("inf"):
            raise UserError(f"--scale-epochs {factor:g}: must be a number greater than 0, for example 0.1")
        phases = [phase.model_copy(update={"epochs": max(1, round(phase.epochs * factor))}) for phase in self.phases]
        return self.model_copy(update={"phases": tuple(phases)})

    def to_yaml(self) -> str:
        """The resolved configuration; loading it gives an equal one."""
        values = self.model_dump(mode="json")
        return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
