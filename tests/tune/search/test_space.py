"""The search space: indices map to the right pairs, and the paper's setting is in it."""

import optuna
from standin import VALID_FACTORS

from tune.config.sweep import SweepConfig
from tune.config.trial import TrialSettings
from tune.search.space import make_space


def test_factor_index_counts_pairs_by_their_product():
    space = make_space(SweepConfig(steps=200), [(4, 64), (2, 2), (1, 8), (2, 4), (1, 4)])
    assert space.factors == ((1, 4), (2, 2), (1, 8), (2, 4), (4, 64))
    trial = optuna.trial.FixedTrial(
        {"factors_index": 3, "learning_rate": 1e-3, "targets": "kv"} | {"init": "normal"}
    )
    settings = space(trial)
    assert settings == {
        "a1": 2,
        "a2": 4,
        "learning_rate": 1e-3,
        "steps": 200,
        "targets": "kv",
        "init": "normal",
        "seed": 0,
    }
    TrialSettings.from_dict(settings)


def test_paper_default_is_what_its_scripts_run_at_full_length():
    space = make_space(SweepConfig(), VALID_FACTORS)
    settings = space(optuna.trial.FixedTrial(space.paper_default()))
    assert TrialSettings.from_dict(settings) == TrialSettings(
        a1=64, a2=8, learning_rate=1e-3, steps=100, targets="qkvo", init="normal", seed=0
    )


def test_paper_default_moves_to_the_nearest_that_is_allowed():
    config = SweepConfig(learning_rate=(2e-3, 1e-2), targets=("kv",), init=("kaiming",))
    space = make_space(config, [(1, 1), (32, 4), (2, 2)])
    settings = space(optuna.trial.FixedTrial(space.paper_default()))
    assert (settings["a1"], settings["a2"], settings["learning_rate"]) == (32, 4, 2e-3)
    assert (settings["targets"], settings["init"]) == ("kv", "kaiming")
