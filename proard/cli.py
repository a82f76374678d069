"""The command line: one function per command, which parses, calls one public function, and prints.

Nothing here imports torch before a command runs, so that ``proard --help`` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from proard import __version__
from proard.errors import Stopped, UserError

app = typer.Typer(
    name="proard",
    help="Train one weight-sharing network by adversarial distillation, "
    "then cut a robust student out of it for any budget.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

RunOption = Annotated[
    Path | None, typer.Option("--run", metavar="DIR", help="Run directory; default the newest in runs/.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Plain lines instead of a progress bar.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def _version(show: bool) -> None:
    if show:
        print(f"proard {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def train(
    config: Annotated[
        str | None, typer.Option(metavar="NAME|PATH", help="A file, or a packaged configuration.")
    ] = None,
    set_: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key; repeatable.")] = [],  # noqa: B006
    scale_epochs: Annotated[
        float | None, typer.Option(metavar="FACTOR", help="Make every phase this much as long.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write; default runs/<config>-<time>.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train a supernet, or with `mode: student` in the configuration one fixed network."""
    from proard.printing import typical_budget
    from proard.report import write_sampling_plot
    from proard.run import Run
    from proard.training import train

    path = train(config, run=run, overrides=set_, scale_epochs=scale_epochs, resume=resume, quiet=quiet)
    if os.environ.get("RANK", "0") != "0":  # another process of this training says it
        return
    print(f"trained: {path}")
    try:
        if plot := write_sampling_plot(path):
            print(f"sampled: {plot}")
    except Exception as error:  # whatever it is: the training has ended well
        print(f"sampled: no plot ({' '.join(str(error).split()) or type(error).__name__})")
    print(f"next:    proard extract --run {path}{typical_budget(Run(path))}")


