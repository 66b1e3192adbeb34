"""A search suggests nothing twice."""

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from search_spaces.unrepeated import Unrepeated

SPACE = {"steps": CategoricalDistribution((1, 2, 4)), "kllr": CategoricalDistribution(("a", "b"))}


def tpe(seed: int) -> OptunaSearch:
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=1)
    return OptunaSearch(space=SPACE, metric="auc", mode="max", sampler=sampler)


def suggestions(searcher: Searcher, count: int) -> list[object]:
    """So many, each told of its end: the first choice wins by far, and is suggested again."""
    found = []
    for number in range(count):
        values = searcher.suggest(f"trial{number}")
        found.append(values)
        if isinstance(values, dict):
            searcher.on_trial_result(f"trial{number}", {"auc": 0.1, "training_iteration": 1})
            searcher.on_trial_complete(f"trial{number}", {"auc": 1.0 / (1 + number)})
    return found


@pytest.mark.parametrize("seed", range(4))
def test_each_choice_is_suggested_once_and_then_it_is_over(seed: int) -> None:
    alone = suggestions(tpe(seed), 6)
    assert len({str(values) for values in alone}) < 6, "TPE alone repeats itself"
    tried = {"kllr": "b", "steps": 2}
    searcher = Unrepeated(tpe(seed))
    searcher.add_tried(tried, 2.0)
    found = suggestions(searcher, 6)
    assert found[5] == Searcher.FINISHED
    assert len({str(values) for values in found[:5]}) == 5 and tried not in found
