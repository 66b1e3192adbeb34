"""Table 2: what kernel-wise learnable rates (KLLR) give in no branch, in one, in both.

    python search_spaces/ablation_kllr.py            # synthetic videos, 5 cells x 2 seeds, minutes
    python search_spaces/ablation_kllr.py --plan     # only says what would run, and what it costs
    python search_spaces/ablation_kllr.py --preset small --shards SHARDS \\
        --benchmark otb100 --benchmark-folder OTB --partial          # real data

Each trial meta-trains and evaluates, with online updating as in Table 2. The same command goes on
where it was stopped, and runs no finished trial again.
"""

import tyro

from data_pipeline.clear_errors import clear_errors
from search_spaces.kernel_rates_cells import kernel_rates_study
from search_spaces.study_options import StudyOptions
from search_spaces.study_script import plan_or_run


@clear_errors()
def main() -> None:
    """Parses the command line, runs, and prints what came out."""
    options = tyro.cli(StudyOptions, description=__doc__)
    plan_or_run(lambda base: kernel_rates_study(base, options.seeds, options.tuning), options)


if __name__ == "__main__":
    main()
