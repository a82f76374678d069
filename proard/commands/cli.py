"""The command line: one function per command, which parses, calls one public function, and prints.

Nothing here imports torch before a command runs, so that ``proard --help`` answers at once. What a command prints for
people goes through `proard.common.terminal`; with ``--json`` standard output has that and nothing else.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from itertools import pairwise
from typing import Annotated, Any

import typer

from proard.commands import options
from proard.commands.exit_code import exit_code
from proard.commands.streams import enduring_streams
from proard.common.budget_kinds import KINDS, PLAIN
from proard.common.errors import UserError, reason
from proard.common.progress import lines_on_standard_error
from proard.common.terminal import say
from proard.common.version import __version__

app = typer.Typer(
    name="proard",
    help="Train one weight-sharing network by adversarial distillation, "
    "then cut a robust student out of it for any budget.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


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


def _work(as_json: bool) -> AbstractContextManager[Any]:
    """Whatever is printed while a command works, before it prints its result, is no part of JSON."""
    return redirect_stdout(sys.stderr) if as_json else nullcontext()


@app.command()
def train(
    config: options.ConfigName = None,
    set_: options.Set = [],  # noqa: B006
    scale_epochs: options.ScaleEpochs = None,
    run: options.NewRun = None,
    resume: options.Resume = False,
    data_root: options.DataRoot = None,
    quiet: options.Quiet = False,
) -> None:
    """Train a supernet, or with `mode: student` in the configuration one fixed network."""
    from proard.commands.printing import print_plan, typical_budget
    from proard.commands.train import train
    from proard.report import write_sampling_plot
    from proard.runs.compute import computed
    from proard.runs.run import Run

    path = train(
        config,
        run=run,
        overrides=set_,
        scale_epochs=scale_epochs,
        resume=resume,
        data_root=data_root,
        quiet=quiet,
        before=print_plan,
    )
    if os.environ.get("RANK", "0") != "0":  # another process of this training says it
        return
    say(f"trained: {path}")
    say(f"compute: {computed(Run(path))}", fold=True)
    try:
        if plot := write_sampling_plot(path):
            say(f"sampled: {plot}")
    except Exception as error:  # whatever it is: the training has ended well
        say(f"sampled: no plot ({reason(error)})")
    say(f"next:    proard extract --run {path}{typical_budget(Run(path))}")


@app.command()
@options.takes_budgets(*PLAIN, repeatable=False)
def search(
    *,
    run: options.RunOption = None,
    labels: options.Labels = None,
    population: options.Population = None,
    generations: options.Generations = None,
    verify: options.Verify = None,
    budgets: options.Budgets,
    data_root: options.DataRoot = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Measure some students, learn to predict all, search, and measure the best: the front that extract chooses from.

    What is measured is kept at once; an interrupted search goes on where it was. Under torchrun every process measures
    its share. Budgets are limits that all students of the search keep.
    """
    from proard.commands.printing import budget_on_front, search_as_json, search_summary
    from proard.commands.search import search

    with _work(as_json):
        result = search(
            run,
            labels=labels,
            population=population,
            generations=generations,
            verify=verify,
            budgets=budgets,
            data_root=data_root,
            quiet=quiet,
        )
    if result is None:  # another process of this search has it
        return
    if as_json:
        print(json.dumps(search_as_json(result), indent=1))
        return
    for line in search_summary(result):
        say(line)
    print()
    say(f"front:   {result.path}")
    say(f"next:    proard extract --run {result.path.parent} --flops {budget_on_front(result.front)}")


