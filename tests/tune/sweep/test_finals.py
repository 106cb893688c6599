"""The finalists' round: who is drawn, until when, and what whole sweeps make of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from rich.console import Console
from tiny import tiny_config

from evals.interval import Looks
from tune.config.sweep import SweepConfig
from tune.names import PARENT_TAG
from tune.records.ranking import Row, _order
from tune.records.table import ranking_table
from tune.sweep.finals import finalists, race
from tune.sweep.run import SweepResult, run_sweep

NUM_PROMPTS = 10


def row(key: str, balance: float | None, *, state: str = "finished", is_default=False) -> Row:
    return Row(
        run_id=key,
        key=key,
        state=state,
        a1=64,
        a2=8,
        learning_rate=1e-3,
        steps=100,
        best_step=50,
        targets="qkvo",
        init="normal",
        scores={} if balance is None else {"balance": balance},
        num_params=712,
        is_paper_default=is_default,
        failure=None,
    )


class Gallery:
    """Draws images of known mean and spread, equal in noise; keeps what was asked for."""

    def __init__(self, means: dict[str, float], *, spread: float) -> None:
        self.means, self.spread = means, spread
        self.asked: list[tuple[tuple[str, ...], int, int]] = []

    def draw(self, runs, first, num):
        self.asked.append((tuple(runs), first, num))
        noise = np.random.default_rng(first).standard_normal((NUM_PROMPTS, num))
        values = {run: self.means[run] + self.spread * noise for run in runs if run in self.means}
        return {run: Looks(subject=v, prompt=v) for run, v in values.items()}


def test_the_best_single_looks_and_the_papers_default_are_finalists():
    rows = [row("a", 0.5), row("b", 0.7, state="pruned"), row("c", 0.9, state="failed")]
    rows += [row("d", None), row("e", 0.6), row("f", 0.1, is_default=True)]
    assert [r.key for r in finalists(rows, 2)] == ["b", "e", "f"]
    assert [r.key for r in finalists(rows, 4)] == ["b", "e", "a", "f"]
    assert finalists(rows, 0) == []


def test_a_mean_over_seeds_is_not_compared_with_one_seed_of_another_trial():
    seeds = replace(row("a", 0.7), interval=(0.6, 0.02), num_seeds=2)
    images = replace(row("b", 0.7), interval=(0.65, 0.02))
    ordered = sorted([row("c", 0.9), images, seeds], key=_order)
    assert [r.key for r in ordered] == ["a", "b", "c"]


def test_images_are_drawn_until_the_interval_is_narrow_enough():
    gallery = Gallery({"a": 0.5, "b": 0.5}, spread=0.1)
    finals = race(["a", "b"], gallery.draw, max_images=10_000)
    # 1.96 · 0.1 / √n = 0.02 at n = 97
    assert all(0.015 < final.estimate.half_width <= 0.02 for final in finals.values())
    assert all(80 <= final.estimate.num_images <= 120 for final in finals.values())
    assert [first for _, first, _ in gallery.asked] == list(range(0, 2 * len(gallery.asked), 2))


def test_who_is_beyond_doubt_behind_is_drawn_no_more():
    gallery = Gallery({"a": 0.6, "b": 0.3, "c": 0.595}, spread=0.2)
    finals = race(["a", "b", "c"], gallery.draw, max_images=200)
    assert finals["b"].estimate.num_images == 20
    assert finals["a"].estimate.num_images == 200
    assert finals["a"].behind is None
    assert finals["b"].behind == pytest.approx((0.3, 0.0), abs=1e-9)


def test_no_more_images_than_the_cap_are_drawn_but_enough_for_an_interval():
    gallery = Gallery({"a": 0.5}, spread=0.3)
    assert race(["a"], gallery.draw, max_images=50)["a"].estimate.num_images == 40
    assert race(["a"], gallery.draw, max_images=1)["a"].estimate.num_images == 20


def test_who_cannot_be_drawn_is_out_and_the_others_go_on():
    gallery = Gallery({"a": 0.5}, spread=0.05)
    assert list(race(["a", "gone"], gallery.draw, max_images=100)) == ["a"]
    assert race(["gone"], gallery.draw, max_images=100) == {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One MLflow store that the sweeps here share."""
    return tmp_path_factory.mktemp("finals")


@pytest.fixture(scope="module")
def client(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


def swept(config: SweepConfig) -> tuple[SweepResult, str]:
    """A sweep's result, and what it said."""
    console = Console(record=True, width=160)
    return run_sweep(config, console), console.export_text()


def shown(result: SweepResult) -> str:
    console = Console(record=True, width=160)
    console.print(ranking_table(result.rows))
    return console.export_text()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_the_champion_is_who_is_best_over_fresh_images(folder, client):
    result, _ = swept(tiny_config(folder, name="flattered", identifier="flatters", trials=6))
    again = [row for row in result.rows if row.interval]
    assert len(again) == 4 or (len(again) == 3 and any(row.is_paper_default for row in again))
    assert list(result.rows[: len(again)]) == again
    for finalist in again:
        assert finalist.balance == pytest.approx(finalist.scores["balance"] / 2)
        path = client.download_artifacts(finalist.run_id, "confirmed.json")
        assert Path(path).exists()
    assert result.best == result.rows[0]
    places = [client.get_run(r.run_id).data.metrics["rank"] for r in result.rows if r.has_ended]
    assert places == list(range(1, len(places) + 1))
    version = client.get_model_version_by_alias("krona-monster", "champion")
    assert version.run_id == result.best.run_id
    assert client.get_run(version.run_id).data.metrics["champion_balance"] == result.best.balance
    table = shown(result)
    assert f"{result.best.balance:.3f} ± 0.01" in table
    assert any(f"~{r.balance:.3f}" in table for r in result.rows if not r.interval)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_finalist_that_cannot_be_drawn_stays_a_single_look_and_the_sweep_says_so(folder):
    config = tiny_config(folder, name="unseen", identifier="cannot look", trials=6)
    result, said = swept(replace(config, factors=((64, 8), (8, 32))))
    assert result.is_complete
    assert "is not scored again: RuntimeError: these images cannot be drawn" in said
    kinds = {(row.a1, row.interval is not None) for row in finalists(result.rows, 3)}
    assert kinds == {(8, True), (64, False)}
    assert {row.state for row in result.rows} <= {"finished", "pruned"}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_further_seeds_are_trained_below_the_finalists_and_compared_on_resume_too(folder, client):
    config = tiny_config(folder, name="seeds", trials=3, finalists=0, factors=((8, 32), (64, 8)))
    once, _ = swept(config)
    assert not any(row.interval for row in once.rows)
    again, _ = swept(replace(config, resume=True, finalists=1, confirm=2))
    best = again.best
    assert best is not None
    assert best.num_seeds == 2
    assert best.interval == pytest.approx((best.scores["balance"], 0.0), abs=1e-9)
    below = client.search_runs(
        [client.get_run(best.run_id).info.experiment_id],
        f"tags.`{PARENT_TAG}` = '{best.run_id}'",
    )
    assert sorted(run.data.params["seed"] for run in below) == ["1", "2"]
    assert {run.info.status for run in below} == {"FINISHED"}
    assert len(again.rows) == 3
    assert "95 % interval over 2 further seeds" in shown(again)
