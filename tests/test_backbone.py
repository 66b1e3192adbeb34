"""The backbone: geometry, torchvision's weights, calibration."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, resnet18

from meta_train.detectors.backbone import (
    BackboneConfig,
    Weights,
    block4,
    calibrate,
    fold_batch_norm,
    folded,
    initial_backbone,
    prepare,
    trunk,
)

SLIM = BackboneConfig(width=2, weights="random")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int = 1, side: int = 263) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), generator=generator(), dtype=torch.uint8)


def random_resnet18() -> nn.Module:
    """torchvision's network in evaluation mode, with statistics that are no identity."""
    torch.manual_seed(0)
    network = resnet18(weights=None).double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return network


def with_stride_8(network: nn.Module) -> nn.Sequential:
    """Its first stages, with the two changes that the tracker makes."""
    network.conv1.padding = (0, 0)
    network.layer3[0].conv1.stride = (1, 1)
    network.layer3[0].downsample[0].stride = (1, 1)
    stem = [network.conv1, network.bn1, network.relu, network.maxpool]
    return nn.Sequential(*stem, network.layer1, network.layer2, network.layer3)


def features(weights: Weights, images: Tensor, branch: str = "cls") -> Tensor:
    conv = folded(weights)
    dtype = weights["trunk.conv1.weight"].dtype
    return block4(conv, branch, trunk(conv, prepare(images, dtype)))


def test_a_crop_becomes_a_map_of_33() -> None:
    weights = initial_backbone(SLIM, generator())
    assert trunk(folded(weights), prepare(noise(2), torch.float32)).shape == (2, 4, 33, 33)
    assert features(weights, noise(2)).shape == (2, SLIM.out_channels, 33, 33)


