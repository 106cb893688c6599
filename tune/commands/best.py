"""`krona best`: the ranking of a sweep, from MLflow."""


def best(
    *, subject: str | None = None, json: bool = False, tracking_uri: str | None = None
) -> None:
    """Print the trials of a sweep, best first, with their scores.

    Args:
        subject: Whose newest sweep to show. Unless given: the newest sweep of all.
        json: Print JSON for scripts: each trial's settings, scores, state and run.
        tracking_uri: MLflow store. Unless given: $MLFLOW_TRACKING_URI or sqlite:///mlflow.db.
    """
    from tune.names import existing_store
    from tune.records.ranking import best as best_of
    from tune.records.ranking import rank
    from tune.records.table import ranking_json, ranking_table, table_console
    from tune.records.tracking import Tracker

    tracker = Tracker(existing_store(tracking_uri))
    sweep = tracker.newest_sweep(subject)
    rows = rank(tracker, sweep.run_id)
    if json:
        print(ranking_json(sweep, rows))
        return
    console = table_console()
    console.print(ranking_table(rows, title=f"sweep {sweep.name} of {sweep.subject}"))
    champion = best_of(rows)
    if champion is not None:
        console.print(f"best run: {champion.run_id}", highlight=False)
