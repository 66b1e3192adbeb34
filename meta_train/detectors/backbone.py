"""ResNet-18 without its last stage (Fig. 4): a shared trunk and a copy of block-4 per branch.

Block-4 is torchvision's ``layer3``; the trunk is everything before it. Not in the paper: stride 8
is reached by leaving out conv1's padding and layer3's stride, so a 263x263 crop becomes an odd
33x33 map (263 -> 129 -> 65 -> 33) whose cell k looks at pixel 8k + 3, as in the authors' sibling
trackers. Batch norm is folded into the convolutions once and for all: three zooms of one image
have no batch statistics worth the name.

A network here is a dictionary of weights and functions that apply them, because meta-learning runs
one network with many weights. ``trunk.conv1.weight`` belongs to the trunk,
``cls.block4.0.conv1.bias`` to the classification branch's block-4.

Shapes: N images, W width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from data_pipeline.clear_errors import shortened
from meta_train.detectors.convolution import convolve

Weights = dict[str, Tensor]
Branch = Literal["cls", "reg"]
BRANCHES: tuple[Branch, ...] = ("cls", "reg")

STRIDE_PX = 8
MAP_SIZE = 33
"""Side of the feature map of a 263x263 crop."""

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


Conv = Callable[[str, Tensor, int, int], Tensor]
"""Applies the convolution of a name to an input, with a stride and a padding."""


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """The feature extractor."""

    width: int = 64
    """Channels of conv1 and layer1; layer2 has 2x, block-4 4x as many. 64 is ResNet-18."""

    weights: str = "imagenet"
    """Where the first weights come from: ``imagenet`` (torchvision's download), ``random`` (drawn,
    then calibrated on training crops), or the path of a torchvision ResNet-18 state dict."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"backbone width must be at least 1, got {self.width}")
        if self.weights != "random" and self.width != 64:
            if self.weights != "imagenet" and not Path(self.weights).is_file():
                raise ValueError(_no_such_weights(self.weights))
            raise ValueError(
                f"pretrained weights ({self.weights!r}) are a ResNet-18's, whose width is 64; "
                f"got width {self.width}. Use weights='random' for another width."
            )

    @property
    def out_channels(self) -> int:
        """Channels of block-4's output."""
        return 4 * self.width


def prepare(images: UInt8[Tensor, "N 3 H W"], dtype: torch.dtype) -> Float[Tensor, "N 3 H W"]:
    """RGB bytes as the network's input: scaled to 0..1, then ImageNet's mean and deviation."""
    mean, std = _statistics(dtype, images.device)
    scaled = images.to(dtype, memory_format=torch.channels_last) / 255
    return (scaled - mean) / std


