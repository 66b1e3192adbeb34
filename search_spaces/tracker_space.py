"""What is searched of a trained tracker: penalties, window, thresholds and updates."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from eval_jobs.pipeline import PipelineConfig
from eval_jobs.tracker_config import UPDATE_TRIGGERS, TrackerConfig, UpdateTrigger
from search_spaces.branch_names import NAMED_BRANCHES
from search_spaces.measures import SPEED, benchmark_measures
from search_spaces.search import Interval, Options, Search, Space
from search_spaces.sequence_parts import TuningConfig

_USUAL = TrackerConfig()

NAMED_TRIGGERS: dict[str, tuple[UpdateTrigger, ...]] = {
    "interval": ("interval",),
    "distractor": ("distractor",),
    "both": UPDATE_TRIGGERS,
}
"""What asks for an update, by name."""


@dataclass(frozen=True, kw_only=True)
class TrackerChoice:
    """What `TrackerConfig` and its `DriftConfig` explain, with their values."""

    penalty_strength: float = _USUAL.penalty_strength
    """k of the shape penalty."""

    window_weight: float = _USUAL.window_weight
    """Share of the cosine prior."""

    shape_rate: float = _USUAL.shape_rate
    """Share of the new size."""

    min_score: float = _USUAL.min_score
    """Below it the last box is kept."""

    add_threshold: float = _USUAL.add_threshold
    """Above it a result enters the support set."""

    distractor_ratio: float = _USUAL.distractor_ratio
    """Above it a second peak is a distractor."""

    update_interval_frames: int = _USUAL.update_interval_frames or 0
    """Frames between online updates; 0: none, also not on distractors."""

    min_update_gap_frames: int = _USUAL.min_update_gap_frames
    """Fewest frames between updates."""

    first_frame_steps: int = _USUAL.first_frame_steps
    """Gradient steps on the first frame."""

    min_update_score: float = 0.0
    """No update on a frame that scores no more; 0: on any frame."""

    rollback_factor: float = 0.0
    """An update is undone that raises the first frame's loss above so many times; 0: none."""

    pull_back: float = _USUAL.drift.pull_back
    """Share of the way back to the first frame's weights after each update."""

    relearn: bool = _USUAL.drift.relearn
    """Whether an update takes the first frame's steps anew, from theta_0: several times the cost of
    a usual one, so best with a gap of 10 frames."""

    update_branches: Literal["cls", "both"] = "both"
    """The branches that an update adapts."""

    update_triggers: Literal["interval", "distractor", "both"] = "both"
    """What asks for an update; where distractors alone do, the interval counts nothing but 0."""


SPACE: Space = {
    "penalty_strength": Interval(low=0.0, high=0.5),
    "window_weight": Interval(low=0.0, high=0.6),
    "shape_rate": Interval(low=0.1, high=1.0),
    "min_score": Interval(low=0.01, high=0.3, log=True),
    "add_threshold": Interval(low=0.2, high=0.9),
    "distractor_ratio": Interval(low=0.5, high=1.0),
    "update_interval_frames": Options(values=(0, 5, 10, 20, 40)),
    "min_update_gap_frames": Options(values=(1, 5, 10)),
    "first_frame_steps": Options(values=(1, 3, 5, 8)),
    "min_update_score": Interval(low=0.0, high=0.8),
    "rollback_factor": Options(values=(0.0, 1.2, 1.5, 2.0, 4.0)),
    "pull_back": Interval(low=0.0, high=0.5),
    "relearn": Options(values=(False, True)),
    "update_branches": Options(values=("cls", "both")),
    "update_triggers": Options(values=tuple(NAMED_TRIGGERS)),
}
"""What each knob may be."""

Knob = Literal[
    "penalty_strength",
    "window_weight",
    "shape_rate",
    "min_score",
    "add_threshold",
    "distractor_ratio",
    "update_interval_frames",
    "min_update_gap_frames",
    "first_frame_steps",
    "min_update_score",
    "rollback_factor",
    "pull_back",
    "relearn",
    "update_branches",
    "update_triggers",
]
"""Names of `SPACE`, for the command line."""


def configure(choice: TrackerChoice, base: PipelineConfig) -> PipelineConfig:
    """The base tracking with these constants; its training is the same for all choices."""
    tracker = replace(
        base.evaluation.tracker,
        penalty_strength=choice.penalty_strength,
        window_weight=choice.window_weight,
        shape_rate=choice.shape_rate,
        min_score=choice.min_score,
        add_threshold=choice.add_threshold,
        distractor_ratio=choice.distractor_ratio,
        first_frame_steps=choice.first_frame_steps,
        update_interval_frames=choice.update_interval_frames or None,
    )
    if choice.update_interval_frames:  # else how it would update makes no other tracker
        triggers = NAMED_TRIGGERS[choice.update_triggers]
        if "interval" not in triggers:  # nor does the interval, then
            tracker = replace(tracker, update_interval_frames=_USUAL.update_interval_frames)
        tracker = replace(
            tracker,
            min_update_gap_frames=choice.min_update_gap_frames,
            update_branches=NAMED_BRANCHES[choice.update_branches],
            update_triggers=triggers,
            drift=replace(
                tracker.drift,
                min_update_score=choice.min_update_score or None,
                rollback_factor=choice.rollback_factor or None,
                pull_back=choice.pull_back,
                relearn=choice.relearn,
            ),
        )
    evaluation = replace(
        base.evaluation,
        phases=("online",) if choice.update_interval_frames else ("after",),
        tracker=tracker,
        references=False,
    )
    return replace(base, evaluation=evaluation)


def starting_choice(base: PipelineConfig) -> TrackerChoice:
    """The paper's constants, but the base's branches and triggers of updates."""
    tracker = base.evaluation.tracker
    (triggers,) = [
        name for name, each in NAMED_TRIGGERS.items() if set(each) == set(tracker.update_triggers)
    ]
    is_cls = tracker.update_branches == ("cls",)
    return TrackerChoice(
        update_branches="cls" if is_cls else "both",
        update_triggers=triggers,  # type: ignore[arg-type]
    )


def tracker_search(
    base: PipelineConfig,
    tuning: TuningConfig,
    *,
    knobs: Sequence[Knob],
    seed: int,
    num_trials: int,
    num_finalists: int,
    checkpoint: str,
) -> Search[TrackerChoice]:
    """A search over these constants of one trained tracker; the others keep their values.

    Raises:
        ValueError: no knob is named, or a choice makes no valid config of this base.
    """
    return Search(
        name="search_tracker",
        title=f"Tracker: {', '.join(knobs)}",
        space={name: SPACE[name] for name in knobs},
        start=starting_choice(base),
        configure=configure,
        base=base,
        tuning=tuning,
        measures=(*benchmark_measures(base.evaluation), SPEED),
        checkpoint=checkpoint,
        num_trials=num_trials,
        num_finalists=num_finalists,
        seeds=(seed,),
    )
