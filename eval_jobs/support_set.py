"""The online support set D^s: what a tracker has seen of its target (Alg. 1 lines 2 and 13).

Holds features at the boundary of what adapts, so that a gradient step never runs the rest of the
network again. Knows nothing of any network. Shapes: N samples, C channels.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from meta_train.detectors.network import Features


class SupportSet:
    """At most ``max_samples`` samples; the first ones never leave, the oldest others go first."""

    def __init__(
        self, features: Features, boxes: Float[Tensor, "N 4"], *, max_samples: int
    ) -> None:
        """A set with the initial samples, which stay.

        Args:
            features: of the initial samples, for each branch.
            boxes: their targets' boxes in the crop, xyxy, pixels.
            max_samples: how many samples are held at most, the initial ones included.

        Raises:
            ValueError: ``max_samples`` is less than the initial samples.
        """
        if max_samples < len(boxes):
            raise ValueError(
                f"max_samples must be at least {len(boxes)}, the number of initial samples, "
                f"got {max_samples}"
            )
        self._num_initial = len(boxes)
        self._num_added = 0
        self._max_samples = max_samples
        self._boxes = _room(boxes, max_samples)
        self._features = {name: _room(value, max_samples) for name, value in features.items()}

    def __len__(self) -> int:
        """How many samples are held."""
        return min(self._num_initial + self._num_added, self._max_samples)

    def add(self, features: Features, box: Float[Tensor, "1 4"]) -> None:
        """Takes one sample in; when full, the oldest that is not initial makes room.

        Where only the initial samples have room nothing changes.
        """
        num_places = self._max_samples - self._num_initial
        if num_places == 0:
            return
        place = self._num_initial + self._num_added % num_places
        self._boxes[place] = box[0]
        for name, value in features.items():
            self._features[name][place] = value[0]
        self._num_added += 1

    def samples(self, branches: tuple[str, ...]) -> tuple[Features, Float[Tensor, "N 4"]]:
        """Features of the given branches and boxes of all samples, as views: use before `add`."""
        count = len(self)
        features = {name: self._features[name][:count] for name in branches}
        return features, self._boxes[:count]

    def first(self, branches: tuple[str, ...]) -> tuple[Features, Float[Tensor, "N 4"]]:
        """As `samples`, of the initial samples alone."""
        features = {name: self._features[name][: self._num_initial] for name in branches}
        return features, self._boxes[: self._num_initial]


def _room(initial: Tensor, max_samples: int) -> Tensor:
    """A tensor for ``max_samples`` that begins with the initial ones.

    Not laid out with channels last, as the network's images are: on CPUs the gradients of kernels
    take a tenth longer so.
    """
    room = torch.empty(
        (max_samples, *initial.shape[1:]), dtype=initial.dtype, device=initial.device
    )
    room[: len(initial)] = initial
    return room
