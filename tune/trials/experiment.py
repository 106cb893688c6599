"""Trials, start to end: resident base and photos plus settings in, a stream of reports out.

`krona train` runs it in the terminal, a slot runs it for the search; neither knows the other.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from evals.scorer import Evaluation, photo_images
from evals.sheet import contact_sheet
from krona.adapter.inject import make_adapter
from krona.diffusion.sample import image_does_not_fit
from krona.exchange.adapter_file import load_adapter, save_adapter
from krona.exchange.attach import attach
from krona.train.data import prepare_data
from krona.train.loop import advance
from krona.train.run import Record, Run
from krona.train.state import TrainState, averaged
from tune.config.trial import TrialSettings
from tune.names import BEST, BEST_STEP, METRIC, SCORE_S, TRAIN_S, best_scores, image_key
from tune.trials.resident import Resident as Resident  # a slot loads it by the experiment's name
from tune.trials.spent import Spent, timed

ADAPTER_FILE = "adapter.safetensors"
STATE_FILE = "state.safetensors"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a trial says at a step: metrics always, images and scores at evaluations."""

    step: int
    metrics: dict[str, float]
    images: tuple[tuple[str, Image.Image], ...] = ()
    is_evaluation: bool = False
    is_best: bool = False
    """Whether no evaluation before was better: its adapter is kept."""
    is_last: bool = False
    """Whether the trial ends here: with its steps, or its patience."""


def best_sheet(
    resident: Resident, trials: Sequence[tuple[str, Mapping[str, Image.Image]]]
) -> Image.Image:
    """Draw the photos, the base and each trial, a row each, equal in prompts and noise.

    Args:
        trials: (label, images as in its last report) of each row after the first two.
    """
    plain = dict(_keyed_images(resident.scorer.evaluate(resident.base)))
    rows = [("photos", photo_images(resident.photos))]
    for label, images in (("base, no adapter", plain), *trials):
        rows.append((label, [images[key] for key in plain]))
    return contact_sheet(rows, columns=list(dict.fromkeys(resident.subject.instance_prompts)))


def look_afresh(
    resident: Resident, adapter: Path, *, first: int, num_per_prompt: int
) -> dict[str, list[list[float]]]:
    """Score a file's adapter on images of noise that no trial was judged by.

    Args:
        first: number of each prompt's first image.
    Returns: the calibrated `subject` and `prompt` of each image, a list for each prompt.
    """
    attached = attach(resident.base, adapter)
    try:
        values = resident.scorer.look_afresh(
            resident.base, first=first, num_per_prompt=num_per_prompt
        )
    finally:
        attached.eject()
    return {name: of_prompts.tolist() for name, of_prompts in values.items()}


@dataclass(kw_only=True)
class Trial:
    """One adapter on its way from first to last step; the base holds it only while it advances."""

    settings: TrialSettings
    run: Run
    workdir: Path
    spent: Spent
    best: tuple[float, int] | None = None
    """The best balance of its evaluations, and the step where it was."""
    untold: Record | Exception | None = None
    """What its last steps gave, until it is reported."""


def start_trial(
    resident: Resident, settings: Mapping[str, Any], workdir: Path, *, resume: bool = False
) -> Trial:
    """Make a trial that stands before its first step, or at its last saved one.

    Args:
        settings: fields of TrialSettings.
        workdir: gets state.safetensors and spent.json at each evaluation, adapter.safetensors at
            the best.
        resume: continue from workdir's state, if there is one; the result is bit-equal.
    Raises: KronaError for bad settings.
    """
    spent = Spent.load(workdir) if resume else Spent()
    trial = TrialSettings.from_dict(settings)
    config = resident.train_config(trial)
    data = prepare_data(resident.base, resident.subject, resident.photos, config, resident.cache)
    adapter = make_adapter(resident.base.network, config.adapter, seed=trial.seed)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / STATE_FILE
    is_resumed = resume and path.exists()
    state = TrainState.load(path, adapter, config) if is_resumed else TrainState(adapter, config)
    best = _kept(workdir / ADAPTER_FILE) if is_resumed else None
    run = Run(data, state, config)
    return Trial(settings=trial, run=run, workdir=workdir, best=best, spent=spent)


def _kept(path: Path) -> tuple[float, int] | None:
    """What an adapter was kept for: its balance and step."""
    if not path.exists():
        return None
    _, manifest = load_adapter(path)
    return None if manifest.balance is None else (manifest.balance, manifest.steps)


