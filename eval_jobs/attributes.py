"""The challenge attributes of sequences, and a tracker's score on the sequences that share one.

A sequence counts fully for each of its attributes, as in the official plots: the score of OCC is
the score over all sequences in which the target is somewhere occluded.
"""

from dataclasses import dataclass

from data_pipeline.tracks import Track
from eval_jobs.benchmarks import sequence_name
from eval_jobs.scores import TrackerScore

CHALLENGES = {
    "IV": "illumination variation",
    "SV": "scale variation",
    "OCC": "occlusion",
    "DEF": "deformation",
    "MB": "motion blur",
    "FM": "fast motion",
    "IPR": "in-plane rotation",
    "OPR": "out-of-plane rotation",
    "OV": "out of view",
    "BC": "background clutter",
    "LR": "low resolution",
}
"""OTB's eleven attributes, in its authors' order."""


def _attributes(text: str) -> dict[str, tuple[str, ...]]:
    """Lines ``sequence: attribute attribute``, by the sequence's name in lower case."""
    rows = (line.split(":") for line in text.strip().splitlines())
    return {name.strip().casefold(): tuple(tags.split()) for name, tags in rows}


OTB_ATTRIBUTES = _attributes("""
    Basketball: IV OCC DEF OPR BC
    Biker: SV OCC MB FM OPR OV LR
    Bird1: DEF FM OV
    Bird2: OCC DEF FM IPR OPR
    BlurBody: SV DEF MB FM IPR
    BlurCar1: MB FM
    BlurCar2: SV MB FM
    BlurCar3: MB FM
    BlurCar4: MB FM
    BlurFace: MB FM IPR
    BlurOwl: SV MB FM IPR
    Board: SV MB FM OPR OV BC
    Bolt: OCC DEF IPR OPR
    Bolt2: DEF BC
    Box: IV SV OCC MB IPR OPR OV BC LR
    Boy: SV MB FM IPR OPR
    Car1: IV SV MB FM BC LR
    Car2: IV SV MB FM BC
    Car24: IV SV BC
    Car4: IV SV
    CarDark: IV BC
    CarScale: SV OCC FM IPR OPR
    ClifBar: SV OCC MB FM IPR OV BC
    Coke: IV OCC FM IPR OPR BC
    Couple: SV DEF FM OPR BC
    Coupon: OCC BC
    Crossing: SV DEF FM OPR BC
    Crowds: IV DEF BC
    Dancer: SV DEF IPR OPR
    Dancer2: DEF
    David: IV SV OCC DEF MB IPR OPR
    David2: IPR OPR
    David3: OCC DEF OPR BC
    Deer: MB FM IPR BC LR
    Diving: SV DEF IPR
    Dog: SV DEF OPR
    Dog1: SV IPR OPR
    Doll: IV SV OCC IPR OPR
    DragonBaby: SV OCC MB FM IPR OPR OV
    Dudek: SV OCC DEF FM IPR OPR OV BC
    FaceOcc1: OCC
    FaceOcc2: IV OCC IPR OPR
    Fish: IV
    FleetFace: SV DEF MB FM IPR OPR
    Football: OCC IPR OPR BC
    Football1: IPR OPR BC
    Freeman1: SV IPR OPR
    Freeman3: SV IPR OPR
    Freeman4: SV OCC IPR OPR
    Girl: SV OCC IPR OPR
    Girl2: SV OCC DEF MB OPR
    Gym: SV DEF IPR OPR
    Human2: IV SV MB OPR
    Human3: SV OCC DEF OPR BC
    Human4.2: IV SV OCC DEF
    Human5: SV OCC DEF
    Human6: SV OCC DEF FM OPR OV
    Human7: IV SV OCC DEF MB FM
    Human8: IV SV DEF
    Human9: IV SV DEF MB FM
    Ironman: IV SV OCC MB FM IPR OPR OV BC LR
    Jogging.1: OCC DEF OPR
    Jogging.2: OCC DEF OPR
    Jump: SV OCC DEF MB FM IPR OPR
    Jumping: MB FM
    KiteSurf: IV OCC IPR OPR
    Lemming: IV SV OCC FM OPR OV
    Liquor: IV SV OCC MB FM OPR OV BC
    Man: IV
    Matrix: IV SV OCC FM IPR OPR BC
    Mhyang: IV DEF OPR BC
    MotorRolling: IV SV MB FM IPR BC LR
    MountainBike: IPR OPR BC
    Panda: SV OCC DEF IPR OPR OV LR
    RedTeam: SV OCC IPR OPR LR
    Rubik: SV OCC IPR OPR
    Shaking: IV SV IPR OPR BC
    Singer1: IV SV OCC OPR
    Singer2: IV DEF IPR OPR BC
    Skater: SV DEF IPR OPR
    Skater2: SV DEF FM IPR OPR
    Skating1: IV SV OCC DEF OPR BC
    Skating2.1: SV OCC DEF FM OPR
    Skating2.2: SV OCC DEF FM OPR
    Skiing: IV SV DEF IPR OPR
    Soccer: IV SV OCC MB FM IPR OPR BC
    Subway: OCC DEF BC
    Surfer: SV FM IPR OPR LR
    Suv: OCC IPR OV
    Sylvester: IV IPR OPR
    Tiger1: IV OCC DEF MB FM IPR OPR
    Tiger2: IV OCC DEF MB FM IPR OPR OV
    Toy: SV FM IPR OPR
    Trans: IV SV OCC DEF
    Trellis: IV SV IPR OPR BC
    Twinnings: SV OPR
    Vase: SV FM IPR
    Walking: SV OCC DEF
    Walking2: SV OCC LR
    Woman: IV SV OCC DEF MB FM OPR
""")
"""The attributes of OTB-100's sequences by name in lower case: the list in `data/attr_list.txt` of
the benchmark's Python toolkit, by one of its authors."""


@dataclass(frozen=True, kw_only=True)
class AttributeScore:
    """How a tracker did on the sequences that have an attribute."""

    attribute: str
    """A key of `CHALLENGES`, or a tag of another benchmark."""

    num_sequences: int
    """How many of the evaluated sequences have it."""

    values: dict[str, float]
    """The benchmark's metrics, by name, read from what these sequences amount to together."""


def attributes_of(track: Track) -> tuple[str, ...]:
    """A sequence's attributes: those of its reader, or those of OTB's list; none if neither."""
    if track.attributes or track.dataset != "otb":
        return track.attributes
    return OTB_ATTRIBUTES.get(sequence_name(track).casefold(), ())


def attribute_scores(score: TrackerScore) -> list[AttributeScore]:
    """A tracker's scores by attribute: OTB's in their order, then others as they come."""
    tags = [attributes_of(track) for track in score.selection.tracks]
    found = dict.fromkeys(tag for each in tags for tag in each)
    known = [name for name in CHALLENGES if name in found]
    benchmark = score.selection.benchmark
    scores = []
    for attribute in dict.fromkeys([*known, *found]):
        parts = [
            sequence.measured
            for sequence, each in zip(score.sequences, tags, strict=True)
            if attribute in each
        ]
        pooled = benchmark.scoring.pool(parts)
        scores.append(
            AttributeScore(
                attribute=attribute,
                num_sequences=len(parts),
                values={metric.name: metric.read(pooled) for metric in benchmark.metrics},
            )
        )
    return scores
