"""The answer at the top: a sweep's findings in; which adapter, how good, how sure, in words out."""

from collections import Counter
from dataclasses import dataclass

from tune.report.gather import CONFIRMED, HALF_WIDTH, NUM_CONFIRMED, Findings, Trial


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
    half = champion.metrics.get(HALF_WIDTH)
    return Answer(
        champion=champion,
        balance=number(_value(champion)),
        interval="" if half is None else f"± {half:.3f}",
        subject=number(champion.at_score("subject")),
        prompt=number(champion.at_score("prompt")),
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


def _value(trial: Trial) -> float | None:
    """The balance that a trial is judged by: measured anew if it was confirmed."""
    return trial.metrics.get(CONFIRMED, trial.balance)


def _confidence(findings: Findings, champion: Trial) -> str:
    half, images = champion.metrics.get(HALF_WIDTH), champion.metrics.get(NUM_CONFIRMED)
    if half is not None:
        value = _value(champion) or 0.0
        of = "" if images is None else f" over {int(images):,} images"
        return f"Measured again{of}: between {value - half:.3f} and {value + half:.3f}."
    num = len(findings.prompts) * int(champion.facts.params.get("images_per_prompt", "1"))
    looked = f" at {num} images" if num else ""
    return f"A single look{looked}: no interval. Another seed would give another number."


def _margin(findings: Findings, champion: Trial) -> str:
    others = [t for t in findings.trials if t is not champion and t.row.state == "finished"]
    rival = max(
        (trial for trial in others if _value(trial) is not None),
        key=lambda trial: _value(trial) or 0.0,
        default=None,
    )
    if rival is None:
        return "No other trial ran to its end, so there is nothing to compare it with."
    ahead = (_value(champion) or 0.0) - (_value(rival) or 0.0)
    said = f"Next is trial {rival.key}, {ahead:.3f} behind"
    halves = [trial.metrics.get(HALF_WIDTH) for trial in (champion, rival)]
    if any(half is None for half in halves):
        return f"{said}; compare their pictures below before you trust a small lead."
    if ahead > sum(half or 0.0 for half in halves):
        return f"{said}: their intervals do not touch."
    return f"{said}: their intervals overlap, so either may be the better one."


def _default(findings: Findings, champion: Trial) -> str:
    default = next((t for t in findings.trials if t.row.is_paper_default), None)
    if default is None or default.balance is None:
        return ""
    if default is champion:
        return "It is the paper's default: no other setting was better."
    steps = default.row.steps
    return (
        f"The paper's default had {default.balance:.3f} after {steps} steps (trial {default.key})."
    )
