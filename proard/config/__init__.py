"""The configuration of a run: its schema (`schema.py`), and how it is read, overridden and checked (`reading.py`)."""

from proard.config.networks import StudentConfig, TeacherConfig
from proard.config.reading import find_config, load_config, packaged_configs, parse_config, schema_file
from proard.config.schema import (
    DEVICE_NAMES,
    AttackConfig,
    AugmentationConfig,
    Component,
    Config,
    DataConfig,
    EnergyConfig,
    PhaseConfig,
    SupernetConfig,
    ThreatConfig,
)

__all__ = [
    "DEVICE_NAMES",
    "AttackConfig",
    "AugmentationConfig",
    "Component",
    "Config",
    "DataConfig",
    "EnergyConfig",
    "PhaseConfig",
    "StudentConfig",
    "SupernetConfig",
    "TeacherConfig",
    "ThreatConfig",
    "find_config",
    "load_config",
    "packaged_configs",
    "parse_config",
    "schema_file",
]
