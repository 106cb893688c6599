"""What MLflow's pages are told: views that fit into tags, links, descriptions, names of rows."""

import base64
import json
import zlib
from pathlib import Path

from tune.names import PastSweep
from tune.records.adapted import short_names
from tune.records.notes import markdown_table, sweep_note, trial_note
from tune.records.ranking import Row
from tune.records.table import ranking_json
from tune.records.views import MAX_VALUE, champion_view, server_url, trials_view

SWEEP = PastSweep(run_id="0123456789abcdef", experiment_id="7", name="one", subject="duck")


def row(key: str, balance: float, **changes: object) -> Row:
    values = {"run_id": f"run-{key}", "key": key, "state": "finished", "a1": 64, "a2": 8}
    values |= {"learning_rate": 1e-3, "steps": 100, "best_step": 75, "targets": "qkvo"}
    values |= {"init": "normal", "scores": {"balance": balance, "subject": balance}}
    values |= {"num_params": 712, "is_paper_default": False, "failure": None}
    return Row(**(values | changes))  # type: ignore[arg-type]


def test_a_view_opens_the_sweeps_trials_best_first_and_names_no_filter_in_its_link() -> None:
    view = trials_view("one", SWEEP.run_id)
    name, value = view.tag()
    assert name == f"mlflow.sharedViewState.{view.key}"
    packed = json.loads(value)["state"].removeprefix("deflate;")
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert state["searchFilter"] == f"tags.`mlflow.parentRunId` = '{SWEEP.run_id}'"
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`best_balance`", False)
    assert state["selectedColumns"][:2] == ["metrics.`rank`", "metrics.`confirmed_balance`"]
    link = view.path("7")
    assert link.startswith("#/experiments/7/runs?workflowType=machine_learning")
    assert "searchFilter" not in link


def test_a_view_of_many_long_prompts_fits_into_a_tag() -> None:
    keys = [f"{i}_{'very_' * 20}" for i in range(200)]
    _, value = champion_view("one", SWEEP.run_id, "run", keys, step=75).tag()
    assert len(value) <= MAX_VALUE


def test_pages_are_at_the_store_that_is_a_server_else_where_krona_ui_serves() -> None:
    assert server_url("http://head:5000/") == "http://head:5000"
    assert server_url("sqlite:///mlflow.db") == "http://127.0.0.1:5000"


def test_descriptions_say_what_it_is_how_good_and_what_next() -> None:
    champion, failed = row("003", 0.7), row("004", 0.1, state="failed", failure="out | of\nluck")
    note = trial_note(champion, "7", "#sweep")
    assert "A is 64 × 8 on q k v o, learning rate 1.0e-03" in note
    assert "Balance **0.700** at a single look at step 75" in note
    again = row("005", 0.8, confirmed={"subject": 0.6}, interval=(0.64, 0.02))
    assert "Balance **0.640 ± 0.020** at step 75 (of subject 0.600)" in trial_note(
        again, "7", "#sweep"
    )
    assert "It failed: out \\| of luck" in trial_note(failed, "7", "#sweep")
    said = sweep_note(SWEEP, [champion, failed], champion, {"report": "#report"})
    assert "the best is trial 003" in said
    assert '`krona export --subject "duck" --format kohya`' in said
    assert "[report](#report)" in said


def test_cells_of_a_table_cannot_break_it() -> None:
    assert markdown_table(["a"], [["x|y\nz"]]).splitlines() == ["| a |", "| --- |", "| x\\|y z |"]


def test_the_ranking_for_scripts_has_every_trial_in_order() -> None:
    told = json.loads(ranking_json(SWEEP, [row("003", 0.7), row("001", 0.2)]))
    assert (told["sweep"], told["best_run"]) == ("one", "run-003")
    assert [(t["key"], t["balance"], t["best_step"]) for t in told["trials"]] == [
        ("003", 0.7, 75),
        ("001", 0.2, 75),
    ]


def test_adapters_are_told_apart_by_as_few_parts_as_do(tmp_path: Path) -> None:
    paths = [tmp_path / "one" / "trials" / key / "adapter.safetensors" for key in ("001", "002")]
    paths.append(tmp_path / "two" / "trials" / "001" / "adapter.safetensors")
    for path in paths:
        path.parent.mkdir(parents=True)
        path.touch()
    assert short_names([str(path) for path in paths[:2]]) == ["001", "002"]
    assert short_names([str(path) for path in paths]) == ["one/001", "002", "two/001"]
