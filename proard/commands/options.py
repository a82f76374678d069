"""The options that commands take: names, help, and what the shell completes them with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proard.common.budget_kinds import KINDS

if TYPE_CHECKING:
    from proard.supernet.budgets import Budget

# Names of registries that need torch to be read; a test compares both.
ATTACKS: tuple[str, ...] = ("fgsm", "fgm", "pgd20", "pgd50x5", "pgd100", "cw", "mifgsm", "nfgsm", "deepfool")
ATTACKS += ("square", "apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t")
ATTACKS += ("autoattack", "autoattack-plus", "autoattack-rand")
FORMATS = ("safetensors", "pt2", "onnx", "onnx-int8", "pt2-int8", "executorch")
PREFERENCES = ("robust", "clean", "balanced")
DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("float32", "bfloat16", "float16")
RUNTIMES = ("eager", "export", "onnxruntime")
FAMILIES = ("mobilenetv2", "mobilenetv3", "proxyless", "resnet", "resnet50", "timm", "vit")


Completion = Callable[[str], list[str]]  # from what was typed to the words that it may become


def completion(candidates: Callable[[str], Iterable[str | Path]]) -> Completion:
    """A completion with those of the candidates that begin as the word does."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in map(str, candidates(incomplete)) if name.startswith(incomplete)]

    return complete


def among(names: Iterable[str]) -> Completion:
    """A completion with these names."""
    return completion(lambda _: names)


@completion
def packaged(_: str) -> Iterable[str]:
    """The packaged configurations."""
    from proard.config import packaged_configs

    return packaged_configs()


@completion
def configs(incomplete: str) -> list[str | Path]:
    """The packaged configurations, and YAML files."""
    folder = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    return [*packaged(incomplete), *sorted(folder.glob("*.yaml")), *sorted(folder.glob("*.yml"))]


@completion
def overrides(incomplete: str) -> list[str]:
    """Keys of a configuration, one level at a time, and the families behind ``supernet.family=``."""
    from pydantic import BaseModel

    from proard.common.registry import is_model
    from proard.config import Config

    key = "supernet.family="
    if incomplete.startswith(key):
        return [key + name for name in FAMILIES]
    *parents, _ = incomplete.split(".")
    section: type[BaseModel] = Config
    for name in parents:
        kind = section.model_fields[name].annotation if name in section.model_fields else None
        if not is_model(kind):
            return []
        section = kind
    return [
        ".".join([*parents, name]) + ("." if is_model(field.annotation) else "=")
        for name, field in section.model_fields.items()
    ]


@completion
def runs(_: str) -> list[Path]:
    """The run directories in ``runs/``."""
    return [file.parent for file in sorted(Path("runs").glob("*/config.yaml"))]


@completion
def students(incomplete: str) -> list[str | Path]:
    """The student directories of the runs in ``runs/``, and those runs."""
    found = [file.parent for file in sorted(Path("runs").glob("*/students/*/student.json"))]
    return [*found, *runs(incomplete)]


# Of more than one command

