"""What a run's page says of it: settings, rows and addresses in; descriptions in Markdown out."""

from collections.abc import Mapping, Sequence
from typing import Any

from tune.names import PastSweep
from tune.records.ranking import Row
from tune.records.table import balance_text
from tune.records.views import run_path

MOST_ROWS = 24  # a description has room for about fifty
HEADINGS = ("trial", "balance", "subject", "prompt", "a1", "a2", "lr", "on", "step", "parameters")


def started_note(key: str, settings: Mapping[str, Any], sweep: str) -> str:
    """A trial's description while it has no score.

    Args:
        sweep: the address of the sweep's page.
    """
    return f"{_trial(key, settings)}\n\nNot scored yet.\n\n[The whole sweep]({sweep})"


def trial_note(row: Row, experiment_id: str, sweep: str) -> str:
    """A trial's description: what it is, how it ended, where to look on."""
    images = run_path(experiment_id, row.run_id, "/model-metrics")
    files = run_path(experiment_id, row.run_id, "/artifacts")
    return "\n\n".join(
        [
            _trial(row.key, vars(row)),
            _outcome(row),
            f"[Curves and images over steps]({images}) · [adapter]({files}) · "
            f"[the whole sweep]({sweep})",
        ]
    )


def sweep_note(
    sweep: PastSweep, rows: Sequence[Row], champion: Row | None, links: Mapping[str, str]
) -> str:
    """A sweep's description: what it is, links, the command that exports its best, its table.

    Args:
        links: addresses by what they show.
    """
    said = f"{len(rows)} trials, none finished with a score yet."
    if champion is not None:
        said = f"{len(rows)} trials, the best is trial {champion.key}. {_outcome(champion)}"
    lines = [
        f"Sweep **{_plain(sweep.name)}** for the best adapter of {_plain(sweep.subject)}: {said}",
        " · ".join(f"[{what}]({path})" for what, path in links.items()),
    ]
    if champion is not None:
        lines += [f'Export: `krona export --subject "{sweep.subject}" --format kohya`']
    if rows:
        lines += [markdown_table(HEADINGS, map(_cells, rows[:MOST_ROWS]))]
    if len(rows) > MOST_ROWS:
        lines += [f"{len(rows) - MOST_ROWS} more in the view of trials."]
    return "\n\n".join(lines)


def markdown_table(headings: Sequence[str], rows: Any) -> str:
    """Rows of text as a table; what would end a cell is escaped."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(map(_plain, line))} |" for line in lines)


def _trial(key: str, settings: Mapping[str, Any]) -> str:
    on = " ".join(settings["targets"])
    return (
        f"Trial **{key}**: A is {settings['a1']} × {settings['a2']} on {on}, "
        f"learning rate {settings['learning_rate']:.1e}, {settings['steps']} steps, "
        f"{settings['init']} start."
    )


def _outcome(row: Row) -> str:
    if row.failure:
        return f"It {row.state}: {_plain(row.failure)}"
    if row.balance is None:
        return f"It is {row.state}, without a score."
    parts = [f"{name} {row.shown[name]:.3f}" for name in ("subject", "prompt") if _has(row, name)]
    size = "" if row.num_params is None else f", {row.num_params:,} parameters"
    of = f" (of {', '.join(parts)})" if parts else ""
    at = "" if row.best_step is None else f" at step {row.best_step}"
    once = "" if row.interval else " at a single look"
    return f"Balance **{balance_text(row).lstrip('~')}**{once}{at}{of}, {row.state}{size}."


def _cells(row: Row) -> list[str]:
    scores = [
        f"{row.shown[name]:.3f}" if _has(row, name) else "–" for name in ("subject", "prompt")
    ]
    return [
        row.key + (" (paper's default)" if row.is_paper_default else ""),
        row.state if row.balance is None else balance_text(row),
        *scores,
        str(row.a1),
        str(row.a2),
        f"{row.learning_rate:.1e}",
        row.targets,
        "–" if row.best_step is None else str(row.best_step),
        "–" if row.num_params is None else f"{row.num_params:,}",
    ]


def _has(row: Row, name: str) -> bool:
    return name in row.shown


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