def advance_trials(resident: Resident, trials: Sequence[Trial]) -> list[Report | Exception | None]:
    """Train trials together up to the next report of any; evaluations carry scores and images.

    A trial that was resumed at its last step is only scored, so that its end is told; so is one
    whose evaluation failed in the call before.
    Returns: for each trial its report, or what ended it, or None if it has nothing to say yet.
    Raises: what concerns them all, such as torch.OutOfMemoryError, or DoesNotFitError if there is
        but one; none has then lost a report.
    """
    is_open = [trial for trial in trials if trial.untold is None and not trial.run.is_done]
    with timed(TRAIN_S, [trial.spent for trial in is_open]):
        records = advance(resident.base, [trial.run for trial in is_open]) if is_open else []
    for trial, record in zip(is_open, records, strict=True):
        trial.untold = record
    due = [trial for trial in trials if _is_evaluated(resident, trial)]
    try:
        with timed(SCORE_S, [trial.spent for trial in due]):
            evaluations = _evaluate(resident, due)
    except torch.OutOfMemoryError as error:
        if len(trials) > 1:
            raise
        raise image_does_not_fit(resident.base, error) from error
    return [_outcome(resident, trial, evaluations.get(id(trial))) for trial in trials]


def run_experiment(
    resident: Resident, settings: Mapping[str, Any], workdir: Path, *, resume: bool = False
) -> Iterator[Report]:
    """Train and score one adapter by itself; the arguments are start_trial()'s.

    Yields: a Report for each record of the training loop.
    Raises: KronaError for bad settings, NonFiniteLossError if training diverges.
    """
    trial = start_trial(resident, settings, workdir, resume=resume)
    is_done = False
    while not is_done:
        (outcome,) = advance_trials(resident, [trial])
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is not None:
            yield outcome
            is_done = outcome.is_last


def _is_evaluated(resident: Resident, trial: Trial) -> bool:
    is_at_evaluation = trial.run.state.step % resident.eval_every(trial.settings) == 0
    return trial.run.is_done or (isinstance(trial.untold, Record) and is_at_evaluation)


def _evaluate(resident: Resident, trials: Sequence[Trial]) -> dict[int, Evaluation]:
    """The evaluation of each trial by its id(), sampled together where memory allows it."""
    adapters = [trial.run.state.adapter for trial in trials]
    if not adapters:
        return {}
    try:
        with averaged([trial.run.state for trial in trials]):
            evaluations = resident.scorer.evaluate_each(resident.base, adapters)
        return {id(trial): e for trial, e in zip(trials, evaluations, strict=True)}
    except torch.OutOfMemoryError:
        if len(trials) == 1:
            raise
    return {key: e for t in trials for key, e in _evaluate(resident, [t]).items()}


def _outcome(
    resident: Resident, trial: Trial, evaluation: Evaluation | None
) -> Report | Exception | None:
    """Tell what is untold; at an evaluation also save the state, and the adapter if it is best."""
    record, trial.untold = trial.untold, None
    if isinstance(record, Exception):
        return record
    metrics = trial.spent.metrics() | ({} if record is None else _metrics(record))
    if evaluation is None:
        return None if record is None else Report(step=trial.run.state.step, metrics=metrics)
    try:
        return _evaluated(resident, trial, metrics, evaluation)
    except Exception as error:
        return error


def _evaluated(
    resident: Resident, trial: Trial, metrics: dict[str, float], evaluation: Evaluation
) -> Report:
    """The report of an evaluation, once state and best adapter are saved."""
    state, scores = trial.run.state, evaluation.metrics()
    balance, step = scores[METRIC], state.step
    best = trial.best
    is_best = best is None or balance >= best[0]
    if best is None or is_best:
        manifest = resident.manifest(trial.settings, step=step, balance=balance)
        with averaged([state]):
            save_adapter(trial.workdir / ADAPTER_FILE, state.adapter.state_dict(), manifest)
        trial.best = best = balance, step
        scores |= best_scores(scores)
    state.save(trial.workdir / STATE_FILE)
    trial.spent.save(trial.workdir)
    scores |= dict(zip((BEST, BEST_STEP), best, strict=True))
    return Report(
        step=step,
        metrics=metrics | scores | {"num_params": state.adapter.num_params},
        images=_keyed_images(evaluation),
        is_evaluation=True,
        is_best=is_best,
        is_last=trial.run.is_done or resident.is_out_of_patience(step - best[1], trial.settings),
    )


def _metrics(record: Record) -> dict[str, float]:
    return {name: value for name, value in asdict(record).items() if name != "step"}


def _keyed_images(evaluation: Evaluation) -> tuple[tuple[str, Image.Image], ...]:
    """The first image of each prompt under a key that a tracker accepts."""
    first = dict(reversed(list(zip(evaluation.prompts, evaluation.images, strict=True))))
    ordered = dict.fromkeys(evaluation.prompts)
    return tuple((image_key(prompt), first[prompt]) for prompt in ordered)