PLACES = ("--run", "--out", "--config", "--data-root", "--latency-table")  # options that an empty value is a mistake of
RunOption = Annotated[
    Path | None,
    typer.Option("--run", metavar="DIR", help="Run directory; default the newest in runs/.", autocompletion=runs),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Plain lines instead of a progress bar.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
ScaleEpochs = Annotated[float | None, typer.Option(metavar="FACTOR", help="Make every phase this much as long.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.", autocompletion=among(DEVICES))]

# Budgets

Budgets = list["Budget"]  # in quotes: its module needs torch


def takes_budgets(*kinds: str, repeatable: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command with an option for each of these kinds of budget; it gets them, read, as its argument ``budgets``.

    Typer makes options from a function's signature: there they stand in the place of that argument.
    """
    options = [
        Parameter(
            name.replace("-", "_"),
            Parameter.KEYWORD_ONLY,
            default=[] if repeatable else None,
            annotation=Annotated[
                list[str] if repeatable else str | None,
                typer.Option(
                    f"--{name}",
                    metavar=KINDS[name].metavar,
                    help=f"{KINDS[name].help}, such as {KINDS[name].example}{'; repeatable' * repeatable}.",
                ),
            ],
        )
        for name in kinds
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def with_options(**values: Any) -> None:
            from proard.supernet.budgets import parse_budgets

            given = {name: values.pop(option.name) for name, option in zip(kinds, options, strict=True)}
            texts = {name: [text] if isinstance(text, str) else text or [] for name, text in given.items()}
            command(budgets=parse_budgets(texts), **values)

        own = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in signature(command, eval_str=True).parameters.values()]
        place = [parameter.name for parameter in own].index("budgets")
        own[place : place + 1] = options
        with_options.__signature__ = Signature(own)  # type: ignore[attr-defined]
        with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in own}
        return with_options

    return decorate


# train

ConfigName = Annotated[
    str | None, typer.Option(metavar="NAME|PATH", help="A file, or a packaged configuration.", autocompletion=configs)
]
Set = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key; repeatable.", autocompletion=overrides)
]
NewRun = Annotated[Path | None, typer.Option(metavar="DIR", help="Where to write; default runs/<config>-<time>.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")]

# search

Labels = Annotated[
    int | None, typer.Option(metavar="N", help="Students to measure for the predictor; default search.labels.")
]
Population = Annotated[int | None, typer.Option(metavar="N", help="Architectures per generation.")]
Generations = Annotated[int | None, typer.Option(metavar="N", help="Generations of NSGA-II.")]
Verify = Annotated[
    int | None, typer.Option(metavar="N", help="Students of the predicted front to measure; default search.verify.")
]

# extract

LatencyTable = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Of another device; default the run's latency.json.")
]
Together = Annotated[bool, typer.Option("--and", help="One student that keeps all budgets, not one each.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Where to write; default the run's students/.")]
PreferOption = Annotated[
    str,
    typer.Option(metavar="robust|clean|balanced", help="Which accuracy decides.", autocompletion=among(PREFERENCES)),
]
FormatOption = Annotated[
    list[str],
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="Also write onnx, onnx-int8, pt2-int8 or executorch; repeatable.",
        autocompletion=among(FORMATS),
    ),
]
StaticBatch = Annotated[
    int | None, typer.Option(metavar="N", help="The one batch size that ONNX files take; default any.")
]
Finetune = Annotated[
    int | None, typer.Option(metavar="EPOCHS", min=1, help="Then train the student alone for some more epochs.")
]
Push = Annotated[
    str | None,
    typer.Option(metavar="hub:NAME", help="Then upload to the Hugging Face Hub; a new repository is private."),
]

# baseline

UnfairEpochs = Annotated[
    float | None, typer.Option(metavar="FACTOR", help="Shorten the trainings; the comparison is then unfair.")
]

# profile

BatchSize = Annotated[int, typer.Option(metavar="N", help="Images at once.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.", autocompletion=among(DTYPES))]
Runtime = Annotated[str, typer.Option(help="eager, export or onnxruntime.", autocompletion=among(RUNTIMES))]
Threads = Annotated[int | None, typer.Option(metavar="N", help="Default what PyTorch chooses.")]
TableFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Default latency.json in the run directory.")]

# evaluate

Evaluated = Annotated[
    Path,
    typer.Argument(
        metavar="STUDENT_DIR|RUN_DIR",
        help="A student, or a run for all of its students; with --config a network from elsewhere.",
        autocompletion=students,
    ),
]
AttackOption = Annotated[
    list[str],
    typer.Option(
        metavar="NAME",
        help="fgsm, pgd20, square1000, autoattack, union ...; repeatable.",
        autocompletion=among((*ATTACKS, "union")),
    ),
]
Radii = Annotated[
    str | None,
    typer.Option(metavar="NORM=EPS,...", help="With --attack union: eps by norm, such as linf=8/255,l2=0.5,l1=12."),
]
TestLimit = Annotated[int | None, typer.Option(metavar="N", help="Use this many test images.")]
DataRoot = Annotated[Path | None, typer.Option(metavar="DIR", help="Where the images are on this machine.")]
Import = Annotated[
    list[str], typer.Option("--import", metavar="MODULE", help="Import first: registers a family of your own.")
]
Check = Annotated[
    bool, typer.Option("--check", help="Also look for signs that robustness is overstated (gradient masking).")
]
Diagnose = Annotated[
    bool,
    typer.Option("--diagnose", help="Also measure local linearity and a curve over eps; kept in diagnostics.json."),
]
Corruptions = Annotated[
    bool, typer.Option("--corruptions", help="Also measure 15 common corruptions at 5 severities; corruptions.json.")
]
CurveOption = Annotated[
    bool, typer.Option("--curve", help="Also measure accuracy over eps and over attack steps; kept in curve.json.")
]
ElsewhereConfig = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|PATH",
        help="Data and threat model for a network from elsewhere, such as robustbench:NAME, timm:NAME or a file.",
        autocompletion=configs,
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option(metavar="DIR|SOURCE", help="With --diagnose: compare with this teacher's input gradients and loss."),
]

# report, configs

Page = Annotated[Path | None, typer.Option(metavar="FILE", help="Default report.html in the run directory.")]
PackagedName = Annotated[str | None, typer.Argument(help="Print this one.", autocompletion=packaged)]
