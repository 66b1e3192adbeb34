"""Meta-trains a detector into a tracker and evaluates it.

Without a preset it is the quickstart:

    python meta_train/launch.py                                 # quickstart, nothing to prepare
    python meta_train/launch.py small --train.shards SHARDS     # real data
    python meta_train/launch.py --resume RUN_ID                 # goes on where it stopped
    python meta_train/launch.py PRESET --plan                   # size, memory, cost; nothing starts
    python meta_train/launch.py PRESET --help                   # every setting
"""

import argparse
import logging
import shlex
import sys
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Annotated

import torch
import tyro

from data_pipeline.clear_errors import clear_errors
from data_pipeline.ray_session import default_address, ray_session
from data_pipeline.uris import expect_no_secret
from eval_jobs.pipeline import Outcome, PipelineConfig, kept_settings, run
from eval_jobs.presets import PRESETS
from eval_jobs.row_tables import table_rows, text_table
from meta_train.plan import plan
from meta_train.run_log import MlflowConfig, flatten_config
from meta_train.train_config import resolved
from meta_train.trainer import new_run_id


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """One run, and how it starts."""

    pipeline: Annotated[PipelineConfig, tyro.conf.arg(name="")]
    """The run."""

    resume: str | None = None
    """Id of a run to go on with. It keeps the settings that it started with, but for where it
    runs: ``train.scaling``, ``storage``, ``mlflow`` and ``address``."""

    init_from: str | None = None
    """Folder of a checkpoint whose weights and rates the run starts from: fine-tuning."""

    plan: bool = False
    """Print the run's size, memory and expected cost, from a timed outer step, and end."""

    address: str = field(default_factory=default_address)
    """Ray cluster: ``local`` starts one here, ``auto`` finds the one that this machine is in.
    RAY_ADDRESS where that is set."""

    def __post_init__(self) -> None:
        expect_no_secret(self.init_from or "", "init_from")


@clear_errors(ValueError)
def main() -> None:
    """Parses the command line, runs, and prints what came out."""
    preset, config = _parse(sys.argv[1:])
    if config.plan:
        torch.set_num_threads(config.pipeline.train.scaling.cpus_per_worker)
        print(plan(config.pipeline.train, _device(config)).text())
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if config.resume is None and config.pipeline.synthetic is None:
        resolved(config.pipeline.train)  # what is not set is said before there is a run, or Ray
    run_id = config.resume or new_run_id(preset)
    print(f"run {run_id} (if it stops: {_resuming(config, run_id)})", flush=True)
    with ray_session(config.address):
        outcome = run(
            config.pipeline,
            run_id,
            resume=config.resume is not None,
            init_from=config.init_from,
            tags={} if config.resume else {"preset": preset},
        )
    _show(outcome)


def _parse(arguments: list[str]) -> tuple[str, LaunchConfig]:
    """Preset and config; the preset ``quickstart`` where the command line names none."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["quickstart", *arguments]
    presets = {name: pipeline for name, (_, pipeline) in PRESETS.items()}
    kept = _resumed(arguments, presets[arguments[0]]) if arguments[0] in presets else None
    if kept is not None:
        presets = {arguments[0]: kept}  # what differs from them is what was given
    choices = {
        name: (PRESETS[name][0], LaunchConfig(pipeline=each)) for name, each in presets.items()
    }
    config = tyro.extras.overridable_config_cli(choices, args=arguments, description=__doc__)
    if kept is not None:
        if config.plan:
            raise SystemExit("--plan says what a new run will cost: leave out --resume")
        _require_no_settings(config, kept)
    return arguments[0], config


def _resumed(arguments: list[str], preset: PipelineConfig) -> PipelineConfig | None:
    """The settings of the run that is to be resumed; None where none is."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume")
    parser.add_argument("--storage", default=preset.storage)
    where = parser.parse_known_args(arguments)[0]
    return None if where.resume is None else kept_settings(preset, where.storage, where.resume)


def _resuming(config: LaunchConfig, run_id: str) -> str:
    """The command that goes on with a run."""
    options = {"--resume": run_id}
    if config.pipeline.storage != "runs":
        options["--storage"] = config.pipeline.storage
    mlflow, usual = config.pipeline.mlflow, MlflowConfig()
    if mlflow.tracking_uri != usual.tracking_uri:
        options["--mlflow.tracking-uri"] = mlflow.tracking_uri
    if mlflow.undelivered_dir != usual.undelivered_dir:
        options["--mlflow.undelivered-dir"] = mlflow.undelivered_dir
    if config.address != default_address():
        options["--address"] = config.address
    return shlex.join(["python", "meta_train/launch.py", *chain(*options.items())])


def _require_no_settings(config: LaunchConfig, kept_pipeline: PipelineConfig) -> None:
    """Exits if the command line sets what a resumed run takes from its own past."""
    scaling = kept_pipeline.train.scaling
    given = replace(config.pipeline, train=replace(config.pipeline.train, scaling=scaling))
    given = replace(given, storage=kept_pipeline.storage, mlflow=kept_pipeline.mlflow)
    asked, kept = flatten_config(given), flatten_config(kept_pipeline)
    ignored = [name for name in asked if asked[name] != kept.get(name)]
    if ignored or config.init_from:
        names = ", ".join(ignored or ["init_from"])
        raise SystemExit(
            f"--resume {config.resume} goes on with the settings that the run started with; "
            f"got others for {names}. Leave them out, or start a new run with --init-from."
        )


def _device(config: LaunchConfig) -> torch.device:
    """Where this machine can try the run's outer step."""
    wanted = config.pipeline.train.scaling.use_gpu and torch.cuda.is_available()
    return torch.device("cuda" if wanted else "cpu")


def _show(outcome: Outcome) -> None:
    """The numbers, where they are, and what to do next."""
    metrics = outcome.train.metrics
    last = max(int(name.rpartition("_")[2]) for name in metrics if name.startswith("val/iou_"))
    before, after = metrics["val/query_loss_0"], metrics[f"val/query_loss_{last}"]
    print(
        f"\nheld-out pair tasks, before -> after {last} inner steps: query loss {before:.3f} -> "
        f"{after:.3f} (ratio {after / before:.2f}), overlap at the score's peak "
        f"{metrics['val/iou_0']:.3f} -> {metrics[f'val/iou_{last}']:.3f}"
    )
    if outcome.scores:
        print(text_table(table_rows(outcome.scores)))
    print(
        f"checkpoint   {outcome.train.best}\n"
        f"MLflow       mlflow ui    (run {outcome.train.run_id})\n"
        "next         python search_spaces/ablation_kllr.py"
    )


if __name__ == "__main__":
    main()
