"""A report in; the Markdown that shows it out: goals first, then each part's tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gpu_parts.report import GOALS, Goal, Report

_NUM_DIGITS = 3


def to_markdown(report: Report, names: Iterable[str], *, is_toy: bool = False) -> str:
    """The whole text; `names` are all parts, in the order that they are shown."""
    about = report.about
    versions = ", ".join(f"{name} {told or 'absent'}" for name, told in about["versions"].items())
    blocks = [f"# {about['hardware']}, {about['date']}", versions]
    if is_toy:
        blocks.append("A rehearsal at toy size: these numbers say nothing of the goals.")
    blocks += _goals(report)
    for name in names:
        blocks += _part(name, report.parts.get(name))
    return "\n\n".join(blocks) + "\n"


def _goals(report: Report) -> list[str]:
    rows = [(goal.part, goal.name, *_standing(goal, report)) for goal in GOALS]
    return ["## Goals", _table(("part", "what", "value", "goal", ""), rows)]


def _standing(goal: Goal, report: Report) -> tuple[str, str, str]:
    """The value, the limit, and what that makes."""
    limit = f"{'≥' if goal.is_least else '≤'} {goal.limit:g}"
    value = report.parts.get(goal.part, {}).get("goals", {}).get(goal.name)
    if value is None:
        return "", limit, "not measured"
    return _told(value), limit, "met" if goal.is_met(value) else "**missed**"


def _part(name: str, part: Mapping[str, Any] | None) -> list[str]:
    if part is None:
        return [f"## {name}", "Not run."]
    told = f"{part['status']}, {part['seconds']:.0f} s"
    blocks = [f"## {name}", f"{told}: {part['message']}" if part["message"] else f"{told}."]
    blocks += part["remarks"]
    for title in dict.fromkeys(row["table"] for row in part["rows"]):
        rows = [row for row in part["rows"] if row["table"] == title]
        columns = list(dict.fromkeys(column for row in rows for column in row["values"]))
        cells = [(row["line"], *(_told(row["values"].get(c, "")) for c in columns)) for row in rows]
        blocks.append(_table((title, *columns), cells))
    return blocks


def _told(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.{_NUM_DIGITS}g}"
    return " ".join(str(value).split()).replace("|", "\\|")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
