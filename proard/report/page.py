"""The page about a run: its sections in HTML, and the one file they become.

The page needs nothing but itself: style, script, plotly (compressed) and pictures are inside, and its policy forbids
any connection. Whatever comes from the run is escaped.
"""

from __future__ import annotations

import base64
import gzip
import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from tqdm import tqdm

from proard import __version__
from proard.alone import cost_of_training
from proard.budgets import short, short_time
from proard.errors import Stopped, UserError
from proard.report import figures, html
from proard.report.attacked import Attacked, Shown, Victim
from proard.report.figures import Plot, percent, scored
from proard.report.pictures import in_words, png, stages_svg
from proard.report.sampling import sampled_phases
from proard.report.subject import BUDGETS, COSTS, Student, Subject, best_within
from proard.search.predictor import TARGETS

MOST_PICTURES = 12


def page(subject: Subject, quiet: bool = False) -> str:
    """The whole page as text.

    Args:
        subject: the run.
        quiet: no progress bar.
    """
    writer = _Writer(subject)
    sections: dict[str, tuple[str, Callable[[], str]]] = {
        "front": ("Accuracy against cost", writer.front),
        "students": ("Students", writer.students),
        "training": ("Training", writer.training),
        "sampling": ("What the sampler drew", writer.sampling),
        "images": ("Images under attack", writer.images),
        "radii": ("Accuracy by radius", writer.radii),
        "predictor": ("The predictor of the search", writer.predictor),
        "latency": ("Latency", writer.latency),
        "energy": ("Energy and emissions", writer.energy),
        "setup": ("Configuration and environment", writer.setup),
    }
    bodies = []
    for name, (title, body) in tqdm(sections.items(), desc="report", leave=False, disable=True if quiet else None):
        try:
            inside = body()
        except (UserError, Stopped, OSError) as error:
            inside = html.paragraph(" ".join(str(error).split()), "missing")
        bodies.append(
            f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2>{inside}</section>'
        )
    parts = {
        "title": escape(f"{subject.run.path.resolve().name} - proard"),
        "style": _file("page.css"),
        "head": writer.head(),
        "contents": "".join(f'<a href="#{name}">{title}</a>' for name, (title, _) in sections.items()),
        "sections": "\n".join(bodies),
        "data": script_json(writer.data),
        "plotly": packed_plotly(),
        "script": _file("page.js"),
    }
    return with_own_size(lambda size: Template(_file("page.html")).substitute(parts, footer=_footer(size)))


def with_own_size(render: Callable[[int], str]) -> str:
    """A text that states its own size in bytes: rendered again until what it says is true."""
    size = -1
    while (length := len((text := render(max(size, 0))).encode())) != size:
        size = length
    return text


def script_json(value: Any) -> str:
    """JSON for a script element: no text in it can end the element."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def packed_plotly() -> str:
    """plotly's script, gzip in base64: a third of its size."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()


