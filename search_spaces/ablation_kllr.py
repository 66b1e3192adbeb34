"""Table 2: what kernel-wise learnable rates (KLLR) give in no branch, in one, in both.

python search_spaces/ablation_kllr.py            # synthetic videos, 4 cells x 2 seeds, minutes
python search_spaces/ablation_kllr.py --plan     # only says what would run, and what it costs
python search_spaces/ablation_kllr.py --preset small --shards SHARDS \
    --benchmark otb100 --benchmark-folder OTB --partial          # real data

Each trial meta-trains and evaluates, with online updating as in Table 2. The same command goes on
where it was stopped, and runs no finished trial again.
"""

import logging

import tyro

from data_pipeline.ray_session import ray_session
from search_spaces.kernel_rates_cells import kernel_rates_study
from search_spaces.plan import plan_text
from search_spaces.study_options import StudyOptions, base_config
from search_spaces.study_run import run
from search_spaces.tune_trials import DRIVER_RESOURCES


def main() -> None:
    """Parses the command line, runs, and prints what came out."""
    options = tyro.cli(StudyOptions, description=__doc__)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    study = kernel_rates_study(base_config(options), options.seeds)
    print(plan_text(study), flush=True)
    if options.plan:
        return
    with ray_session(options.address, DRIVER_RESOURCES):
        result = run(study)
    print(result.text)
    print(f"compare in MLflow (mlflow ui)   {result.compare_url}")


if __name__ == "__main__":
    main()
