"""Runs a search on Ray Tune: Optuna's TPE with ASHA, or a grid without early stopping.

The driver keeps the ledger and MLflow's runs, so a search that was killed goes on: what ended is
told to TPE, what was under way or failed is tried first, and its training goes on from its
checkpoint.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray.tune import Callback

from meta_train.placement import cluster_nodes
from meta_train.run_log import RunLog, RunStatus
from meta_train.train_config import ScalingConfig
from search_spaces.search import Interval, Options, Search, SearchKind, Space, all_choices
from search_spaces.search_ledger import OBJECTIVE, Ending, Ledger, Tried
from search_spaces.search_trials import RUNG, run_tracking_trial, run_training_trial
from search_spaces.sequence_parts import SequenceSet
from search_spaces.training import absolute_storage, mark_stopped
from search_spaces.trial_run import gpus_of_tracker
from search_spaces.tune_trials import TUNE_DRIVER, cause_of, concurrent_trials
from search_spaces.unrepeated import Unrepeated

logger = logging.getLogger(__name__)

REDUCTION = 2
"""At each of ASHA's rungs one trial in so many goes on."""


def run_search(search: Search[Any], tuning: SequenceSet, kind: SearchKind) -> list[Tried]:
    """Tries what is left of a search's trials, and gives all that were tried.

    The caller has started Ray, with `tune_trials.DRIVER_RESOURCES`, and created the MLflow
    experiment. A trial that fails does not stop the others; the next run tries it again.

    Args:
        search: with absolute paths, and its data made.
        tuning: the sequences by which it chooses.
        kind: how it searches.

    Raises:
        ValueError: the cluster cannot run a single trial.
    """
    from ray import tune

    ledger = ledger_of(search, tuning)
    known = ledger.read()
    ended = [each for each in known if each.is_done(kind)]
    unended = [each for each in known if not each.is_done(kind)]
    unended.sort(key=lambda each: each.ending == "failed")  # what was only killed comes first
    count = search.num_choices(kind) - len(ended)
    slots = concurrent_choices(search)
    trial = run_tracking_trial if search.checkpoint else run_training_trial
    trainable = tune.with_parameters(_try, trial=trial, search=search, tuning=tuning)
    if kind == "grid":
        tried = {each.trial_id for each in ended}
        left = [
            values
            for values in all_choices(search.space)
            if Tried(values=values, ending="started").trial_id not in tried
        ]
        how: dict[str, Any] = {}
        space: dict[str, Any] = {"values": tune.grid_search(left)}
    else:
        first = [each.values for each in unended] or ([] if ended else [search.starting_values])
        how = _tpe_and_asha(search, tuning, ended, first) | {"num_samples": count}
        space = {}
    logger.info("%d choices were tried, %d are left, %d at a time", len(ended), count, slots)
    if count > 0:
        tune.Tuner(
            tune.with_resources(trainable, _resources(search)),
            param_space=space,
            tune_config=tune.TuneConfig(
                max_concurrent_trials=slots, reuse_actors=bool(search.checkpoint), **how
            ),
            run_config=tune.RunConfig(
                name=f"{search.search_id}-{time.strftime('%Y%m%d-%H%M%S')}",
                storage_path=f"{absolute_storage(search.base.storage)}/tune",
                verbose=0,
                callbacks=[_Recorder(search, ledger, _last_rung(search, tuning))],
            ),
        ).fit()
    return ledger.read()


def ledger_of(search: Search[Any], tuning: SequenceSet) -> Ledger:
    """Where a search keeps what it tried on these sequences."""
    digest = hashlib.sha256(tuning.fingerprint.encode()).hexdigest()[:8]
    home = Path(absolute_storage(search.base.storage)) / "studies" / search.search_id
    return Ledger(folder=home / f"tried-{digest}")


def concurrent_choices(search: Search[Any]) -> int:
    """How many choices the connected cluster can try at once.

    Raises:
        ValueError: not one.
    """
    if not search.checkpoint:
        return concurrent_trials(search.base.train.scaling)
    wanted = _resources(search)
    nodes = cluster_nodes(ScalingConfig(cpus_per_worker=1, use_gpu="GPU" in wanted))
    count = sum(
        min(int(node.get(name, 0.0) / amount) for name, amount in wanted.items()) for node in nodes
    )
    if count < 1:
        raise ValueError(f"a trial needs {wanted} on one node; the Ray cluster has {nodes}")
    return count


def _resources(search: Search[Any]) -> dict[str, float]:
    """What a trial's driver holds: it trains on workers of its own, or tracks by itself."""
    if not search.checkpoint:
        return {TUNE_DRIVER: 1.0}
    gpus = gpus_of_tracker(search.base.evaluation)
    return {"CPU": 1.0} | ({"GPU": gpus} if gpus else {})


def _last_rung(search: Search[Any], tuning: SequenceSet) -> int:
    """What a trial that was not stopped has reached."""
    if search.checkpoint:
        return len(tuning.frames)
    return search.base.train.outer_loop.num_iterations


