"""What the paper leaves open, a point at a time, compared by held-out pair tasks; nothing tracks.

Each cell changes the base in one point. It is judged by the overlap of the box at the score's peak,
before and after adaptation, on videos that training leaves out: losses would not do, since some
cells change what a loss is.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from data_pipeline.sampling import PairShares, SamplingConfig
from eval_jobs.pipeline import EvaluationConfig, PipelineConfig
from meta_train.detectors import DetectorConfig
from meta_train.detectors.fcos import FcosConfig
from meta_train.detectors.network import Adapts
from meta_train.train_config import TrainConfig
from meta_train.validation import validation_stream
from search_spaces.measures import Measure
from search_spaces.study import Cell, Study, Variant, grid

logger = logging.getLogger(__name__)

Point = Literal[
    "head_input",
    "score_loss",
    "loss_weights",
    "initial_rates",
    "outer_rates",
    "head",
    "block4",
    "adapts",
    "background_pairs",
]
"""Names of `POINTS`, for the command line."""


@dataclass(frozen=True, kw_only=True)
class OpenPointsChoice:
    """What differs from the base: None and a factor of 1 leave it as it is."""

    normalise: bool | None = None
    """Whether the head's input is standardised over channels."""

    balance_cells: bool | None = None
    """Whether cells inside and outside the box count alike in the score's loss (FCOS)."""

    negatives_per_positive: float | None = None
    """So many of the worst cells outside count for each inside (FCOS); 0: all of them."""

    cls_weight_factor: float = 1.0
    """Of the score's loss, which also scales the branch's inner steps."""

    reg_weight_factor: float = 1.0
    """Of the regression's loss."""

    initial_rate_factor: float = 1.0
    """Of the value that all inner rates start from."""

    heads_rate_factor: float = 1.0
    """Of Adam's rate for the heads."""

    block4_rate_factor: float = 1.0
    """Of Adam's rate for block-4."""

    rates_rate_factor: float = 1.0
    """Of Adam's rate for the inner rates."""

    num_hidden: int | None = None
    """Hidden convolutions of a head."""

    hidden_factor: int = 1
    """Of their channels."""

    learns_block4: bool | None = None
    """Whether the outer loop learns block-4, or leaves it as it came."""

    adapts: Adapts | None = None
    """What the inner loop changes."""

    background_factor: float = 1.0
    """Of the share of pairs whose query does not show the target."""


def _cell(name: str, **changes: float | int | bool | str | None) -> Cell[OpenPointsChoice]:
    return Cell(name=name, choice=OpenPointsChoice(**changes))  # type: ignore[arg-type]


START = _cell("start")
"""The base itself: a row of every table."""

POINTS: dict[Point, tuple[Cell[OpenPointsChoice], ...]] = {
    "head_input": (_cell("raw_input", normalise=False),),
    "score_loss": (
        _cell("mean_over_cells", balance_cells=False, negatives_per_positive=0.0),
        _cell("all_negatives", negatives_per_positive=0.0),
        _cell("worst_3_negatives", negatives_per_positive=3.0),
        _cell("worst_10_negatives", negatives_per_positive=10.0),
    ),
    "loss_weights": (
        _cell("cls_half", cls_weight_factor=0.5),
        _cell("cls_double", cls_weight_factor=2.0),
        _cell("reg_half", reg_weight_factor=0.5),
        _cell("reg_double", reg_weight_factor=2.0),
    ),
    "initial_rates": (
        _cell("initial_rates_third", initial_rate_factor=1 / 3),
        _cell("initial_rates_triple", initial_rate_factor=3.0),
    ),
    "outer_rates": (
        _cell("heads_fifth", heads_rate_factor=0.2),
        _cell("heads_double", heads_rate_factor=2.0),
        _cell("block4_third", block4_rate_factor=1 / 3),
        _cell("block4_triple", block4_rate_factor=3.0),
        _cell("rates_third", rates_rate_factor=1 / 3),
        _cell("rates_triple", rates_rate_factor=3.0),
    ),
    "head": (
        _cell("linear_head", num_hidden=0),
        _cell("two_hidden", num_hidden=2),
        _cell("double_width", hidden_factor=2),
        _cell("fourfold_width", hidden_factor=4),
    ),
    "block4": (_cell("block4_frozen", learns_block4=False),),
    "adapts": (
        _cell("adapts_heads", adapts="head"),
        _cell("adapts_block4", adapts="head+block4"),
    ),
    "background_pairs": (
        _cell("no_background_pairs", background_factor=0.0),
        _cell("double_background_pairs", background_factor=2.0),
    ),
}
"""The alternatives, by what is open."""


def configure(choice: OpenPointsChoice, base: PipelineConfig) -> PipelineConfig:
    """The base with these changes, trained and validated, and no tracking.

    Raises:
        ValueError: the base's detector has no such setting.
    """
    train, outer = base.train, base.train.outer_loop
    outer = replace(
        outer,
        learning_rate=outer.learning_rate * choice.heads_rate_factor,
        backbone_learning_rate=outer.backbone_learning_rate * choice.block4_rate_factor,
        rates_learning_rate=outer.rates_learning_rate * choice.rates_rate_factor,
    )
    if choice.learns_block4 is not None:
        outer = replace(outer, learns="head+block4" if choice.learns_block4 else "head")
    initial = train.rates.initial * choice.initial_rate_factor
    inner = train.inner_loop
    if choice.adapts is not None:
        inner = replace(inner, adapts=choice.adapts)
    train = replace(
        train,
        inner_loop=inner,
        detector=_detector(choice, train),
        rates=replace(train.rates, initial=initial),
        outer_loop=outer,
        sampling=_sampling(choice, train.sampling),
    )
    nothing = EvaluationConfig(phases=(), device=base.evaluation.device)
    return replace(base, train=train, evaluation=nothing)