@lru_cache
def _statistics(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """ImageNet's mean and deviation, (1, 3, 1, 1): sent once, since a device waits for each."""
    mean, std = torch.tensor([_IMAGENET_MEAN, _IMAGENET_STD], dtype=dtype, device=device)
    return mean.view(1, 3, 1, 1), std.view(1, 3, 1, 1)


def channels_last(weights: Weights) -> Weights:
    """The same weights, kernels laid out as convolutions of channels-last images want them."""
    return {
        name: weight.contiguous(memory_format=torch.channels_last) if weight.dim() == 4 else weight
        for name, weight in weights.items()
    }


def folded(weights: Weights, *, exact: bool = False) -> Conv:
    """The convolutions of a network, batch norm folded into their weights and biases.

    Args:
        weights: of the network. An output that is known already, under ``LAYER.map``, is taken as
            it stands: the layer is not computed.
        exact: as in `convolve`.
    """

    def conv(name: str, x: Tensor, stride: int, padding: int) -> Tensor:
        if (known := weights.get(f"{name}.map")) is not None:
            return known
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return convolve(x, weight, bias, stride, padding, exact=exact)

    return conv


def trunk(conv: Conv, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N C h w"]:
    """conv1, max-pooling, layer1 and layer2: "the first three blocks", C = 2 * width."""
    x = F.relu(conv("trunk.conv1", images, 2, 0))
    x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    x = _stage(conv, "trunk.layer1", x, stride=1, widens=False)
    return _stage(conv, "trunk.layer2", x, stride=2, widens=True)


def block4(conv: Conv, branch: str, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N D h w"]:
    """One branch's copy of layer3, at stride 1: D = 2 * C."""
    return _stage(conv, f"{branch}.block4", x, stride=1, widens=True)


def _stage(conv: Conv, name: str, x: Tensor, *, stride: int, widens: bool) -> Tensor:
    """Two basic blocks of ResNet-18; the first may change stride and width."""
    shortcut = conv(f"{name}.0.downsample", x, stride, 0) if widens else x
    x = _block(conv, f"{name}.0", x, shortcut, stride)
    return _block(conv, f"{name}.1", x, x, 1)


def _block(conv: Conv, name: str, x: Tensor, shortcut: Tensor, stride: int) -> Tensor:
    inside = F.relu(conv(f"{name}.conv1", x, stride, 1))
    return F.relu(shortcut + conv(f"{name}.conv2", inside, 1, 1))


def initial_backbone(config: BackboneConfig, generator: torch.Generator) -> Weights:
    """The trunk and both copies of block-4, before meta-training.

    Raises:
        ValueError: the file of weights is missing or is not a ResNet-18's.
    """
    if config.weights == "random":
        resnet = _random_resnet(config.width, generator)
    else:
        resnet = fold_batch_norm(_read_resnet18(config.weights))
    weights: Weights = {}
    for name, tensor in resnet.items():
        stage, _, rest = name.partition(".")
        if stage == "layer3":
            for branch in BRANCHES:
                weights[f"{branch}.block4.{rest}"] = tensor.clone()
        else:
            weights[f"trunk.{name}"] = tensor
    return weights


def fold_batch_norm(state: Weights, eps: float = 1e-5) -> Weights:
    """A torchvision ResNet-18's conv1..layer3 with each batch norm folded into its convolution.

    With s = gamma / sqrt(var + eps) a kernel w becomes s * w with bias beta - s * mean: the same
    function as the network in evaluation mode. A gradient step on folded weights equals one on
    unfolded weights with the rate s^2 * rate per kernel, which learned kernel-wise rates absorb.
    """
    result: Weights = {}
    for name in _conv_names():
        kernels, norm = _keys(name)
        scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + eps)
        result[f"{name}.weight"] = state[kernels] * scale.view(-1, 1, 1, 1)
        result[f"{name}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    return result


def calibrate(weights: Weights, images: UInt8[Tensor, "N 3 H W"]) -> Weights:
    """Random weights with each convolution's output standardised per kernel on the given crops.

    What one pass of batch norm would do, frozen and folded at once (Not in the paper: it has
    ImageNet's statistics). A kernel that is dead on these crops keeps its scale.
    """
    result = dict(weights)

    def conv(name: str, x: Tensor, stride: int, padding: int) -> Tensor:
        weight = result[f"{name}.weight"]
        x = F.conv2d(x, weight, None, stride, padding)
        std, mean = torch.std_mean(x, dim=(0, 2, 3))
        std = torch.where(std > 1e-6, std, torch.ones_like(std))
        result[f"{name}.weight"] = weight / std.view(-1, 1, 1, 1)
        result[f"{name}.bias"] = -mean / std
        return (x - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)

    with torch.no_grad():
        x = trunk(conv, prepare(images, weights["trunk.conv1.weight"].dtype))
        for branch in BRANCHES:
            block4(conv, branch, x)
    return result


def _conv_names() -> list[str]:
    """torchvision's names of the convolutions of conv1..layer3."""
    names = ["conv1"]
    for stage in ("layer1", "layer2", "layer3"):
        names += [f"{stage}.{block}.conv{i}" for block in (0, 1) for i in (1, 2)]
        names += [f"{stage}.0.downsample"] if stage != "layer1" else []
    return names


def _keys(name: str) -> tuple[str, str]:
    """torchvision's names of a convolution's kernels, and of the batch norm that follows it."""
    if name.endswith("downsample"):
        return f"{name}.0.weight", f"{name}.1"
    return f"{name}.weight", name.replace("conv", "bn")


def _kernel_shape(name: str, width: int) -> tuple[int, int, int, int]:
    """Output channels, input channels, height and width of a convolution's kernels."""
    if name == "conv1":
        return width, 3, 7, 7
    stage = int(name.partition(".")[0].removeprefix("layer"))
    wide = width * 2 ** (stage - 1)
    narrow = wide // 2 if stage > 1 and name.endswith(("0.conv1", "downsample")) else wide
    side = 1 if name.endswith("downsample") else 3
    return wide, narrow, side, side


def _random_resnet(width: int, generator: torch.Generator) -> Weights:
    """Kernels drawn from He's normal distribution, biases zero."""
    result: Weights = {}
    for name in _conv_names():
        shape = _kernel_shape(name, width)
        deviation = (2 / math.prod(shape[1:])) ** 0.5
        result[f"{name}.weight"] = torch.randn(shape, generator=generator) * deviation
        result[f"{name}.bias"] = torch.zeros(shape[0])
    return result


def _no_such_weights(source: str) -> str:
    return f"backbone weights: {source!r} is neither 'imagenet', 'random' nor an existing file"


def _read_resnet18(source: str) -> Weights:
    """The state dict of torchvision's ResNet-18, downloaded or from a file."""
    if source == "imagenet":
        from torchvision.models import ResNet18_Weights

        return dict(ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True))
    path = Path(source)
    if not path.is_file():
        raise ValueError(_no_such_weights(source))
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that torch did not write makes it raise nearly anything
        raise ValueError(
            f"{path}: expected a torchvision ResNet-18 state dict, but it does not load "
            f"({type(error).__name__}: {shortened(error, 200)})"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(
            f"{path}: expected a torchvision ResNet-18 state dict, got an object of type "
            f"{type(state).__name__}. Save model.state_dict()."
        )
    _require_resnet18(state, path)
    return dict(state)


def _require_resnet18(state: Weights, path: Path) -> None:
    """Raises `ValueError` unless a state dict holds all of conv1..layer3 in its shapes."""
    expected: dict[str, tuple[int, ...]] = {}
    for name in _conv_names():
        kernels, norm = _keys(name)
        shape = _kernel_shape(name, 64)
        expected[kernels] = shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            expected[f"{norm}.{part}"] = shape[:1]
    missing = [key for key in expected if key not in state]
    if missing:
        raise ValueError(
            f"{path}: expected a torchvision ResNet-18 state dict, but it has no {missing[0]!r} "
            f"({len(missing)} keys missing)"
        )
    for key, wanted in expected.items():
        tensor = state[key]
        is_kernel = isinstance(tensor, Tensor) and tensor.is_floating_point()
        if not is_kernel or tensor.layout != torch.strided or tuple(tensor.shape) != wanted:
            got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(
                f"{path}: expected a torchvision ResNet-18 state dict, whose {key!r} has shape "
                f"{wanted}; got {got}"
            )
