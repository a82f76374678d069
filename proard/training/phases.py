"""What the phases of a configuration name: attack, objective, sampler, crafting, and the part of the space."""

from __future__ import annotations

from proard.attacks import Attack
from proard.common.errors import UserError
from proard.config import Component, Config, PhaseConfig, TeacherConfig
from proard.objectives import Crafting, Objective, check_attack, craftings, objectives
from proard.runs.components import attack, threat_model
from proard.samplers import Sampler, samplers
from proard.supernet import SearchSpace

DEFAULT_JOINT_OBJECTIVE = Component(name="trades")


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