def _detector(choice: OpenPointsChoice, train: TrainConfig) -> DetectorConfig:
    detector = train.detector
    network = detector.network
    head = network.head
    head = replace(
        head,
        normalise=head.normalise if choice.normalise is None else choice.normalise,
        num_hidden=head.num_hidden if choice.num_hidden is None else choice.num_hidden,
        hidden_channels=head.hidden_channels * choice.hidden_factor,
    )
    weights = {
        "cls_weight": detector.cls_weight * choice.cls_weight_factor,  # type: ignore[attr-defined]
        "reg_weight": detector.reg_weight * choice.reg_weight_factor,  # type: ignore[attr-defined]
    }
    detector = replace(detector, network=replace(network, head=head), **weights)
    if choice.balance_cells is None and choice.negatives_per_positive is None:
        return detector
    if not isinstance(detector, FcosConfig):
        raise ValueError(
            "balance_cells and negatives_per_positive are FCOS-MAML's, got the detector "
            f"{detector.kind!r}; leave out the point score_loss"
        )
    balanced, negatives = choice.balance_cells, choice.negatives_per_positive
    return replace(
        detector,
        balance_cells=detector.balance_cells if balanced is None else balanced,
        negatives_per_positive=detector.negatives_per_positive
        if negatives is None
        else negatives or None,
    )


def _sampling(choice: OpenPointsChoice, sampling: SamplingConfig) -> SamplingConfig:
    """The same pairs with another share of those without the target."""
    factor = choice.background_factor
    if factor == 1:
        return sampling  # to the last bit: it is the same training

    def scaled(shares: PairShares) -> PairShares:
        without = (1 - shares.same_target) * factor
        return PairShares(same_target=1 - without, same_category=shares.same_category * factor)

    return replace(
        sampling,
        video_pairs=scaled(sampling.video_pairs),
        still_pairs=scaled(sampling.still_pairs),
    )


def measures(num_steps: int, *, look_alikes: bool) -> tuple[Measure, ...]:
    """Overlaps before and after adaptation, of all pair tasks and of those with look-alikes."""
    sets = {"": "IoU"} | ({"look_alike_": "IoU beside a look-alike"} if look_alikes else {})
    return tuple(
        Measure(name=f"val/{mark}iou_{k}", title=f"{title}, {when}", higher_is_better=True)
        for mark, title in sets.items()
        for k, when in ((num_steps, "after"), (0, "before"))
    )


def open_points_study(
    base: PipelineConfig,
    seeds: tuple[int, ...],
    *,
    points: Sequence[Point],
    look_alikes: bool,
) -> Study:
    """The base beside all alternatives in these points, each trained with each seed.

    An alternative that is the base itself is left out, and the log says so: a base that learns the
    heads alone has no rate of block-4.

    Raises:
        ValueError: there is no point, an alternative makes no valid config of this base, none
            differs from it, or no held-out crop shows a look-alike by which to compare.
    """
    if not points:
        raise ValueError(f"--points: at least one of {', '.join(POINTS)} expected, got none")
    if look_alikes:
        _require_look_alikes(base.train)
    cells = [START, *(cell for point in points for cell in POINTS[point])]
    variants = grid(cells, configure, base, seeds)
    same = _same_as_start(variants)
    if len(same) == len(cells) - 1:
        raise ValueError(
            f"alternatives to the base expected in {', '.join(points)}, but all of them "
            f"({', '.join(same)}) are the base itself; take other points or another preset"
        )
    if same:
        logger.warning("left out, since they are the base itself: %s", ", ".join(same))
    return Study(
        name="ablation_open_points",
        title=f"Open points: {', '.join(points)}",
        variants=tuple(each for each in variants if each.cell not in same),
        measures=measures(base.train.inner_loop.num_steps, look_alikes=look_alikes),
    )


def _same_as_start(variants: Sequence[Variant]) -> list[str]:
    """The alternatives that train what the base trains."""
    (start, *_) = variants
    first = [each for each in variants if each.seed == start.seed and each.cell != start.cell]
    base = _without_idle_rate(start.config.train)
    return [each.cell for each in first if _without_idle_rate(each.config.train) == base]


def _without_idle_rate(train: TrainConfig) -> TrainConfig:
    """The training with one and the same rate of block-4 wherever that is not learned."""
    outer = train.outer_loop
    if outer.learns != "head":
        return train
    return replace(train, outer_loop=replace(outer, backbone_learning_rate=1.0))


def _require_look_alikes(train: TrainConfig) -> None:
    fraction = train.sampling.val_fraction
    if not train.shards or not _validates_look_alikes(train):
        raise ValueError(
            f"{train.shards or 'train.shards is not set'}: shards expected that know look-alikes "
            f"in videos that training leaves out (sampling.val_fraction {fraction:g}), to compare "
            f"by the tasks that show one; among the {train.validation.num_pairs} tasks there are "
            "none. Cut COCO by data_pipeline/preprocess.py and give its folder with --shards, take "
            "more with --validation-pairs, or leave out --look-alikes"
        )


def _validates_look_alikes(train: TrainConfig) -> bool:
    """Whether a pair of the training's validation shows one; no image is decoded."""
    pairs = train.validation
    held_out = validation_stream(train.shards, train.sampling)
    return any(
        held_out.draw(lane, count).origin.shows_look_alike
        for count in range(pairs.num_pairs // pairs.batch_pairs)
        for lane in range(pairs.batch_pairs)
    )
