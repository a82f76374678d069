"""The section on energy: what the commands used, and one training instead of N."""

from __future__ import annotations

from proard.common import html
from proard.common.errors import UserError
from proard.report import figures
from proard.report.plots import Plots
from proard.report.run_contents import RunContents
from proard.runs.savings import HEAD, NOT_COUNTED, Savings, compared, savings, thousandths


def energy(contents: RunContents, plots: Plots) -> str:
    """The section in HTML.

    Raises:
        UserError: there is no ``energy.json``, or it is damaged.
    """
    run = contents.run
    values = contents.read(run.energy.name, "proard train")
    try:
        commands, method = values["commands"], str(values["method"])
        rows = [
            [
                str(command["command"]),
                str(command["when"])[:16].replace("T", " "),
                f"{command['seconds']:.0f}",
                thousandths(command["kwh"]),
                thousandths(command["kg_co2eq"]),
                str(command["country"] or "world average"),
            ]
            for command in commands
        ]
        totals = [f"{values['seconds']:.0f}", thousandths(values["kwh"]), thousandths(values["kg_co2eq"])]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run.energy.name} is damaged; 'proard train' writes it anew") from error
    body = html.table(
        ["command", "when (UTC)", "seconds", "Wh", "g CO2eq", "electricity of"], [*rows, ["all", "", *totals, ""]]
    )
    body += html.facts([("how measured", str(values["how_measured"])), ("method", method)])
    body += html.paragraph(
        "Figures marked as estimated come from a model of the hardware, not from a meter. " + NOT_COUNTED, "soft"
    )
    return body + "<h3>One training instead of N</h3>" + _savings(contents, plots)


def _savings(contents: RunContents, plots: Plots) -> str:
    if not contents.is_supernet:
        return html.paragraph("this run trained one network; a supernet's run compares itself", "missing")
    try:
        baseline = contents.read("baseline.json", f"proard baseline --flops {contents.typical_budget()}")
        rows = [compared(row) for row in baseline["comparisons"]]
        body = html.paragraph(
            "The same architecture, images, teacher, objective and epochs, trained alone from random weights. Test "
            "accuracy, clean / robust; the difference is of robust accuracy, in points."
        ) + html.table(list(rows[0]), [list(row.values()) for row in rows])
        found = savings(contents.run, baseline)
    except UserError as error:
        return html.paragraph(str(error), "missing")
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError):
        return html.paragraph("baseline.json is damaged; 'proard baseline' writes it again", "missing")
    if found is None:
        return body + html.paragraph("What the one training took is not on record (no training in energy.json).")
    return body + _both_ways(found, plots)


def _both_ways(found: Savings, plots: Plots) -> str:
    assumptions = "".join(html.paragraph(sentence, "soft") for sentence in found.assumptions)
    return (
        html.paragraph(found.conclusion)
        + plots.add(figures.savings_plot(found), "savings")
        + html.table(HEAD, found.rows())
        + html.paragraph("What this assumes:")
        + assumptions
    )
