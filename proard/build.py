"""From the configuration to the things it names."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from proard.attacks import Attack, ThreatModel, attacks
from proard.config import AttackConfig, Component, Config, PhaseConfig, TeacherConfig
from proard.data import DataSplits, ImageSet, epoch_batches, sequential_batches
from proard.errors import UserError
from proard.fixed_network import published_options, resolve
from proard.formats import FormatChecks
from proard.objectives import Crafting, Objective, check_attack, craftings, objectives
from proard.registry import import_modules
from proard.samplers import Sampler, samplers
from proard.supernet import SearchSpace, Supernet, build_supernet

DEFAULT_JOINT_OBJECTIVE = Component(name="trades")
QUANTISATION_IMAGES = 256  # of the validation split, for the ranges of activations
BYTES_PER_EVALUATION_BATCH = 1.5e6  # keeps activations in a CPU's cache; many times as much on a GPU


def threat_model(config: Config) -> ThreatModel:
    """The adversary that training and evaluation assume."""
    return ThreatModel(norm=config.threat.norm, eps=config.threat.eps)


def attack(settings: AttackConfig, threat: ThreatModel, where: str = "attack") -> Attack:
    """The attack of a section of the configuration.

    Raises:
        UserError: an unknown name or option, an attack for another norm, or a missing package.
    """
    # Random draws come from the run's generators, and the labels of a configuration are the true ones.
    built = attacks.build(settings.name, settings.options, where=where, threat=threat, seed=0, targeted=False)
    built.require_packages()
    return built


def training_attack(config: Config, index: int | None = None) -> Attack:
    """The inner maximisation of the objectives, in a phase or where a phase has none of its own.

    Raises:
        UserError: as `attack`, or an attack that cannot raise an objective's loss.
    """
    own = None if index is None else config.phases[index].attack
    settings, where = (config.attack, "attack") if own is None else (own, f"phases.{index}.attack")
    built = attack(settings, threat_model(config), where)
    if not built.trains:
        raise UserError(
            f"{where}: '{settings.name}' is for evaluation, it cannot raise an objective's loss; "
            "use pgd, or another of its kind such as nfgsm"
        )
    return built


def supernet_for(config: Config, data: DataSplits) -> Supernet:
    """A new supernet for these images; its normalisation is that of the training images unless the config sets one.

    In `mode: student` it has the one architecture that is trained, with random weights.

    Raises:
        UserError: an unknown family or option, a value out of range, or a module of ``imports`` that cannot be
        imported.
    """
    import_modules(config.imports)
    config = resolve(config)
    architecture = None if config.mode == "supernet" else config.student.architecture
    given: dict[str, Any] = {"num_classes": data.num_classes, "input_shape": data.input_shape, "seed": config.seed}
    given["architecture"] = architecture
    if wrong := sorted(given.keys() & config.supernet.options.keys()):
        source = {"seed": "the top-level key seed", "architecture": "student.architecture"}.get(wrong[0], "the images")
        raise UserError(f"supernet.{wrong[0]}: remove it; it comes from {source}")
    published = published_options(config, data.input_shape[0])
    options = {"mean": data.mean, "std": data.std, **published, **config.supernet.options}
    try:
        supernet = build_supernet(
            config.supernet.family,
            classifiers=config.supernet.classifiers,
            batch_norms=config.supernet.batch_norms,
            **given,
            **options,
        )
        supernet.space.cost(supernet.space.largest())  # shows whether a timm network takes the images
        return supernet
    except UserError as error:
        message = str(error).removeprefix("build_supernet: ")
        places = {"architecture": "student.", "classifiers": "supernet.", "batch_norms": "supernet."}
        section = next((place for word, place in places.items() if message.startswith(word)), "supernet: ")
        raise UserError(section + message) from error


def phase_objective(config: Config, index: int) -> Objective:
    """The objective of a phase."""
    component = config.phases[index].objective
    where = f"phases.{index}.objective"
    return objectives.build(component.name, component.options, where=where, attack=training_attack(config, index))


def joint_objective(config: Config, index: int) -> Objective:
    """What a jointly trained teacher learns from in a phase.

    Raises:
        UserError: an objective that needs a teacher itself.
    """
    component = config.teacher.objective or DEFAULT_JOINT_OBJECTIVE
    where = "teacher.objective"
    objective = objectives.build(component.name, component.options, where=where, attack=training_attack(config, index))
    if objective.needs_teacher:
        raise UserError(f"teacher.objective: '{component.name}' needs a teacher itself; use trades or sat")
    return objective


def phase_kinds(config: Config, index: int, space: SearchSpace) -> tuple[str, ...]:
    """The kinds of decisions that vary in a phase."""
    kinds = config.phases[index].elastic
    return space.kinds if "all" in kinds else kinds


def phase_space(config: Config, index: int, space: SearchSpace) -> SearchSpace:
    """The part of the space that a phase unlocks.

    Raises:
        UserError: a kind of decision that the family does not have.
    """
    try:
        return space.unlocked(phase_kinds(config, index, space))
    except UserError as error:
        raise UserError(f"phases.{index}.elastic: {error}") from None


def phase_sampler(config: Config, index: int, space: SearchSpace, steps_per_epoch: int = 1) -> Sampler:
    """The sampler of a phase, over the decisions it unlocks; its generator depends on the seed and the phase."""
    phase: PhaseConfig = config.phases[index]
    return samplers.build(
        phase.sampler.name,
        phase.sampler.options,
        where=f"phases.{index}.sampler",
        space=phase_space(config, index, space),
        seed=config.seed * 1000 + index,
        steps_per_epoch=steps_per_epoch,
        steps=steps_per_epoch * phase.epochs,
    )


def phase_crafting(config: Config, index: int) -> Crafting:
    """How the students of a phase's steps share adversarial images.

    Raises:
        UserError: an unknown name or option, or an attack whose steps cannot be changed.
    """
    component, where = config.phases[index].crafting, f"phases.{index}.crafting"
    crafting = craftings.build(component.name, component.options, where=where)
    try:
        check_attack(crafting, training_attack(config, index))
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    return crafting


def check_phases(config: Config, space: SearchSpace) -> None:
    """Build every phase's parts once, so that a mistake in the last phase shows before the first one runs.

    Raises:
        UserError: the first mistake.
    """
    for index, phase in enumerate(config.phases):
        objective = phase_objective(config, index)
        phase_sampler(config, index, space)
        phase_crafting(config, index)
        begins_trained = config.teacher != TeacherConfig() or config.supernet.weights is not None
        if index == 0 and objective.needs_teacher and not begins_trained:
            if config.mode == "student":
                raise UserError(
                    f"phases.0: '{phase.name}' distils from a teacher, and there is none; give one with teacher: (a "
                    "student directory, a file, timm:NAME, robustbench:NAME), or use an objective without: trades"
                )
            raise UserError(
                f"phases.0: '{phase.name}' distils from a frozen teacher, but no phase before it trains one; "
                "begin with a phase of objective trades or with another run's weights (supernet.weights), "
                "set teacher.mode=joint, or give a teacher from elsewhere"
            )
        if phase.warmup_epochs >= phase.epochs:
            raise UserError(
                f"phases.{index}: warmup_epochs {phase.warmup_epochs:g} must be less than epochs {phase.epochs}"
            )
        if config.teacher.mode == "joint":
            joint_objective(config, index)
    for where, section in (
        ("validation", config.validation),
        ("search", config.search),
        ("evaluation", config.evaluation),
    ):
        attack(section.attack, threat_model(config), f"{where}.attack")


def evaluation_batch_size(input_shape: tuple[int, int, int], device: torch.device) -> int:
    """Images per batch where no gradient of weights is needed."""
    size = BYTES_PER_EVALUATION_BATCH * (64 if device.type == "cuda" else 1) / (4 * math.prod(input_shape))
    return max(16, min(1024, int(size)))


def evaluation_batches(
    images: ImageSet, input_shape: tuple[int, int, int], device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """All images of a set in order, on the device."""
    return images.batches(sequential_batches(len(images), evaluation_batch_size(input_shape, device)), device)


def format_checks(
    config: Config, data: DataSplits, device: torch.device, attack: Attack, static_batch: int | None = None
) -> FormatChecks:
    """What the files of a student are quantised with (validation images), and measured on (test images)."""
    evaluation = config.evaluation
    count = min(evaluation.format_images, evaluation.limit or evaluation.format_images)
    calibration = data.validation.subset(QUANTISATION_IMAGES, config.seed)
    images = [batch for batch, _ in evaluation_batches(calibration, data.input_shape, torch.device("cpu"))]
    return FormatChecks(
        torch.cat(images),
        list(evaluation_batches(data.test.subset(count, config.seed), data.input_shape, device)),
        attack,
        config.seed,
        evaluation.square_queries,
        static_batch,
    )


def calibration_batches(config: Config, data: DataSplits, device: torch.device) -> list[torch.Tensor]:
    """Batches of clean training images, from which batch-norm statistics are made; the same ones in every call."""
    images = data.train.subset(config.validation.calibration_images, config.seed)
    indices = epoch_batches(len(images), config.batch_size, (config.seed,))
    return [batch for batch, _ in images.batches(indices, device)]