def test_cell_k_looks_at_pixel_8k_plus_3(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of a cell by the pixels is symmetric about its pixel, with constant kernels.

    With mean pooling: on a constant image, the largest of nine equal values would be a corner.
    """
    monkeypatch.setattr(F, "max_pool2d", F.avg_pool2d)
    narrow = initial_backbone(BackboneConfig(width=1, weights="random"), generator())
    weights = {n: torch.full_like(w, 0.1) if w.dim() > 1 else w for n, w in narrow.items()}
    image = torch.ones(1, 3, 263, 263, requires_grad=True)
    output = block4(folded(weights), "cls", trunk(folded(weights), image))
    for row, column in ((16, 16), (12, 19)):
        (gradient,) = torch.autograd.grad(output[0, 0, row, column], image, retain_graph=True)
        energy = gradient[0].abs().sum(0)
        pixels = torch.arange(263.0)
        center = [float((energy.sum(d) * pixels).sum() / energy.sum()) for d in (1, 0)]
        assert center == pytest.approx([8 * row + 3, 8 * column + 3], abs=0.01)


def test_shifting_the_crop_by_the_stride_shifts_the_map_by_a_cell() -> None:
    weights = {n: w.double() for n, w in initial_backbone(SLIM, generator()).items()}
    wide = noise(side=271)
    one, other = features(weights, wide[..., :263, :263]), features(weights, wide[..., 8:, 8:])
    torch.testing.assert_close(one[..., 13:23, 13:23], other[..., 12:22, 12:22])


def test_folding_equals_torchvisions_network_in_evaluation_mode() -> None:
    network = random_resnet18()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    weights: Weights = {}
    for name, tensor in fold_batch_norm(state).items():
        stage = name.partition(".")
        is_block4 = stage[0] == "layer3"
        weights[f"cls.block4.{stage[2]}" if is_block4 else f"trunk.{name}"] = tensor
    with torch.no_grad():
        expected = with_stride_8(network)(prepare(noise(), torch.float64))
        found = features(weights, noise())
    assert expected.shape == (1, 256, 33, 33)
    torch.testing.assert_close(found, expected)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.save(random_resnet18().float().state_dict(), tmp_path / "resnet18.pth")
    return tmp_path / "resnet18.pth"


def test_a_file_of_torchvisions_fills_the_trunk_and_both_branches(saved: Path) -> None:
    weights = initial_backbone(BackboneConfig(weights=str(saved)), generator())
    random = initial_backbone(BackboneConfig(weights="random"), generator())
    assert {n: w.shape for n, w in weights.items()} == {n: w.shape for n, w in random.items()}
    expected = fold_batch_norm(torch.load(saved, weights_only=True))
    for branch in ("cls", "reg"):
        kernels = weights[f"{branch}.block4.0.conv1.weight"]
        torch.testing.assert_close(kernels, expected["layer3.0.conv1.weight"])
    cls, reg = (weights[f"{b}.block4.1.conv2.weight"] for b in ("cls", "reg"))
    assert cls.data_ptr() != reg.data_ptr(), "two independent copies"


def test_imagenet_is_torchvisions_download(monkeypatch: pytest.MonkeyPatch) -> None:
    state = random_resnet18().float().state_dict()
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda self, **_: state)
    weights = initial_backbone(BackboneConfig(), generator())
    torch.testing.assert_close(
        weights["trunk.conv1.weight"], fold_batch_norm(state)["conv1.weight"]
    )


def test_files_that_do_not_fit_are_named(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(ValueError, match=r"no/such.pth.*nor an existing file"):
        initial_backbone(BackboneConfig(weights="no/such.pth"), generator())
    state = torch.load(saved, weights_only=True)
    for gone in ("layer3.1.conv2.weight", "bn1.running_var", "layer2.0.downsample.0.weight"):
        path = tmp_path / "less.pth"
        torch.save({name: tensor for name, tensor in state.items() if name != gone}, path)
        with pytest.raises(ValueError, match=rf"less\.pth.*has no '{gone}'"):
            initial_backbone(BackboneConfig(weights=str(path)), generator())
    wrong = tmp_path / "wrong.pth"
    torch.save({**state, "conv1.weight": torch.zeros(8, 3, 7, 7)}, wrong)
    with pytest.raises(ValueError, match=r"conv1\.weight.*\(64, 3, 7, 7\).*\(8, 3, 7, 7\)"):
        initial_backbone(BackboneConfig(weights=str(wrong)), generator())
    torch.save(torch.ones(()).expand(10**9, 10**6), wrong)  # a kilobyte on disk
    with pytest.raises(ValueError, match=r"wrong\.pth.*state dict, got .* Tensor"):
        initial_backbone(BackboneConfig(weights=str(wrong)), generator())
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        initial_backbone(BackboneConfig(weights=str(text)), generator())


def test_calibration_standardises_each_convolution() -> None:
    weights = calibrate(initial_backbone(SLIM, generator()), noise(3))
    statistics = {}

    def conv(name: str, x: Tensor, stride: int, padding: int) -> Tensor:
        y = folded(weights)(name, x, stride, padding)
        statistics[name] = torch.std_mean(y, dim=(0, 2, 3))
        return y

    shared = trunk(conv, prepare(noise(3), torch.float32))
    for branch in ("cls", "reg"):
        block4(conv, branch, shared)
    assert len(statistics) == len(weights) / 2
    for name, (std, mean) in statistics.items():
        dead = std < 1e-6
        torch.testing.assert_close(std[~dead], torch.ones_like(std[~dead]), rtol=1e-3, atol=0)
        torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-3, msg=name)


def test_random_weights_follow_the_generator_alone() -> None:
    one, same = (initial_backbone(SLIM, generator()) for _ in range(2))
    other = initial_backbone(SLIM, generator(1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["trunk.conv1.weight"], other["trunk.conv1.weight"])
    wide = initial_backbone(BackboneConfig(weights="random"), generator())
    kernels = wide["cls.block4.1.conv1.weight"]
    assert float(kernels.std()) == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)


def test_configs_refuse() -> None:
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        BackboneConfig(width=0, weights="random")
    with pytest.raises(ValueError, match=r"width is 64; got width 16.*random"):
        BackboneConfig(width=16)
    with pytest.raises(ValueError, match=r"'no\.pth' is neither .* nor an existing file"):
        BackboneConfig(width=16, weights="no.pth")
