"""`krona train`: one adapter with given settings, trained and scored in this process."""

from collections.abc import Mapping
from pathlib import Path

from tune.config.trial import ExperimentConfig, TrialSettings
from tune.names import BEST, BEST_STEP, SCORES


def train(
    experiment: ExperimentConfig,
    trial: TrialSettings,
    *,
    output: Path = Path("krona-runs/train"),
    resume: bool = False,
) -> None:
    """Train and score one adapter; --resume continues an interrupted run bit for bit.

    Args:
        output: Folder that gets adapter.safetensors, of the best evaluation, state.safetensors, of
            the last, and the last samples.
        resume: Continue from the state in the output folder.
    """
    from rich.console import Console
    from rich.progress import Progress

    from tune.trials.checks import check_experiment, check_folder

    check_folder(output, "--output")
    check_experiment(experiment)

    from tune.trials.experiment import ADAPTER_FILE, Report, Resident, run_experiment

    console = Console()
    with console.status("loading the checkpoint and calibrating the scorer"):
        resident = Resident.load(experiment, trial)
    settings = vars(trial)
    last = Report(step=0, metrics={})
    with Progress(console=console) as progress:
        task = progress.add_task(f"training {trial.kind}", total=trial.steps)
        for report in run_experiment(resident, settings, output, resume=resume):
            progress.update(task, completed=report.step)
            if report.is_evaluation:
                last = report
                console.print(_line(report.step, report.metrics))
    for key, image in last.images:
        image.save(output / f"{key}.png")
    best = f"balance {last.metrics[BEST]:.3f} at step {last.metrics[BEST_STEP]:.0f}"
    num_params = f"{last.metrics['num_params']:,} parameters"
    console.print(f"adapter: {output / ADAPTER_FILE}  ({best}, {num_params})")


def _line(step: int, metrics: Mapping[str, float]) -> str:
    names = ("train_loss", "fixed_loss", *SCORES)
    shown = [f"{name} {metrics[name]:.3f}" for name in names if name in metrics]
    return f"step {step:>5}  " + "  ".join(shown)
