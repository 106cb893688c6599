"""The searcher over a real study on disk: what it is told, and what it knows after a restart."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler
from standin import VALID_FACTORS

from tune.config.sweep import SweepConfig
from tune.search.pruner import Pruner
from tune.search.searcher import Stop, StudySearch
from tune.search.space import make_space

SPACE = make_space(SweepConfig(steps=20), VALID_FACTORS)


@pytest.fixture
def open_search(tmp_path):
    def open_again(stop: Stop | None = None) -> StudySearch:
        return StudySearch(SPACE, tmp_path / "optuna.db", stop or Stop(), trials=16, seed=0)

    return open_again


def result(step: int, balance: float, *, is_final: bool = False) -> dict:
    scores = {"balance": balance, "best_balance": balance}
    return {"step": step, **scores, "is_final": is_final, "training_iteration": 1}


def states(search: StudySearch) -> list[TrialState]:
    return [trial.state for trial in search.study.trials]


def test_first_trial_is_the_papers_default_and_only_the_first(open_search):
    search = open_search()
    first, second = search.suggest("a"), search.suggest("b")
    assert (first["number"], first["paper_default"]) == (0, True)
    assert (first["settings"]["a1"], first["settings"]["a2"]) == (64, 8)
    assert first["settings"]["learning_rate"] == 1e-3
    assert (second["number"], second["paper_default"]) == (1, False)


def test_one_seed_proposes_the_same_settings(tmp_path):
    searches = [
        StudySearch(SPACE, tmp_path / f"{name}.db", Stop(), trials=16, seed=3) for name in "ab"
    ]
    proposals = [[search.suggest(str(i)) for i in range(4)] for search in searches]
    assert proposals[0] == proposals[1]


def test_a_trial_ends_as_what_it_achieved(open_search):
    search = open_search()
    for name in ("finished", "pruned", "failed", "nan", "silent"):
        search.suggest(name)
    search.on_trial_complete("finished", result(20, 0.8, is_final=True))
    search.on_trial_complete("pruned", result(5, 0.1))
    search.on_trial_complete("failed", error=True)
    search.on_trial_complete("nan", result(20, math.nan, is_final=True))
    search.on_trial_complete("silent", {"training_iteration": 0})
    fail, pruned = TrialState.FAIL, TrialState.PRUNED
    assert states(search) == [TrialState.COMPLETE, pruned, fail, fail, fail]
    assert search.study.trials[0].value == 0.8
    assert search.study.trials[1].intermediate_values == {5: 0.1}


def test_a_finished_trial_is_worth_its_best_evaluation(open_search):
    search = open_search()
    search.suggest("a")
    search.on_trial_result("a", result(10, 0.7))
    search.on_trial_complete("a", result(20, 0.6, is_final=True) | {"best_balance": 0.7})
    assert search.study.trials[0].value == 0.7


def test_the_papers_default_has_no_more_than_its_own_steps(tmp_path):
    space = make_space(SweepConfig(steps=2000), VALID_FACTORS)
    search = StudySearch(space, tmp_path / "long.db", Stop(), trials=16, seed=0)
    assert [search.suggest(name)["settings"]["steps"] for name in "ab"] == [1000, 2000]


def test_results_without_a_score_or_after_the_end_change_nothing(open_search):
    search = open_search()
    search.suggest("a")
    search.on_trial_result("a", {"step": 3, "train_loss": 1.0})
    search.on_trial_result("a", result(5, 0.2))
    search.on_trial_result("a", result(5, 0.9))
    search.on_trial_complete("a", result(20, 0.8, is_final=True))
    search.on_trial_result("a", result(20, 0.1))
    search.on_trial_complete("a", result(20, 0.1, is_final=True))
    trial = search.study.trials[0]
    assert (trial.intermediate_values, trial.value) == ({5: 0.2}, 0.8)


def test_reopened_search_continues_running_trials_and_counts_finished_ones(open_search):
    search = open_search()
    search.suggest("a")
    cut_off = search.suggest("b")
    search.on_trial_complete("a", result(20, 0.8, is_final=True))
    again = open_search()
    assert again.num_finished == 1
    assert again.suggest("c") == cut_off
    assert again.suggest("d")["number"] == 2
    assert [trial.number for trial in again.study.trials] == [0, 1, 2]


def test_reopened_search_does_not_draw_its_first_points_again(open_search):
    search = open_search()
    before = [search.suggest(str(i))["settings"]["learning_rate"] for i in range(4)]
    for i in range(4):
        search.on_trial_complete(str(i), result(20, 0.5, is_final=True))
    again = open_search()
    after = [again.suggest(str(i))["settings"]["learning_rate"] for i in range(3)]
    assert not set(before) & set(after)


def test_a_default_that_was_cut_off_is_still_the_default_after_a_restart(open_search):
    open_search().suggest("a")
    assert open_search().suggest("b")["paper_default"]


def test_trials_that_end_with_the_sweep_are_left_to_be_resumed(open_search):
    stop = Stop()
    search = open_search(stop)
    search.suggest("a")
    stop.requested = True
    search.on_trial_complete("a", error=True)
    assert states(search) == [TrialState.RUNNING]


def test_what_did_not_fit_is_not_proposed_again_also_after_a_restart(tmp_path):
    space = make_space(SweepConfig(steps=20, targets=("qkvo", "qv")), [(8, 8), (64, 8)])
    open_again = partial(StudySearch, space, tmp_path / "study.db", Stop(), trials=40, seed=0)
    search, refused = open_again(), []
    for i in range(24):
        name = str(i)
        if i == 12:
            search = open_again()
        settings = search.suggest(name)["settings"]
        if settings["a1"] == 64:
            refused.append(settings["targets"])
            search.on_trial_result(name, {"does_not_fit": True, "step": 0})
            search.on_trial_complete(name, error=True)
        else:
            search.on_trial_complete(name, result(20, 0.5, is_final=True))
    assert sorted(refused) == ["qkvo", "qv"]
    assert search.num_finished == 24
    assert TrialState.FAIL not in states(search)
    assert len(search.study.trials) > 24, "none was refused, so nothing was tried here"


def tune_trial(name: str, *, number: int = 99, is_default: bool = False) -> SimpleNamespace:
    return SimpleNamespace(trial_id=name, config={"number": number, "paper_default": is_default})


def decisions(pruner: Pruner, step: int, scores: dict[str, float], default: str = "") -> dict:
    made = {}
    for name, score in scores.items():
        trial = tune_trial(name, is_default=name == default)
        if name not in pruner._trial_info:
            pruner.on_trial_add(None, trial)
        made[name] = pruner.on_trial_result(None, trial, result(step, score))
    return made


def test_pruner_stops_the_lower_half_at_a_quarter_and_never_the_default(open_search):
    pruner = Pruner(open_search().study, max_steps=20)
    go, stop = TrialScheduler.CONTINUE, TrialScheduler.STOP
    made = decisions(pruner, 4, {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4})
    assert set(made.values()) == {go}
    made = decisions(pruner, 5, {"a": 0.5, "b": 0.6, "c": 0.1, "d": 0.2}, default="d")
    assert made == {"a": go, "b": go, "c": stop, "d": go}
    made = decisions(pruner, 10, {"b": 0.6, "a": 0.5})
    assert made == {"b": go, "a": stop}


def test_a_pruned_trial_says_what_it_was_compared_with(open_search):
    pruner = Pruner(open_search().study, max_steps=20)
    decisions(pruner, 5, {"a": 0.5, "b": 0.2, "c": 0.6})
    pruned, default = tune_trial("d"), tune_trial("e", is_default=True)
    for trial in (pruned, default):
        pruner.on_trial_add(None, trial)
        pruner.on_trial_result(None, trial, result(7, 0.1) | {"best_balance": 0.3})
    assert pruned.config["pruned"] == (
        "best balance 0.300 below 0.500, the median at step 5 of the 3 before it"
    )
    assert "pruned" not in default.config


def test_pruner_goes_by_the_best_evaluation_so_far(open_search):
    pruner = Pruner(open_search().study, max_steps=20)
    decisions(pruner, 5, {"a": 0.6, "b": 0.5})
    trial = tune_trial("c")
    pruner.on_trial_add(None, trial)
    fallen = result(5, 0.1) | {"best_balance": 0.7}
    assert pruner.on_trial_result(None, trial, fallen) == TrialScheduler.CONTINUE


def test_pruner_ignores_reports_without_a_score(open_search):
    pruner = Pruner(open_search().study, max_steps=20)
    trial = tune_trial("a")
    pruner.on_trial_add(None, trial)
    assert pruner.on_trial_result(None, trial, {"step": 5}) == TrialScheduler.CONTINUE


def test_pruner_of_a_resumed_sweep_knows_the_scores_of_before(open_search):
    search = open_search()
    for name, score in (("a", 0.5), ("b", 0.7)):
        search.suggest(name)
        search.on_trial_result(name, result(5, score))
        search.on_trial_complete(name, result(20, score, is_final=True))
    pruner = Pruner(open_search().study, max_steps=20)
    assert decisions(pruner, 5, {"new": 0.4}) == {"new": TrialScheduler.STOP}


def test_a_resumed_trial_stands_once_in_a_rung_with_its_score_at_that_step(open_search):
    search = open_search()
    for name, scores in (("a", {5: 0.5, 10: 0.6}), ("b", {5: 0.7, 10: 0.8})):
        search.suggest(name)
        for step, score in scores.items():
            search.on_trial_result(name, result(step, score))
    pruner = Pruner(open_search().study, max_steps=20)
    resumed = tune_trial("again", number=0)
    pruner.on_trial_add(None, resumed)
    assert pruner.on_trial_result(None, resumed, result(15, 0.1)) == TrialScheduler.CONTINUE
    assert dict(pruner._brackets[0]._rungs) == {
        20: {},
        10: {"again": 0.6, "past-1": 0.8},
        5: {"again": 0.5, "past-1": 0.7},
    }
