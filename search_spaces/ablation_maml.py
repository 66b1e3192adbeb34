"""Table 1: the baseline detector and the meta-trained one, before and after adaptation.

    python search_spaces/ablation_maml.py           # synthetic videos, 2 methods x 3 seeds, minutes
    python search_spaces/ablation_maml.py --plan    # only says what would run, and what it costs
    python search_spaces/ablation_maml.py --preset small --shards SHARDS \\
        --benchmark otb100 --benchmark-folder OTB --partial          # real data

Without online updating, as in Table 1. The baseline has no learned rates, so beside the paper's
.001 it adapts with the best of several constants, chosen on tuning sequences; the table is over
others. The same command goes on where it was stopped, and runs no finished trial again.
"""

import tyro

from data_pipeline.clear_errors import clear_errors
from search_spaces.maml_cells import maml_study
from search_spaces.study_options import StudyOptions
from search_spaces.study_script import plan_or_run

DEFAULTS = StudyOptions(seeds=(0, 1, 2), short_pairs=800)
"""Three seeds, and enough pairs for meta-training to show."""


@clear_errors()
def main() -> None:
    """Parses the command line, runs, and prints what came out."""
    options = tyro.cli(StudyOptions, default=DEFAULTS, description=__doc__)
    plan_or_run(lambda base: maml_study(base, options.seeds, options.tuning), options)


if __name__ == "__main__":
    main()