@app.command()
@options.takes_budgets(*KINDS)
def extract(
    budgets: options.Budgets,
    latency_table: options.LatencyTable = None,
    together: options.Together = False,
    run: options.RunOption = None,
    out: options.Out = None,
    prefer: options.PreferOption = "robust",
    format_: options.FormatOption = [],  # noqa: B006
    static_batch: options.StaticBatch = None,
    finetune: options.Finetune = None,
    push: options.Push = None,
    data_root: options.DataRoot = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Cut the best student for each budget out of a trained supernet; a run of one network needs no budget."""
    from proard.commands.extract import extract
    from proard.commands.finetune import finetune as finetune_student
    from proard.commands.printing import print_students
    from proard.export.hub import push_all, repository_name

    repository = repository_name(push) if push else None  # what is missing for it shows before the work, not after
    with _work(as_json):
        students = extract(
            budgets,
            together=together,
            latency_table=latency_table,
            run=run,
            out=out,
            prefer=prefer,  # type: ignore[arg-type]
            formats=format_,
            static_batch=static_batch,
            data_root=data_root,
            quiet=quiet,
        )
        if finetune is not None:
            students = [
                finetune_student(student.path, finetune, run=run, formats=format_, data_root=data_root, quiet=quiet)
                for student in students
            ]
        addresses = push_all([student.path for student in students], repository) if repository else []
    if as_json:
        print(json.dumps([{"path": str(student.path), **student.card} for student in students], indent=1))
        return
    print_students(students)
    for address in addresses:
        say(f"pushed:  {address}")
    say(f"written: {students[-1].path.parent}")
    say(f"next:    proard evaluate {students[-1].path} --attack pgd50x5")


@app.command()
@options.takes_budgets(*PLAIN)
def baseline(
    budgets: options.Budgets,
    run: options.RunOption = None,
    scale_epochs: options.UnfairEpochs = None,
    data_root: options.DataRoot = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Train the student of each budget alone: is one training for all of them worth it?"""
    from proard.commands.baseline import baseline
    from proard.commands.printing import print_baseline

    with _work(as_json):
        result = baseline(budgets, run=run, scale_epochs=scale_epochs, data_root=data_root, quiet=quiet)
    if as_json:
        print(json.dumps(result.as_dict(), indent=1))
        return
    print_baseline(result)
    say(f"written: {result.run.path / 'baseline.json'}")
    say(f"next:    proard report --run {result.run.path}")


@app.command()
def profile(
    run: options.RunOption = None,
    batch_size: options.BatchSize = 1,
    dtype: options.Dtype = "float32",
    runtime: options.Runtime = "eager",
    threads: options.Threads = None,
    device: options.Device = "auto",
    out: options.TableFile = None,
    data_root: options.DataRoot = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Measure the latency of a run's blocks on this device, and how well it predicts that of whole students."""
    from proard.commands.printing import print_profile
    from proard.commands.profile import profile
    from proard.common.units import short_time

    with _work(as_json):
        done = profile(run, batch_size, dtype, runtime, threads, out, device=device, data_root=data_root, quiet=quiet)
    table = done.table
    if as_json:
        summary = table.model_dump(mode="json", exclude={"blocks"})
        print(json.dumps({"path": str(done.path), "distinct_blocks": done.distinct, **summary}, indent=1))
        return
    print_profile(done)
    option = "" if out is None else f" --latency-table {done.path}"
    middle = table.students[len(table.students) // 2].predicted
    print()
    say(f"table:   {done.path}")
    say(f"next:    proard extract --run {done.run} --latency {short_time(middle, up=True)}{option}")


@app.command()
def evaluate(
    path: options.Evaluated,
    attack: options.AttackOption = [],  # noqa: B006
    limit: options.TestLimit = None,
    data_root: options.DataRoot = None,
    device: options.Device = "auto",
    import_: options.Import = [],  # noqa: B006
    check: options.Check = False,
    diagnose: options.Diagnose = False,
    teacher: options.Teacher = None,
    corruptions: options.Corruptions = False,
    curve: options.CurveOption = False,
    config: options.ElsewhereConfig = None,
    radii: options.Radii = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Measure a student directory on the test split; without --attack, repeat the numbers of its card.

    Several attacks are a cascade: each one sees only what is still classified correctly. --attack union is AutoAttack
    in linf, l2 and l1, each on all images, and the accuracy under all three.
    """
    from proard.commands.evaluate import evaluate
    from proard.commands.printing import after_evaluation, print_evaluations
    from proard.common.distributed import process_group, rank
    from proard.common.registry import import_modules

    import_modules(import_, "--import")
    with _work(as_json), process_group():
        results = evaluate(
            path,
            attack,
            limit=limit,
            data_root=data_root,
            device=device,
            check=check,
            diagnose=diagnose,
            corruptions=corruptions,
            curve=curve,
            teacher=teacher,
            config=config,
            radii=radii,
            quiet=quiet,
        )
        if rank() > 0:
            return
    if as_json:
        print(json.dumps([result.as_dict() for result in results], indent=1))
        return
    print_evaluations(results)
    for line in after_evaluation(results, config):
        say(line)


@app.command()
def report(
    run: options.RunOption = None,
    out: options.Page = None,
    data_root: options.DataRoot = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Write one HTML page about a run, which needs no network: front, students, training, attacked images, energy."""
    from proard.commands.report import write_report

    with _work(as_json):
        path = write_report(run, out, data_root=data_root, quiet=quiet)
    size = path.stat().st_size
    if as_json:
        print(json.dumps({"path": str(path), "bytes": size}, indent=1))
        return
    say(f"report:  {path} ({size / 1e6:.1f} MB)")
    say("next:    open it in a browser; below the front is the command that extracts a student", fold=True)


@app.command()
def zoo(as_json: options.Json = False) -> None:
    """List the students that come with proard: trained, calibrated and measured, by the names all commands know."""
    from proard.commands.printing import print_zoo
    from proard.commands.zoo import zoo

    students = zoo()
    if as_json:
        print(json.dumps([{"name": s.name, "path": str(s.path), **s.card} for s in students], indent=1))
        return
    print_zoo(students)
    if students:
        middle = students[len(students) // 2].name
        say(f'next:    proard evaluate {middle}, or load_student("{middle}")')


@app.command()
def configs(
    name: options.PackagedName = None,
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
        comments = [line[2:] for line in path.read_text(encoding="utf-8").splitlines()[1:] if line.startswith("# ")]
        print(f"{file:<20} {comments[0].split('. ')[0].rstrip('.') if comments else ''}")
    if sys.stdout.isatty():
        say("next:    proard configs NAME > mine.yaml, or proard train --config NAME")


def _given(arguments: Sequence[str]) -> list[str]:
    """The arguments, if none that names a place is empty, as a shell's variable is that nobody set."""
    for before, argument in pairwise(["", *arguments]):
        name, equals, value = argument.partition("=") if argument.startswith("--") else (before, "=", argument)
        if name in options.PLACES and equals and not value:
            raise UserError(f"{name}: an empty value was given; leave it out for the default")
    return list(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and leave with its exit code: 0 done, 2 the input is wrong, 130 on Ctrl-C, 1 anything else."""
    chosen = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    with enduring_streams() as check_output, lines_on_standard_error():
        sys.exit(
            exit_code(lambda: app(args=_given(chosen), prog_name="proard", standalone_mode=False) or check_output())
        )
