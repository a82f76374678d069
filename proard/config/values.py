"""What the sections of a configuration are made of: numbers, and the two kinds of section."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

# What YAML 1.1 and people read differently: numbers are refused where they are read, texts are quoted where written
AMBIGUOUS = re.compile(r"[-+]?(0[\d_]+(\.[\d_]*)?([eE][-+]?\d+)?|\d[\d_]*(:[0-5]?\d)+(\.\d*)?)")


def parse_number(value: Any) -> Any:
    """Read ``8/255``, ``1e-3`` or a plain number; anything else is returned for pydantic to refuse."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([-+.\deE]+)\s*/\s*([-+.\deE]+)\s*", value)
        try:
            return float(match[1]) / float(match[2]) if match else float(value)
        except (ValueError, ZeroDivisionError):
            return value
    return value


def parse_numbers(value: Any) -> Any:
    """`parse_number`, also inside a nested section."""
    return (
        {key: parse_numbers(entry) for key, entry in value.items()} if isinstance(value, dict) else parse_number(value)
    )


Number = Annotated[float, BeforeValidator(parse_number), Field(allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
NonNegative = Annotated[Number, Field(ge=0)]
Fraction = Annotated[Number, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A section of the configuration: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class OpenSection(BaseModel):
    """A section whose further keys are options of what it names."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @property
    def options(self) -> dict[str, Any]:
        """The keys that are no fields of this section; fractions such as ``8/255`` are read as numbers."""
        return {key: parse_numbers(value) for key, value in (self.model_extra or {}).items()}


class Component(OpenSection):
    """Something chosen by name; every further key is an option of the class of that name."""

    name: str = Field(description="Its name; the options of the class of that name are further keys.")
