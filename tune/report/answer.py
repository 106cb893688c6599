"""The answer at the top: a sweep's findings in; which adapter, how good, how sure, in words out."""

from collections import Counter
from dataclasses import dataclass

from tune.names import BEHIND, BEHIND_HALF_WIDTH, NUM_CONFIRMED
from tune.records.ranking import best
from tune.report.gather import Findings, Trial


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What to say of the champion; `interval` is empty where it was looked at once."""

    champion: Trial
    balance: str
    interval: str
    subject: str
    prompt: str
    sure: tuple[str, ...]
    default: str


def make_answer(findings: Findings) -> Answer | None:
    """The answer, or None where no trial ran to its end with a score."""
    champion = findings.champion
    if champion is None:
        return None
    interval = champion.row.interval
    return Answer(
        champion=champion,
        balance=number(champion.row.balance),
        interval=f"± {interval[1]:.3f}" if interval else "",
        subject=number(champion.shown("subject")),
        prompt=number(champion.shown("prompt")),
        sure=(_confidence(findings, champion), _margin(findings, champion)),
        default=_default(findings, champion),
    )


def counts(findings: Findings) -> str:
    """How many trials there were, and how they ended."""
    ends = Counter(trial.row.state for trial in findings.trials)
    said = ", ".join(f"{num} {state}" for state, num in ends.most_common())
    num = len(findings.trials)
    return f"{num} trial{'s' * (num != 1)}: {said}" if findings.trials else "no trials"


def number(value: float | None) -> str:
    """A score as it is shown."""
    return "–" if value is None else f"{value:.3f}"


def _confidence(findings: Findings, champion: Trial) -> str:
    row = champion.row
    if row.interval is None:
        num = len(findings.prompts) * int(champion.facts.params.get("images_per_prompt", "1"))
        looked = f" at {num} images" if num else ""
        return f"A single look{looked}: no interval. Another seed would give another number."
    value, half = row.interval
    over = f"{int(champion.metrics.get(NUM_CONFIRMED, 0)):,} images of other noise"
    if row.num_seeds:
        over = f"trainings with {row.num_seeds} further seeds"
    return f"Measured again over {over}: between {value - half:.3f} and {value + half:.3f} (95 %)."


def _margin(findings: Findings, champion: Trial) -> str:
    rival = best([trial.row for trial in findings.trials if trial is not champion])
    if rival is None or rival.balance is None or champion.row.balance is None:
        return "No other trial ran to its end, so there is nothing to compare it with."
    metrics = next(trial.metrics for trial in findings.trials if trial.row == rival)
    ahead = champion.row.balance - rival.balance
    if BEHIND not in metrics or rival.num_seeds:
        said = f"Next is trial {rival.key}, {ahead:.3f} behind"
        return f"{said}; compare their pictures below before you trust a small lead."
    behind, half = metrics[BEHIND], metrics[BEHIND_HALF_WIDTH]
    said = f"Next is trial {rival.key}, {behind:.3f} ± {half:.3f} behind on the same noise"
    sure = behind > half
    return f"{said}: {'it is worse' if sure else 'either may be the better one'}."


def _default(findings: Findings, champion: Trial) -> str:
    default = next((t for t in findings.trials if t.row.is_paper_default), None)
    if default is None or default.row.balance is None:
        return ""
    if default is champion:
        return "It is the paper's default: no other setting was better."
    steps = default.row.steps
    return (
        f"The paper's default had {default.row.balance:.3f} after {steps} steps "
        f"(trial {default.key})."
    )
