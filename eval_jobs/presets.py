"""The presets: complete runs to start from, from a laptop's minutes to the paper's weeks."""

from dataclasses import replace

from data_pipeline.synthetic_scenes import SyntheticConfig
from eval_jobs.pipeline import EvaluationConfig, PipelineConfig
from eval_jobs.tracker_config import TrackerConfig
from meta_train.train_presets import TRAININGS

_KINDS = {
    "quickstart": (
        "minutes on two cores, synthetic videos, nothing to prepare",
        PipelineConfig(synthetic=SyntheticConfig()),
    ),
    "small": (
        "a small pool of real videos, on one GPU, or for days on a CPU",
        PipelineConfig(
            evaluation=EvaluationConfig(
                benchmark="otb100",
                partial=True,
                tracker=TrackerConfig(  # what paid on held-out videos (README)
                    update_branches=("cls",), update_triggers=("distractor",)
                ),
            )
        ),
    ),
    "paper": (
        "everything as in the paper, on a GPU cluster",
        PipelineConfig(evaluation=EvaluationConfig(benchmark="otb100")),
    ),
}


def _preset(name: str) -> tuple[str, PipelineConfig]:
    """Description and config of a training's preset."""
    kind, _, detector = name.partition("-")
    text, config = _KINDS[kind]
    return (f"{text}; {detector}" if detector else text), replace(config, train=TRAININGS[name])


PRESETS = {name: _preset(name) for name in TRAININGS}
"""Name, description and config of each preset."""
