"""The sections of the page, each from one part of a run; a section without data raises the line that stands for it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from html import escape
from typing import Any

from proard.common import html
from proard.common.errors import UserError
from proard.common.svg import in_words, stages_svg
from proard.common.units import how_many, short, short_time
from proard.evaluation.accuracy import Accuracy
from proard.export.student_directory import read_further
from proard.report import figures, training_figures
from proard.report.attacked import Attacked, Curve, Shown, Victim
from proard.report.energy_section import energy
from proard.report.figures import scored
from proard.report.front_section import choice
from proard.report.pictures import png
from proard.report.plots import SERIES, Plots
from proard.report.run_contents import COSTS, RunContents, Student
from proard.report.sampling_plot import sampled_phases
from proard.search.predictor import comparison_rows, verified_in_words

MOST_PICTURES = 12


class Sections:
    """The sections of a run in HTML, and what the page's script needs for them.

    Attributes:
        data: for the script; complete when all sections were asked for.
    """

    def __init__(self, contents: RunContents) -> None:
        self.contents = contents
        self.run = contents.run
        self.attacked = Attacked(contents)
        self.plots = Plots()
        self.data: dict[str, Any] = {"plots": self.plots.kept}

    # What the run is

    def head(self) -> str:
        """The head of the page: the run's name, and what it is."""
        config, path = self.contents.config, self.run.path
        norm, eps = config.threat.norm, config.threat.eps
        network = "one network, trained alone (mode: student)"
        if self.contents.is_supernet:
            network = f"supernet of family {config.supernet.family}"
        data = config.data.name + (f", {config.data.limit} images" if config.data.limit else "")
        with suppress(UserError, OSError):  # the images are not on this machine
            images = self.contents.data
            data += f", {len(images.class_names)} classes, images {'x'.join(map(str, images.input_shape))}"
        trained = (f"{p.name} ({how_many(p.epochs, 'epoch')}, {p.objective.name})" for p in config.phases)
        rows = [
            ("data", data),
            ("threat model", f"{norm}, eps {eps:.4g}, pixel values in [0, 1]"),
            ("trained", " -> ".join(trained)),
            ("network", network),
        ]
        space = self.contents.space
        if space is not None and self.contents.is_supernet:
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
        notes = "".join(html.paragraph(note, "missing") for note in dict.fromkeys(self.contents.notes))
        title = f"<h1>{escape(path.resolve().name)}</h1>"
        return title + html.paragraph(f"A report about the run {path}", "soft") + html.facts(rows) + notes

    def _environment(self) -> dict[str, Any]:
        try:
            return self.contents.read(self.run.environment.name, "proard train")
        except UserError:
            return {}

    # Sections

    def front(self) -> str:
        """Accuracy against cost, with the choice by budget."""
        inside, data = choice(self.contents, self.plots)
        self.data |= data
        return inside

    def students(self) -> str:
        """The students that were extracted, and the ends of the space, as pictures of their stages."""
        by_architecture: dict[str, list[Student]] = {}
        missing = ""
        try:
            for student in self.contents.extracted:
                by_architecture.setdefault(student.key, []).append(student)
        except UserError as error:
            missing = html.paragraph(str(error), "missing")
        shown = [(", ".join(one.name for one in same), same[0]) for same in by_architecture.values()]
        if len(shown) > MOST_PICTURES:
            shown = [shown[round(i * (len(shown) - 1) / (MOST_PICTURES - 1))] for i in range(MOST_PICTURES)]
        space = self.contents.space
        if space is not None and self.contents.is_supernet:
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
        if not self.contents.decisions:
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
        if student.architecture and self.contents.decisions:
            picture = stages_svg(self.contents.decisions, student.architecture)
        words = html.details("in words", html.preformatted("\n".join(in_words(student.architecture or {}))))
        text = "<br>".join(map(escape, lines))
        return f"<figure><strong>{escape(title)}</strong>{picture}<figcaption>{text}</figcaption>{words}</figure>"

    def _alone(self) -> str:
        alone = [student for student in self.contents.students if student.alone and student.test]
        if not alone:
            return ""
        rows = [
            [s.name, short(s.costs["multiply_adds"]), scored(s.test, "clean"), scored(s.test, "robust")] for s in alone
        ]
        where = alone[0].test.where if alone[0].test else ""
        head = ["trained alone, for comparison", "multiply-adds", "clean %", "robust %"]
        return html.details(f"Students trained alone ({where})", html.table(head, rows))

    def training(self) -> str:
        """The loss and the validated accuracies by epoch."""
        if not any(row.get("kind") == "epoch" for row in self.contents.metrics):
            raise UserError(
                f"no finished epoch in {self.run.metrics.name}; 'proard train --resume --run {self.run.path}' trains"
            )
        plots = training_figures.training_plots(self.contents.metrics)
        return "".join(self.plots.add(plot, f"training-{index}") for index, plot in enumerate(plots))

    def sampling(self) -> str:
        """Shares and robust gaps by bins of multiply-adds."""
        if not self.contents.is_supernet:
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
            for index, plot in enumerate(training_figures.sampling_plots(phase)):
                body += self.plots.add(plot, f"sampling-{number}-{index}")
        return body

    def images(self) -> str:
        """Clean and adversarial images, and what a small and a large student make of them."""
        shown, victims, attack = self.attacked.shown(), self.attacked.victims, self.attacked.attack
        threat = attack.threat
        classes = self.contents.data.class_names
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
        """The accuracy of a small and a large student over eps."""
        threat = self.attacked.attack.threat
        plot = figures.radii_plot(self.attacked.curves(), self.attacked.attack.name, threat.norm, threat.eps)
        body = html.paragraph(
            "Measured for this page on a part of the test images, with the evaluation attack at each radius; an image "
            "that is broken at one radius counts as broken at larger ones. Robustness beyond the threat model was not "
            "trained for."
        )
        return body + self.plots.add(plot, "radii")

    def curves(self) -> str:
        """Accuracy over eps and steps, as `evaluate` measured it."""
        found = self._further("curve")
        curves = {
            over: [
                Curve(
                    student.name,
                    student.costs["multiply_adds"],
                    {row[key]: Accuracy(row["correct"], row["images"]) for row in kept[over]},
                )
                for student, kept in found
            ]
            for over, key in (("radii", "eps"), ("steps", "steps"))
        }
        attack = found[0][1]["attack"]
        norm, eps = attack["threat"]["norm"], attack["threat"]["eps"]
        body = html.lines([f"{student.name}: {text}." for student, kept in found for text in kept["findings"]])
        body += self.plots.add(figures.radii_plot(curves["radii"], attack["name"], norm, eps), "curves-radii")
        return body + self.plots.add(figures.steps_plot(curves["steps"], norm, eps), "curves-steps")

    def corruptions(self) -> str:
        """Accuracy under common corruptions, as `evaluate` measured it."""
        found = self._further("corruptions")
        plot = figures.corruptions_plot({student.name: kept for student, kept in found})
        note = html.paragraph(f"As 'proard evaluate' measured: {found[0][1]['note']}.")
        return note + self.plots.add(plot, "corruptions")

    def _further(self, name: str) -> list[tuple[Student, dict[str, Any]]]:
        """What `evaluate` kept of some students, from the smallest to the largest."""
        folders = [(student, student.folder) for student in self.contents.students if student.folder is not None]
        kept = [(student, read_further(folder)) for student, folder in folders]
        found = [(student, parts[name]) for student, parts in kept if name in parts]
        if not found:
            raise UserError(f"no {name}.json of a student yet; 'proard evaluate {self.run.path} --{name}' makes it")
        most = len(SERIES)
        return found if len(found) <= most else [found[i * (len(found) - 1) // (most - 1)] for i in range(most)]

    def predictor(self) -> str:
        """How far the search's predictions can be trusted."""
        if not self.contents.is_supernet:
            raise UserError("this run trained one network, so nothing was searched")
        _, report = self.contents.front
        if "predictor" not in report:
            return html.paragraph(f"All {report['labels']} students were measured, or too few to predict others.")
        rows = comparison_rows(report)
        body = html.paragraph(
            f"{report['labels']} students were measured on validation images. "
            "Kendall's tau (1 ranks all pairs rightly, 0 is chance) and mean absolute error in points are of students "
            "that a predictor had not seen; * is used. What is chosen is measured, never predicted."
        )
        body += html.table(list(rows[0]), [list(row.values()) for row in rows])
        checked = verified_in_words(report)
        return body + (html.paragraph(f"Checked: {checked}.") if checked else "")

    def latency(self) -> str:
        """What was measured of latency, and how well it predicts that of whole students."""
        table = self.contents.latency()
        body = html.facts(
            [
                ("device", table.device),
                ("run as", f"{table.runtime}, {table.dtype}, {table.threads} thread(s), batch size {table.batch_size}"),
                ("blocks", f"{len(table.blocks)} measured{', others interpolated' if table.interpolate else ''}"),
            ]
        )
        if table.students:
            return body + self.plots.add(figures.latency_plot(table), "latency")
        slowest = sorted(table.blocks.items(), key=lambda item: -item[1].median)[:10]
        return body + html.table(["block", "median"], [[key, short_time(entry.median)] for key, entry in slowest])

    def energy(self) -> str:
        """What the commands used, and what one training for all saves."""
        return energy(self.contents, self.plots)

    def setup(self) -> str:
        """The resolved configuration and the environment."""
        rows = [(key, str(value)) for key, value in self._environment().items()]
        environment = html.facts(rows) if rows else html.paragraph("environment.json is missing", "missing")
        text = self.run.config_file.read_text(encoding="utf-8")
        return html.details("config.yaml, resolved", html.preformatted(text)) + html.details("environment", environment)


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
