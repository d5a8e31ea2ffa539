"""What mattered in a study: how much each searched setting had to do with the value, by a method that is named."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import optuna
from optuna.trial import TrialState

LEAST = 4  # completed trials; of fewer nothing can be told


class Method(StrEnum):
    """How the importance of a setting is judged; both come from Optuna."""

    PED_ANOVA = "PED-ANOVA"
    """What tells the best tenth of the trials from the others."""
    FANOVA = "fANOVA"
    """Which share of the spread of the values a forest fitted to them explains by the setting alone."""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """The share of each searched setting; the shares sum to 1, the largest first."""

    method: Method
    shares: Mapping[str, float]
    trials: int  # completed ones that it was made of


def importance(search: optuna.Study, method: Method = Method.PED_ANOVA) -> Importance | None:
    """How much each searched setting mattered; None where too few trials completed, or nothing differs."""
    from optuna.importance import (  # only here: they load scikit-learn, seconds that no page need wait
        FanovaImportanceEvaluator,
        PedAnovaImportanceEvaluator,
        get_param_importances,
    )

    complete = [trial for trial in search.get_trials(deepcopy=False) if trial.state is TrialState.COMPLETE]
    values = {trial.value for trial in complete}
    if len(complete) < LEAST or len(values) < 2:
        return None
    evaluator = (
        PedAnovaImportanceEvaluator()
        if method is Method.PED_ANOVA
        else FanovaImportanceEvaluator(seed=0)  # the same forest at every reload
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of settings with one value alone, which then have no share
        shares = get_param_importances(search, evaluator=evaluator)
    if not any(share > 0 for share in shares.values()):
        return None
    return Importance(method=method, shares=shares, trials=len(complete))