@app.command()
def search(
    run: RunOption = None,
    labels: Annotated[
        int | None, typer.Option(metavar="N", help="Students to measure for the predictor; default search.labels.")
    ] = None,
    population: Annotated[int | None, typer.Option(metavar="N", help="Architectures per generation.")] = None,
    generations: Annotated[int | None, typer.Option(metavar="N", help="Generations of NSGA-II.")] = None,
    verify: Annotated[
        int | None, typer.Option(metavar="N", help="Students of the predicted front to measure; default search.verify.")
    ] = None,
    flops: Annotated[str | None, typer.Option(metavar="N", help="Search below these multiply-adds only.")] = None,
    params: Annotated[str | None, typer.Option(metavar="N", help="Likewise parameters.")] = None,
    memory: Annotated[str | None, typer.Option(metavar="BYTES", help="Likewise peak activations, float32.")] = None,
    size: Annotated[str | None, typer.Option(metavar="BYTES", help="Likewise the weight file, float32.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure some students, learn to predict all, search, and measure the best: the front that extract chooses from.

    What is measured is kept at once; an interrupted search goes on where it was. Under torchrun every process measures
    its share.
    """
    from proard.budgets import Budget

    named = {"flops": flops, "params": params, "memory": memory, "size": size}
    budgets = [Budget.parse(kind, text) for kind, text in named.items() if text is not None]

    from proard.search import summary
    from proard.search.command import search

    result = search(
        run,
        labels=labels,
        population=population,
        generations=generations,
        verify=verify,
        budgets=budgets,
        quiet=quiet,
    )
    if result is None:  # another process of this search has it
        return
    if as_json:
        print(json.dumps(summary.as_json(result), indent=1))
        return
    print("\n".join(summary.summary(result)))
    print(f"\nfront:   {result.path}")
    print(f"next:    proard extract --run {result.path.parent} --flops {summary.typical_budget(result.front)}")


@app.command()
def extract(
    flops: Annotated[list[str], typer.Option(metavar="N", help="Multiply-adds, such as 100M; repeatable.")] = [],  # noqa: B006
    params: Annotated[list[str], typer.Option(metavar="N", help="Parameters, such as 2M.")] = [],  # noqa: B006
    memory: Annotated[list[str], typer.Option(metavar="BYTES", help="Peak activations, float32, such as 256KB.")] = [],  # noqa: B006
    size: Annotated[list[str], typer.Option(metavar="BYTES", help="The weight file, float32, such as 1MB.")] = [],  # noqa: B006
    latency: Annotated[
        list[str], typer.Option(metavar="TIME", help="On the device that 'proard profile' measured, such as 5ms.")
    ] = [],  # noqa: B006
    memory_int8: Annotated[
        list[str], typer.Option("--memory-int8", metavar="BYTES", help="Peak activations in int8, such as 64KB.")
    ] = [],  # noqa: B006
    size_int8: Annotated[
        list[str], typer.Option("--size-int8", metavar="BYTES", help="Weights in int8, such as 256KB.")
    ] = [],  # noqa: B006
    size_fp16: Annotated[
        list[str], typer.Option("--size-fp16", metavar="BYTES", help="The weight file in float16, such as 512KB.")
    ] = [],  # noqa: B006
    latency_table: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of another device; default the run's latency.json.")
    ] = None,
    together: Annotated[bool, typer.Option("--and", help="One student that keeps all budgets, not one each.")] = False,
    run: RunOption = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write; default the run's students/.")
    ] = None,
    prefer: Annotated[str, typer.Option(metavar="robust|clean|balanced", help="Which accuracy decides.")] = "robust",
    format_: Annotated[
        list[str],
        typer.Option(
            "--format", metavar="FORMAT", help="Also write onnx, onnx-int8, pt2-int8 or executorch; repeatable."
        ),
    ] = [],  # noqa: B006
    static_batch: Annotated[
        int | None, typer.Option(metavar="N", help="The one batch size that ONNX files take; default any.")
    ] = None,
    finetune: Annotated[
        int | None, typer.Option(metavar="EPOCHS", help="Then train the student alone for some more epochs.")
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="hub:NAME", help="Then upload to the Hugging Face Hub; a new repository is private."),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Cut the best student for each budget out of a trained supernet; a run of one network needs no budget."""
    from proard.budgets import parse_budgets

    budgets = parse_budgets(
        {
            "flops": flops,
            "params": params,
            "memory": memory,
            "size": size,
            "latency": latency,
            "memory-int8": memory_int8,
            "size-int8": size_int8,
            "size-fp16": size_fp16,
        }
    )

    from proard import alone
    from proard.extraction import extract
    from proard.hub import push_all, repository_name
    from proard.printing import print_students

    if finetune is not None:
        alone.require_epochs(finetune)
    repository = repository_name(push) if push else None  # what is missing for it shows before the work, not after
    students = extract(
        budgets,
        together=together,
        latency_table=latency_table,
        run=run,
        out=out,
        prefer=prefer,  # type: ignore[arg-type]
        formats=format_,
        static_batch=static_batch,
        quiet=quiet,
    )
    if finetune is not None:
        students = [
            alone.finetune(student.path, finetune, run=run, formats=format_, quiet=quiet) for student in students
        ]
    addresses = push_all([student.path for student in students], repository) if repository else []
    if as_json:
        print(json.dumps([{"path": str(student.path), **student.card} for student in students], indent=1))
        return
    print_students(students)
    for address in addresses:
        print(f"pushed:  {address}")
    print(f"next:    proard evaluate {students[-1].path} --attack pgd50x5")


@app.command()
def baseline(
    flops: Annotated[list[str], typer.Option(metavar="N", help="Multiply-adds, such as 100M; repeatable.")] = [],  # noqa: B006
    params: Annotated[list[str], typer.Option(metavar="N", help="Parameters, such as 2M.")] = [],  # noqa: B006
    memory: Annotated[list[str], typer.Option(metavar="BYTES", help="Peak activations, float32, such as 256KB.")] = [],  # noqa: B006
    size: Annotated[list[str], typer.Option(metavar="BYTES", help="The weight file, float32, such as 1MB.")] = [],  # noqa: B006
    run: RunOption = None,
    scale_epochs: Annotated[
        float | None, typer.Option(metavar="FACTOR", help="Shorten the trainings; the comparison is then unfair.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train the student of each budget alone: is one training for all of them worth it?"""
    from proard.budgets import parse_budgets

    budgets = parse_budgets({"flops": flops, "params": params, "memory": memory, "size": size})

    from proard.alone import baseline
    from proard.printing import print_baseline

    result = baseline(budgets, run=run, scale_epochs=scale_epochs, quiet=quiet)
    if as_json:
        print(json.dumps(result.as_dict(), indent=1))
        return
    print_baseline(result)


@app.command()
def profile(
    run: RunOption = None,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Images at once.")] = 1,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    runtime: Annotated[str, typer.Option(help="eager, export or onnxruntime.")] = "eager",
    threads: Annotated[int | None, typer.Option(metavar="N", help="Default what PyTorch chooses.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Default latency.json in the run directory.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure the latency of a run's blocks on this device, and how well it predicts that of whole students."""
    from proard.budgets import short_time
    from proard.latency import profile
    from proard.printing import print_profile

    done = profile(run, batch_size, dtype, runtime, threads, out, device=device, quiet=quiet)
    table = done.table
    if as_json:
        summary = table.model_dump(mode="json", exclude={"blocks"})
        print(json.dumps({"path": str(done.path), "distinct_blocks": done.distinct, **summary}, indent=1))
        return
    print_profile(done)
    option = "" if out is None else f" --latency-table {done.path}"
    middle = table.students[len(table.students) // 2].predicted
    print(f"\ntable:   {done.path}")
    print(f"next:    proard extract --run {done.run} --latency {short_time(middle, up=True)}{option}")


@app.command()
def evaluate(
    path: Annotated[
        Path, typer.Argument(metavar="STUDENT_DIR|RUN_DIR", help="A student, or a run for all of its students.")
    ],
    attack: Annotated[
        list[str], typer.Option(metavar="NAME", help="fgsm, pgd20, square1000, autoattack ...; repeatable.")
    ] = [],  # noqa: B006
    limit: Annotated[int | None, typer.Option(metavar="N", help="Use this many test images.")] = None,
    data_root: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the images are on this machine.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    import_: Annotated[
        list[str], typer.Option("--import", metavar="MODULE", help="Import first: registers a family of your own.")
    ] = [],  # noqa: B006
    check: Annotated[
        bool, typer.Option("--check", help="Also look for signs that robustness is overstated (gradient masking).")
    ] = False,
    diagnose: Annotated[
        bool,
        typer.Option("--diagnose", help="Also measure local linearity and a curve over eps; kept in diagnostics.json."),
    ] = False,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|SOURCE", help="With --diagnose: compare with this teacher's input gradients and loss."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a student directory on the test split; without --attack, repeat the numbers of its card.

    Several attacks are a cascade: each one sees only what is still classified correctly.
    """
    from proard.distributed import process_group, rank
    from proard.evaluation import evaluate
    from proard.printing import print_evaluations
    from proard.registry import import_modules

    import_modules(import_, "--import")
    with process_group():
        results = evaluate(
            path,
            attack,
            limit=limit,
            data_root=data_root,
            device=device,
            check=check,
            diagnose=diagnose,
            teacher=teacher,
        )
        if rank() > 0:
            return
    if as_json:
        print(json.dumps([result.as_dict() for result in results], indent=1))
        return
    print_evaluations(results)


@app.command()
def report(
    run: RunOption = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Default report.html in the run directory.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write one HTML page about a run, which needs no network: front, students, training, attacked images, energy."""
    from proard.report import write_report

    path = write_report(run, out, quiet=quiet)
    size = path.stat().st_size
    if as_json:
        print(json.dumps({"path": str(path), "bytes": size}, indent=1))
        return
    print(f"report:  {path} ({size / 1e6:.1f} MB)")
    print("next:    open it in a browser; the budget under the front gives the command that extracts its student")


@app.command()
def configs(
    name: Annotated[str | None, typer.Argument(help="Print this one.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of all, for editors.")] = False,
) -> None:
    """List the packaged configurations, or print one."""
    from proard.config import find_config, packaged_configs, schema_file

    if schema:
        name = str(schema_file())
    if name is not None:
        print(find_config(name).read_text(encoding="utf-8"), end="")
        return
    for file, path in packaged_configs().items():
        lines = [
            line.lstrip("# ") for line in path.read_text(encoding="utf-8").splitlines()[1:] if line.startswith("# ")
        ]
        print(f"{file:<20} {lines[0] if lines else ''}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and leave with its exit code: 0 done, 2 the input is wrong, 130 on Ctrl-C, 1 anything else."""
    usage_error: Any = typer.BadParameter.__base__  # of click, or of the copy of it that newer typer versions carry
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(args=list(arguments) or ["--help"], prog_name="proard", standalone_mode=False)
        if code == 130:  # what newer typer versions make of Ctrl-C
            raise KeyboardInterrupt
    except UserError as error:
        code = _fail(str(error), 2)
    except usage_error as error:
        code = _fail(f"{error.format_message()} (see 'proard --help')", 2)
    except (KeyboardInterrupt, typer.Abort):
        code = _fail("interrupted", 130)
    except Stopped as error:  # which all processes of a job do together: one of them says it
        code = _fail(str(error), error.exit_code) if os.environ.get("RANK", "0") == "0" else error.exit_code
    except OSError as error:
        code = _fail(f"{error.filename or 'system'}: {error.strerror or error}", 1)
    sys.exit(code or 0)


def _fail(message: str, code: int) -> int:
    print(f"proard: {' '.join(message.split())}", file=sys.stderr)
    return code