def _tpe_and_asha(
    search: Search[Any],
    tuning: SequenceSet,
    ended: Sequence[Tried],
    first: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Arguments of Tune for Optuna's sampler, told of what ended, and for ASHA."""
    import optuna
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A seed of its own for each start: the same one would suggest again what was tried already.
    sampler = optuna.samplers.TPESampler(
        seed=search.seeds[0] + len(ended), n_startup_trials=min(10, search.num_trials // 2)
    )
    searcher = OptunaSearch(
        space=distributions(search.space),
        metric=OBJECTIVE,
        mode="max",
        sampler=sampler,
        points_to_evaluate=list(first),
    )
    unrepeated = Unrepeated(searcher)
    for each in ended:
        unrepeated.add_tried(each.values, each.objective)
    last = _last_rung(search, tuning)
    grace = 2 if search.checkpoint else search.base.train.outer_loop.iterations_per_epoch
    scheduler = tune.schedulers.ASHAScheduler(
        time_attr=RUNG,
        metric=OBJECTIVE,
        mode="max",
        max_t=last,
        grace_period=min(grace, last),
        reduction_factor=REDUCTION,
    )
    return {"search_alg": unrepeated, "scheduler": scheduler}


def distributions(space: Space) -> dict[str, Any]:
    """A space in Optuna's terms."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    found: dict[str, Any] = {}
    for name, knob in space.items():
        match knob:
            case Options():
                found[name] = CategoricalDistribution(knob.values)
            case Interval():
                found[name] = FloatDistribution(knob.low, knob.high, log=knob.log)
    return found


def _try(
    config: dict[str, Any],
    trial: Callable[[dict[str, Any], Search[Any], SequenceSet], None],
    search: Search[Any],
    tuning: SequenceSet,
) -> None:
    """A trial as Tune calls it: a grid's values have a name of their own in its config."""
    trial(config.get("values", config), search, tuning)


class _Recorder(Callback):  # type: ignore[misc]
    """Writes each trial into the ledger and into MLflow: one writer, the driver."""

    def __init__(self, search: Search[Any], ledger: Ledger, last_rung: int) -> None:
        """Takes the search, its ledger, and what a whole trial reaches."""
        self._search, self._ledger, self._last_rung = search, ledger, last_rung
        self._run_logs: dict[str, RunLog] = {}  # of the trials under way, by Tune's id

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Notes that it is under way; one that was killed before keeps its run in MLflow."""
        started = Tried(values=_values(trial), ending="started")
        known = self._ledger.find(started.trial_id)
        run_id = known.mlflow_run_id if known and known.ending == "started" else ""
        run_log = self._open_run(started, run_id)
        self._run_logs[trial.trial_id] = run_log
        self._ledger.write(replace(started, mlflow_run_id=run_log.handle.run_id))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Notes what came of it."""
        metrics = _numbers(trial.last_result)
        if metrics.get(RUNG, 0.0) >= self._last_rung:
            self._end(trial, "finished", metrics, "")
            return
        self._end(trial, "stopped", metrics, "")
        if not self._search.checkpoint:
            mark_stopped(self._search.config(_values(trial)))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Notes what stopped it."""
        file = trial.error_file  # Tune has it only here by now, or not at all
        trace = Path(file).read_text().strip() if file else "it did not end; Ray Tune gave no error"
        self._end(trial, "failed", {}, cause_of(RuntimeError(trace)))

    def _end(self, trial: Any, ending: Ending, metrics: dict[str, float], error: str) -> None:
        tried = Tried(
            values=_values(trial),
            ending=ending,
            metrics=metrics,
            seconds=float((trial.last_result or {}).get("time_total_s", 0.0)),
            error=error,
        )
        run_log = self._run_logs.pop(trial.trial_id, None) or self._open_run(tried, "")
        run_log.set_tags({"ending": ending})
        run_log.log_metrics({key: value for key, value in metrics.items() if key != RUNG}, step=0)
        run_log.finish(_STATUS[ending])
        self._ledger.write(replace(tried, mlflow_run_id=run_log.handle.run_id))
        score = "no score" if tried.objective is None else f"{OBJECTIVE} {tried.objective:.3f}"
        logger.info("%s: %s %s %s", tried.values, ending, score, error)

    def _open_run(self, tried: Tried, run_id: str) -> RunLog:
        """A trial's run in MLflow: the one of this id continued, or the unfinished one of a driver
        that died before the ledger knew it, or a new one.
        """
        search = self._search
        name = f"{search.search_id}-{tried.trial_id}"
        return RunLog.start(
            search.base.mlflow,
            run_name=name,
            params=tried.values,
            tags={
                "kind": "search_trial",
                "study": search.name,
                "trial_id": name,
                "run_id": f"{self._ledger.folder.name}-{name}",
                "seed": str(search.seeds[0]),
                "ending": tried.ending,
            },
            run_id=run_id or None,
        )


_STATUS: dict[Ending, RunStatus] = {
    "finished": "FINISHED",
    "stopped": "KILLED",
    "failed": "FAILED",
}


def _values(trial: Any) -> dict[str, Any]:
    values: dict[str, Any] = trial.config.get("values", trial.config)
    return values


def _numbers(result: dict[str, Any] | None) -> dict[str, float]:
    """What the trial itself reported, without what Tune adds."""
    return {
        name: float(value)
        for name, value in (result or {}).items()
        if isinstance(value, int | float) and ("/" in name or name == RUNG)
    }
