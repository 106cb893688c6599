"""How much each setting mattered: finished trials' rows in, shares of balance's variance out.

Made from the rows and not from the sweep's study, so that a report needs MLflow alone, and so that
a1 and a2 are told apart where the study knows but the index of their pair.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from tune.records.plots import AXES, LOG_AXES
from tune.records.ranking import Row

FEWEST = 4  # below that a forest of trees has nothing to tell apart


def importances(rows: Sequence[Row]) -> dict[str, float]:
    """The share of each setting that varies, adding up to 1; empty if there is nothing to tell."""
    scored = [row for row in rows if row.balance is not None]
    values = {name: [get(row) for row in scored] for name, get in AXES.items()}
    varied = {
        name: _distribution(name, found) for name, found in values.items() if len(set(found)) > 1
    }
    if len(scored) < FEWEST or not varied or len({row.balance for row in scored}) < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for number, row in enumerate(scored):
        study.add_trial(
            optuna.trial.create_trial(
                params={name: values[name][number] for name in varied},
                distributions=varied,
                value=row.balance,
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is experimental in Optuna
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _distribution(name: str, found: Sequence[Any]) -> BaseDistribution:
    if isinstance(found[0], str):
        return CategoricalDistribution(sorted(set(found)))
    return FloatDistribution(min(found), max(found), log=name in LOG_AXES)
