"""The schedule: every phase of a configuration with the parts that it names, built once, before the first step."""

from __future__ import annotations

from dataclasses import dataclass

from proard.attacks import Attack
from proard.common.errors import UserError, located
from proard.config import Component, Config, PhaseConfig, TeacherConfig
from proard.objectives import Crafting, Objective, check_attack, craftings, objectives
from proard.runs.components import attack, threat_model
from proard.samplers import Sampler, samplers
from proard.supernet import SearchSpace

DEFAULT_JOINT_OBJECTIVE = Component(name="trades")


@dataclass(frozen=True)
class Phase:
    """One stage of a training.

    Attributes:
        index: its place in the schedule, from 0.
        settings: its section of the configuration.
        space: the part of the supernet's space that it unlocks.
        attack: the inner maximisation of its objectives.
        objective: the loss of a student.
        joint: the loss of a teacher that trains with the students; None for any other teacher.
        crafting: how the students of a step share adversarial images.
        seed: of its sampler.
    """

    index: int
    settings: PhaseConfig
    space: SearchSpace
    attack: Attack
    objective: Objective
    joint: Objective | None
    crafting: Crafting
    seed: int

    @property
    def kinds(self) -> set[str]:
        """The kinds of decisions that vary."""
        return {decision.kind for decision in self.space.decisions if len(decision.choices) > 1}

    def sampler(self, steps_per_epoch: int = 1) -> Sampler:
        """A new sampler, at the phase's first step.

        Args:
            steps_per_epoch: optimizer steps.
        """
        return samplers.build(
            self.settings.sampler.name,
            self.settings.sampler.options,
            where=f"phases.{self.index}.sampler",
            space=self.space,
            seed=self.seed,
            steps_per_epoch=steps_per_epoch,
            steps=steps_per_epoch * self.settings.epochs,
        )


def build_phases(config: Config, space: SearchSpace) -> list[Phase]:
    """All phases, so that a mistake in the last one shows before the first one runs.

    Args:
        config: of the run.
        space: of its supernet.

    Raises:
        UserError: the first mistake: an unknown name or option, parts that do not go together, no teacher to distil
            from, or an attack of the later measurements that cannot be built.
    """
    phases = []
    for index, settings in enumerate(config.phases):
        inner = training_attack(config, index)
        phase = Phase(
            index,
            settings,
            _unlocked(config, index, space),
            inner,
            _objective(settings.objective, f"phases.{index}.objective", inner),
            _joint_objective(config, inner) if config.teacher.mode == "joint" else None,
            _crafting(settings.crafting, f"phases.{index}.crafting", inner),
            config.seed * 1000 + index,
        )
        phase.sampler()
        if index == 0 and phase.objective.needs_teacher:
            _require_teacher(config)
        if settings.warmup_epochs >= settings.epochs:
            raise UserError(
                f"phases.{index}: warmup_epochs {settings.warmup_epochs:g} must be less than epochs {settings.epochs}"
            )
        phases.append(phase)
    for name in ("validation", "search", "evaluation"):
        attack(getattr(config, name).attack, threat_model(config), f"{name}.attack")
    return phases


def training_attack(config: Config, index: int) -> Attack:
    """The inner maximisation of a phase's objectives: its own attack, or the run's.

    Raises:
        UserError: an unknown name or option, or an attack that cannot raise an objective's loss.
    """
    own = config.phases[index].attack
    settings, where = (config.attack, "attack") if own is None else (own, f"phases.{index}.attack")
    built = attack(settings, threat_model(config), where)
    if not built.trains:
        raise UserError(
            f"{where}: '{settings.name}' is for evaluation, it cannot raise an objective's loss; "
            "use pgd, or another of its kind such as nfgsm"
        )
    return built


def _objective(component: Component, where: str, inner: Attack) -> Objective:
    return objectives.build(component.name, component.options, where=where, attack=inner)


def _joint_objective(config: Config, inner: Attack) -> Objective:
    """The loss of a jointly trained teacher, which needs no teacher itself."""
    component = config.teacher.objective or DEFAULT_JOINT_OBJECTIVE
    objective = _objective(component, "teacher.objective", inner)
    if objective.needs_teacher:
        raise UserError(f"teacher.objective: '{component.name}' needs a teacher itself; use trades or sat")
    return objective


def _unlocked(config: Config, index: int, space: SearchSpace) -> SearchSpace:
    """The part of the space in which only a phase's kinds of decisions vary."""
    kinds = config.phases[index].elastic
    with located(f"phases.{index}.elastic"):
        return space.unlocked(space.kinds if "all" in kinds else kinds)


def _crafting(component: Component, where: str, inner: Attack) -> Crafting:
    crafting = craftings.build(component.name, component.options, where=where)
    try:
        check_attack(crafting, inner)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    return crafting


def _require_teacher(config: Config) -> None:
    """Refuse a first phase that distils where there is nothing to distil from."""
    if config.teacher != TeacherConfig() or config.supernet.weights is not None:
        return
    name = config.phases[0].name
    if config.mode == "student":
        raise UserError(
            f"phases.0: '{name}' distils from a teacher, and there is none; give one with teacher: (a "
            "student directory, a file, timm:NAME, robustbench:NAME), or use an objective without: trades"
        )
    raise UserError(
        f"phases.0: '{name}' distils from a frozen teacher, but no phase before it trains one; "
        "begin with a phase of objective trades or with another run's weights (supernet.weights), "
        "set teacher.mode=joint, or give a teacher from elsewhere"
    )