def _file(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _footer(size: int) -> str:
    return (
        f"Made by proard {__version__} on {time.strftime('%Y-%m-%d %H:%M %Z')}. This page is one file of "
        f'<data id="size" value="{size}">{size / 1e6:.1f} MB ({size:,} bytes)</data> and needs no network; most of it '
        "is plotly (MIT licence), compressed."
    )


class _Writer:
    """Writes the sections, and gathers what the page's script needs."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.run = subject.run
        self.attacked = Attacked(subject)
        self.data: dict[str, Any] = {"plots": {}}

    # What the run is

    def head(self) -> str:
        """Name and facts."""
        config, path = self.subject.config, self.run.path
        norm, eps = config.threat.norm, config.threat.eps
        data = config.data.name + (f", {config.data.limit} images" if config.data.limit else "")
        card = self._any_card()
        if card:
            data += f", {len(card['classes'])} classes, images {'x'.join(map(str, card['input_shape']))}"
        rows = [
            ("data", data),
            ("threat model", f"{norm}, eps {eps:.4g}, pixel values in [0, 1]"),
            ("trained", f"{' -> '.join(f'{p.name} ({p.epochs} epochs, {p.objective.name})' for p in config.phases)}"),
        ]
        if self.subject.is_supernet:
            rows.append(("network", f"supernet of family {config.supernet.family}"))
        else:
            rows.append(("network", "one network, trained alone (mode: student)"))
        if self.subject.family is not None and self.subject.is_supernet:
            space = self.subject.family.space()
            costs = [space.cost(end) for end in (space.smallest(), space.largest())]
            count = f"{space.size:,}" if space.size < 10**9 else f"{space.size:.2g}"
            ends = ", ".join(
                f"{short(getattr(costs[0], name))} to {short(getattr(costs[1], name))} {noun}"
                for name, noun in COSTS.items()
            )
            rows.append(("students in it", f"{count}, of {ends} (1 multiply-add = 1 FLOP)"))
        environment = self._environment()
        when = str(environment.get("time", "not recorded"))
        rows.append(("begun", f"{when}, with proard {environment.get('proard', '(version not recorded)')}"))
        notes = "".join(html.paragraph(note, "missing") for note in dict.fromkeys(self.subject.notes))
        title = f"<h1>{escape(path.resolve().name)}</h1>"
        return title + html.paragraph(f"A report about the run {path}", "soft") + html.facts(rows) + notes

    def _any_card(self) -> dict[str, Any] | None:
        """What is in any student's card, or known from the images."""
        try:
            data = self.subject.data
        except (UserError, OSError):
            return None
        return {"classes": data.class_names, "input_shape": data.input_shape}

    def _environment(self) -> dict[str, Any]:
        try:
            return self.subject.read(self.run.environment.name, "proard train")
        except UserError:
            return {}

    # Sections

    def front(self) -> str:
        """The front with the choice by budget."""
        subject = self.subject
        if not subject.is_supernet:
            raise UserError("this run trained one network, so there is nothing to choose")
        candidates, searched = subject.candidates
        known = {cost: best_within(candidates, cost) for cost in COSTS}
        plots = {
            cost: figures.front_plot(candidates, subject.students, cost, searched) for cost in COSTS if known[cost]
        }
        for cost, plot in plots.items():
            self._keep(plot, f"front-{cost}")
        self._keep_choice(candidates, {cost: best for cost, best in known.items() if best})
        first = plots["multiply_adds"]
        if searched:
            how = (
                "These students were measured by 'proard search'. 'proard extract' takes the same one wherever a "
                "measured student uses at least half of the limit; else it measures some more."
            )
        else:
            how = (
                f"No front yet: these are the few students that were validated or extracted; 'proard search --run "
                f"{self.run.path}' measures many. 'proard extract' measures some before it chooses."
            )
        return (
            html.paragraph(f"Costs are per image; 1 multiply-add = 1 FLOP. {how}")
            + self._control(list(plots))
            + self._figure(first, f"front-{next(iter(plots))}", "front-plot")
            + "".join(
                html.details(f"Best students by {COSTS[cost]}", html.table(plot.head, plot.rows))
                for cost, plot in plots.items()
            )
        )

    def _keep_choice(self, candidates: Sequence[Student], best: Mapping[str, Sequence[Student]]) -> None:
        """What the script needs to choose, and to show the students that any budget leads to."""
        choosable = {id(student): student for students in best.values() for student in students}
        tested = {str(dict(s.architecture)): s for s in self.subject.students if s.architecture and not s.alone}
        pictures: list[str] = []
        rows = []
        for student in candidates:
            if student.validation is None:
                continue
            row: dict[str, Any] = {
                "name": student.name,
                "costs": {cost: student.costs[cost] for cost in COSTS if cost in student.costs},
                "robust": student.validation.robust,
                "clean": student.validation.clean,
                "facts": [],
                "picture": None,
            }
            if id(student) in choosable:
                extracted = tested.get(str(dict(student.architecture))) if student.architecture else None
                row["facts"] = _choice_facts(student, extracted)
                if student.architecture and self.subject.decisions:
                    row["picture"] = len(pictures)
                    pictures.append(stages_svg(self.subject.decisions, student.architecture))
            rows.append(row)
        costs = {cost: [row["costs"][cost] for row in rows if cost in row["costs"]] for cost in best}
        self.data |= {
            "students": rows,
            "pictures": pictures,
            "run": shlex.quote(str(self.run.path)),
            "options": BUDGETS,
            "nouns": COSTS,
            "ranges": {cost: [min(values), max(values)] for cost, values in costs.items()},
            "initial": {cost: short(sorted(values)[len(values) // 2], up=True) for cost, values in costs.items()},
        }

    def _control(self, costs: Sequence[str]) -> str:
        options = "".join(f'<option value="{cost}">{COSTS[cost]}</option>' for cost in costs)
        return f"""
<div class="budget" id="budget">
<div class="controls">
<label>budget of <select id="budget-cost">{options}</select></label>
<label class="wide">from the smallest to the largest
<input type="range" id="budget-slider" min="0" max="1000" step="5" value="500"></label>
<label>or a number, such as 100M
<input type="text" id="budget-text" autocomplete="off" spellcheck="false"></label>
</div>
<div id="chosen" aria-live="polite">
<p><strong id="chosen-name"></strong></p>
<div id="chosen-picture"></div>
<dl class="facts" id="chosen-facts"></dl>
</div>
<div class="command" id="command-row"><pre><code id="command"></code></pre>
<button type="button" id="copy">Copy</button> <span id="copied" role="status"></span></div>
</div>"""

    def students(self) -> str:
        """Those that were extracted, and the ends of the space, as pictures of their stages."""
        decisions = self.subject.decisions
        shown: list[tuple[str, Student]] = []
        missing = ""
        try:
            for student in self.subject.extracted:
                same = [index for index, (_, other) in enumerate(shown) if other.architecture == student.architecture]
                if same:
                    title, other = shown[same[0]]
                    shown[same[0]] = (f"{title}, {student.name}", other)
                else:
                    shown.append((student.name, student))
        except UserError as error:
            missing = html.paragraph(str(error), "missing")
        if len(shown) > MOST_PICTURES:
            shown = [shown[round(i * (len(shown) - 1) / (MOST_PICTURES - 1))] for i in range(MOST_PICTURES)]
        if self.subject.family is not None and self.subject.is_supernet:
            space = self.subject.family.space()
            for title, end in (("the smallest of the space", space.smallest()), ("the largest", space.largest())):
                cost = space.cost(end)
                costs = {"multiply_adds": cost.multiply_adds, "parameters": cost.parameters}
                shown.append((title, Student(title, costs, end)))
        pictures = "".join(self._student(title, student) for title, student in shown)
        legend = (
            "A bar is a block: its height is the width, its breadth the expansion, both relative to the largest "
            "student (dashed outline); an empty outline is a block that the student leaves out. Numbers below are the "
            "other decisions, such as the side of a kernel or the number of heads."
        )
        if not decisions:
            legend = "Nothing varies between these students, or their family is not known; so there is nothing to draw."
        return missing + html.paragraph(legend) + f'<div class="students">{pictures}</div>' + self._alone()

    def _student(self, title: str, student: Student) -> str:
        costs = ", ".join(
            f"{short(student.costs[name])} {noun}" for name, noun in COSTS.items() if name in student.costs
        )
        lines = [costs]
        if student.test:
            lines.append(f"clean {scored(student.test, 'clean')} %, robust {scored(student.test, 'robust')} %")
            lines.append(f"({student.test.where}; 95 % intervals)")
        picture = ""
        if student.architecture and self.subject.decisions:
            picture = stages_svg(self.subject.decisions, student.architecture)
        words = html.details("in words", html.preformatted("\n".join(in_words(student.architecture or {}))))
        text = "<br>".join(map(escape, lines))
        return f"<figure><strong>{escape(title)}</strong>{picture}<figcaption>{text}</figcaption>{words}</figure>"

    def _alone(self) -> str:
        alone = [student for student in self.subject.students if student.alone and student.test]
        if not alone:
            return ""
        rows = [
            [s.name, short(s.costs["multiply_adds"]), scored(s.test, "clean"), scored(s.test, "robust")] for s in alone
        ]
        where = alone[0].test.where if alone[0].test else ""
        head = ["trained alone, for comparison", "multiply-adds", "clean %", "robust %"]
        return html.details(f"Students trained alone ({where})", html.table(head, rows))

    def training(self) -> str:
        """Loss and validation by epoch."""
        if not any(row.get("kind") == "epoch" for row in self.subject.metrics):
            raise UserError(
                f"no finished epoch in {self.run.metrics.name}; 'proard train --resume --run {self.run.path}' trains"
            )
        plots = figures.training_plots(self.subject.metrics)
        return "".join(self._plot(plot, f"training-{index}") for index, plot in enumerate(plots))

    def sampling(self) -> str:
        """Shares and robust gaps by bins of multiply-adds."""
        if not self.subject.is_supernet:
            raise UserError("this run trained one network, so nothing was sampled")
        phases = sampled_phases(self.run)
        if not phases:
            raise UserError(
                f"{self.run.metrics.name} has no finished epoch of a phase in which something is elastic; "
                f"'proard train' writes it"
            )
        body = html.paragraph(
            "Bins are of multiply-adds per image, from the cheapest (dark) to the most expensive (light)."
        )
        for number, phase in enumerate(phases):
            body += f"<h3>{escape(phase.name)}</h3>"
            for index, plot in enumerate(figures.sampling_plots(phase)):
                body += self._plot(plot, f"sampling-{number}-{index}")
        return body

    def images(self) -> str:
        """Clean and adversarial images, and what a small and a large student make of them."""
        shown, victims, attack = self.attacked.shown(), self.attacked.victims, self.attacked.attack
        threat = attack.threat
        classes = self.subject.data.class_names
        farthest = max(float((o.adversarial - s.image).abs().max()) for s in shown for o in s.outcomes)
        magnified = 0.5 / max(threat.eps if threat.norm == "linf" else farthest, 1e-6)
        body = html.paragraph(
            f"Test images, attacked by {attack.name} ({threat.norm}, eps {threat.eps:.4g}) for each student by itself. "
            f"Perturbations are magnified {magnified:.3g} times, and grey is no change. Up to half of the images are "
            "such that the attack broke, where there were any among the first ones: they show what an attack looks "
            "like, not how accurate a student is."
        )
        figures_ = "".join(_image_figure(one, victims, classes, magnified) for one in shown)
        return body + f'<div class="attacked">{figures_}</div>'

    def radii(self) -> str:
        """Accuracy over eps."""
        threat = self.attacked.attack.threat
        plot = figures.radii_plot(self.attacked.curves(), self.attacked.attack.name, threat.norm, threat.eps)
        body = html.paragraph(
            "Measured for this page on a part of the test images, with the evaluation attack at each radius; an image "
            "that is broken at one radius counts as broken at larger ones. Robustness beyond the threat model was not "
            "trained for."
        )
        return body + self._plot(plot, "radii")

    def predictor(self) -> str:
        """How far the search's predictions can be trusted."""
        if not self.subject.is_supernet:
            raise UserError("this run trained one network, so nothing was searched")
        _, report = self.subject.front
        if "predictor" not in report:
            return html.paragraph(f"All {report['labels']} students were measured, or too few to predict others.")
        rows = []
        for name in report["predictor"][TARGETS[0]]["compared"]:
            row = [name]
            for target in TARGETS:
                held_out, used = report["predictor"][target]["compared"][name], report["predictor"][target]["chosen"]
                row += [f"{held_out['tau']:.2f}{' (used)' if used == name else ''}", f"{100 * held_out['error']:.1f}"]
            rows.append(row)
        head = ["predictor", *(f"{target} {what}" for target in TARGETS for what in ("tau", "error, points"))]
        noise = ", ".join(f"{target} {100 * report['noise'][target]['standard_error']:.1f}" for target in TARGETS)
        body = html.paragraph(
            f"{report['labels']} students were measured on validation images; their standard error in points: {noise}. "
            "Kendall's tau (1 ranks all pairs rightly, 0 is chance) and mean absolute error are of students that a "
            "predictor had not seen. What is chosen is measured, never predicted."
        ) + html.table(head, rows)
        verified = report.get("verified") or {}
        if verified.get("students"):
            errors = ", ".join(f"{target} {100 * verified[f'{target}_error']:.1f}" for target in TARGETS)
            body += html.paragraph(
                f"{verified['students']} of the predicted front were measured: mean error {errors} points."
            )
        if report.get("learning_curve"):
            body += self._plot(figures.learning_plot(report["learning_curve"]), "learning")
        return body

    def latency(self) -> str:
        """The latency table."""
        table = self.subject.latency()
        body = html.facts(
            [
                ("device", table.device),
                ("run as", f"{table.runtime}, {table.dtype}, {table.threads} thread(s), batch size {table.batch_size}"),
                ("blocks", f"{len(table.blocks)} measured{', others interpolated' if table.interpolate else ''}"),
            ]
        )
        if table.students:
            return body + self._plot(figures.latency_plot(table), "latency")
        slowest = sorted(table.blocks.items(), key=lambda item: -item[1].median)[:10]
        return body + html.table(["block", "median"], [[key, short_time(entry.median)] for key, entry in slowest])

    def energy(self) -> str:
        """What the commands used, and what one training for all saves."""
        energy = self.subject.read(self.run.energy.name, "proard train")
        try:
            commands, method = energy["commands"], str(energy["method"])
            rows = [
                [
                    str(command["command"]),
                    str(command["when"])[:16].replace("T", " "),
                    f"{command['seconds']:.0f}",
                    _thousandths(command["kwh"]),
                    _thousandths(command["kg_co2eq"]),
                    str(command["country"] or "world average"),
                ]
                for command in commands
            ]
            totals = [f"{energy['seconds']:.0f}", _thousandths(energy["kwh"]), _thousandths(energy["kg_co2eq"])]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.run.energy.name} is damaged; 'proard train' writes it anew") from error
        body = html.table(
            ["command", "when (UTC)", "seconds", "Wh", "g CO2eq", "electricity of"], [*rows, ["all", "", *totals, ""]]
        )
        body += html.facts([("how measured", str(energy["how_measured"])), ("method", method)])
        body += html.paragraph(
            "CO2eq is the energy times the carbon intensity of the electricity named. It leaves out making the "
            "hardware, cooling, and whatever was run before this run.",
            "soft",
        )
        return body + "<h3>One training instead of N</h3>" + self._savings()

    def _savings(self) -> str:
        if not self.subject.is_supernet:
            return html.paragraph("this run trained one network; a supernet's run compares itself", "missing")
        try:
            baseline = self.subject.read("baseline.json", f"proard baseline --flops {self.subject.typical_budget()}")
            rows = baseline["comparisons"]
            seconds, kwh = cost_of_training(self.run)
            alone = sum(row["seconds_alone"] for row in rows) / len(rows)
            energies = [row["kwh_alone"] for row in rows]
            head = ["budget", "multiply-adds", "extracted %", "trained alone %", "difference", "alone, s", "alone, Wh"]
            body = html.paragraph(
                "The same architecture, images, teacher, objective and epochs, trained alone from random weights. Test "
                "accuracy, clean / robust; the difference is of robust accuracy, in points."
            ) + html.table(head, [_comparison(row) for row in rows])
        except UserError as error:
            return html.paragraph(str(error), "missing")
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return html.paragraph("baseline.json is damaged; 'proard baseline' writes it again", "missing")
        if not seconds:
            return body + html.paragraph("What the one training took is not on record (no training in energy.json).")
        one, each, unit = seconds, alone, "s"
        if kwh is not None and None not in energies:
            one, each, unit = 1000 * kwh, 1000 * sum(energies) / len(rows), "Wh"
        body += self._plot(figures.savings_plot(one, each, unit, one / each if each else float("inf")), "savings")
        return body + html.paragraph(
            "'One training' is all that 'proard train' did in this run, its teacher included, which the students "
            f"trained alone were given. Each further student is assumed to cost the mean of these {len(rows)}; "
            "extraction and search are in the table above.",
            "soft",
        )

    def setup(self) -> str:
        """The resolved configuration and the environment."""
        rows = [(key, str(value)) for key, value in self._environment().items()]
        environment = html.facts(rows) if rows else html.paragraph("environment.json is missing", "missing")
        text = self.run.config_file.read_text(encoding="utf-8")
        return html.details("config.yaml, resolved", html.preformatted(text)) + html.details("environment", environment)

    # Plots

    def _keep(self, plot: Plot, name: str) -> None:
        self.data["plots"][name] = {
            "data": plot.data,
            "layout": plot.layout,
            "height": plot.height,
            "summary": plot.summary,
        }

    def _figure(self, plot: Plot, name: str, place: str) -> str:
        summary = escape(plot.summary)
        return (
            f'<figure><div class="plot" id="{place}" data-plot="{name}" role="img" aria-label="{summary}" '
            f'style="min-height:{plot.height}px"></div><figcaption>{summary}</figcaption></figure>'
        )

    def _plot(self, plot: Plot, name: str) -> str:
        self._keep(plot, name)
        return self._figure(plot, name, f"{name}-plot") + html.details("as a table", html.table(plot.head, plot.rows))


def _choice_facts(student: Student, extracted: Student | None) -> list[tuple[str, str]]:
    """What is shown of a chosen student."""
    rows = [(noun, short(student.costs[cost])) for cost, noun in COSTS.items() if cost in student.costs]
    rows += [
        (noun, f"{short(student.costs[name])}B, float32")
        for name, noun in (("peak_activation_bytes", "peak activations"), ("file_bytes", "weight file"))
        if name in student.costs
    ]
    if scores := student.validation:
        rows.append(
            ("validation", f"clean {percent(scores.clean)} %, robust {percent(scores.robust)} % ({scores.where})")
        )
    if extracted and (scores := extracted.test):
        accuracies = f"clean {scored(scores, 'clean')} %, robust {scored(scores, 'robust')} %"
        rows.append(("test", f"{accuracies} ({scores.where}; as {extracted.name})"))
    return rows


def _image_figure(shown: Shown, victims: Sequence[Victim], classes: Sequence[str], magnified: float) -> str:
    """A clean image, and a row per student: the adversarial image, the perturbation, and the predictions."""

    def picture(image: Any, text: str) -> str:
        return f'<img src="{png(image)}" alt="{escape(text)}" width="92">'

    label = classes[shown.label]
    rows = ""
    for victim, outcome in zip(victims, shown.outcomes, strict=True):
        before, after = classes[outcome.before], classes[outcome.after]
        kinds = ["" if index == shown.label else ' class="wrong"' for index in (outcome.before, outcome.after)]
        perturbation = (outcome.adversarial - shown.image) * magnified + 0.5
        rows += (
            f"<tr><td>{picture(outcome.adversarial, f'{label}, attacked for {victim.name}: predicted {after}')}</td>"
            f"<td>{picture(perturbation, f'the perturbation for {victim.name}, magnified')}</td>"
            f"<td>{escape(victim.name)}, {short(victim.multiply_adds)}:<br><span{kinds[0]}>{escape(before)}</span>"
            f" &rarr; <span{kinds[1]}>{escape(after)}</span></td></tr>"
        )
    head = (
        f"<tr><td>{picture(shown.image, f'clean image of class {label}')}</td><td colspan=2>clean image of class "
        f"<strong>{escape(label)}</strong>.<br>Below: attacked, perturbation, and predictions before &rarr; after."
        "</td></tr>"
    )
    return f"<figure><table>{head}{rows}</table></figure>"


def _comparison(row: Mapping[str, Any]) -> list[str]:
    pairs = [
        f"{percent(row[f'clean_accuracy_{name}'])} / {percent(row[f'robust_accuracy_{name}'])}"
        for name in ("extracted", "alone")
    ]
    difference = f"{100 * row['robust_accuracy_difference']:+.1f}"
    seconds = f"{row['seconds_alone']:.0f}"
    return [row["budget"], short(row["multiply_adds"]), *pairs, difference, seconds, _thousandths(row["kwh_alone"])]


def _thousandths(value: float | None) -> str:
    """Kilowatt hours in Wh, or kilograms in g."""
    return "not measured" if value is None else f"{1000 * value:.3g}"
