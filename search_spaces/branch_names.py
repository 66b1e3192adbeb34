"""What the studies' names of branches stand for: rows of Tables 2 and 3, and knobs."""

from meta_train.detectors.backbone import BRANCHES, Branch

NAMED_BRANCHES: dict[str, tuple[Branch, ...]] = {
    "none": (),
    "cls": ("cls",),
    "reg": ("reg",),
    "both": BRANCHES,
}
"""The branches of the detector's head, by name."""
