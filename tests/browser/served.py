"""A sweep as a search leaves it in MLflow, written by the tracker: a store's URI in."""

from PIL import Image

from tune.names import BEST_STEP, CONFIRMED, HALF_WIDTH, NUM_CONFIRMED, PastSweep, best_scores
from tune.records.ranking import rank, record_ranks
from tune.records.shown import show
from tune.records.tracking import Tracker
from tune.records.views import run_path

BALANCES = {"000": 0.113, "001": 0.391, "002": 0.666, "003": 0.541}
CONFIRMED_BALANCES = {"002": 0.602, "003": 0.611}  # finalists, who change places
STEPS = (50, 100)
SETTINGS = {"a1": 64, "a2": 8, "learning_rate": 1e-3, "steps": 100, "targets": "qkvo"}
SETTINGS |= {"init": "normal", "seed": 0}


def record_sweep(uri: str) -> str:
    """Record a finished sweep of four trials. Returns: the address of its run below the server."""
    tracker = Tracker(uri)
    params = {"subject": "duck", "resolution": 64}
    run = tracker.start_sweep("duck", "shown", params=params, tags={})
    for key, balance in BALANCES.items():
        trial = tracker.trial_run(run, key, SETTINGS)
        for step in STEPS:
            reached = balance * step / STEPS[-1]
            scores = {"balance": reached, "subject": reached, "prompt": reached}
            picture = Image.new("RGB", (64, 64), (step, 2 * step, 0))
            scores |= best_scores(scores) | {BEST_STEP: step, "num_params": 712}
            tracker.log_report(trial, step, scores, [("a_duck", picture)])
        if key in CONFIRMED_BALANCES:
            told = {CONFIRMED: CONFIRMED_BALANCES[key], HALF_WIDTH: 0.02, NUM_CONFIRMED: 96}
            tracker.log_report(trial, STEPS[-1], told)
        tracker.end(trial, "finished")
    tracker.end(run.parent_id, "finished")
    sweep = PastSweep(
        run_id=run.parent_id, experiment_id=run.experiment_id, name="shown", subject="duck"
    )
    show(tracker, sweep, record_ranks(tracker, rank(tracker, run.parent_id)))
    return run_path(run.experiment_id, run.parent_id)
