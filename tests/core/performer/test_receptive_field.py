"""Receptive fields, against the support of the gradient of the real, unchanged networks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paraphrase.core.errors import InputError
from paraphrase.core.performer.performer import build_network
from paraphrase.core.performer.receptive_field import ReceptiveField, receptive_field

FEATURES = {
    **{"small": "features.16", "alexnet": "features.11", "vgg_m": "features.13", "vgg_s": "features.12", "vgg16": "features.29"},
    **{"resnet18": "layer4", "convnext_tiny": "features"},
}
LAYERS = [
    *FEATURES.items(),
    ("resnet50", "layer3"),
    ("shufflenet_v2_x0_5", "stage3"),  # shuffled channels
    ("densenet121", "features.transition1"),
    ("inception_v3", "Mixed_6a"),  # functional poolings, and branches of different size that agree in their centres
]


def float64_network(arch: str) -> nn.Module:
    """Randomly weighted, without the fully connected layers, which hold most of the weights."""
    with torch.device("meta"):
        network = build_network(arch, 2)
    if arch in ("small", "alexnet", "vgg_m", "vgg_s", "vgg16"):
        network.classifier = nn.Identity()
    network = network.to_empty(device="cpu").double().eval().requires_grad_(False)
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    for name, value in network.named_parameters():
        if name.endswith("layer_scale"):
            value.fill_(1e-2)
    return network


def support(network: nn.Module, layer: str, axis: int, length: int, thickness: int, cell: int) -> tuple[int, int]:
    """First and last pixel along the axis that change a cell's value: gradients of a thin image."""
    shape = (1, 3, length, thickness) if axis == 0 else (1, 3, thickness, length)
    images = torch.rand(shape, dtype=torch.float64).requires_grad_()
    seen: list[Tensor] = []
    handle = network.get_submodule(layer).register_forward_hook(lambda module, inputs, output: seen.append(output))
    network(images)
    handle.remove()
    line = seen[-1].select(2 + axis, cell)
    (gradient,) = torch.autograd.grad((line * torch.rand_like(line)).sum(), images)
    touched = gradient.abs().amax((0, 1, 3 - axis)).nonzero().flatten()
    return int(touched[0]), int(touched[-1])


@pytest.mark.parametrize(("arch", "layer"), LAYERS, ids=[f"{a}-{layer}" for a, layer in LAYERS])
def test_field_is_the_support_of_the_gradient(arch: str, layer: str) -> None:
    torch.manual_seed(0)
    network = float64_network(arch)
    field = receptive_field(network, layer)
    cell = int(field.size / 2 / field.stride) + 2
    length = int(field.start + cell * field.stride + field.size / 2 + 2 * field.stride)
    thickness = 75 if arch == "inception_v3" else 96 if arch in ("alexnet", "vgg_m", "vgg_s") else 32
    for axis in (1,) if arch == "convnext_tiny" else (0, 1):  # whose field is 1688 px: one axis takes seconds
        first, last = support(network, layer, axis, length, thickness, cell)
        assert (first + last + 1) / 2 == field.start + cell * field.stride
        assert last + 1 - first == field.size


@pytest.mark.parametrize(
    ("arch", "field"),
    [
        ("alexnet", ReceptiveField(15.5, 16, 163)),
        ("vgg16", ReceptiveField(8, 16, 196)),
        ("vgg_m", ReceptiveField(17.5, 16, 139)),
        ("resnet18", ReceptiveField(0.5, 32, 435)),
    ],
)
def test_fields_of_the_papers_networks_worked_out_by_hand(arch: str, field: ReceptiveField) -> None:
    with torch.device("meta"):
        assert receptive_field(build_network(arch, 2), FEATURES[arch]) == field


def test_a_single_pixel_is_centred_in_its_middle() -> None:
    assert receptive_field(nn.Sequential(nn.Conv2d(3, 4, 1)), "0") == ReceptiveField(0.5, 1, 1)


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(1, 1, 3, dilation=2, padding=1), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(1, 1, 2)],
        [nn.Conv2d(1, 1, 4, padding="same"), nn.AvgPool2d(2), nn.Conv2d(1, 1, 5, padding="valid")],
        [nn.Conv2d(1, 1, (1, 7), padding=(0, 3)), nn.Conv2d(1, 1, (7, 1), padding=(3, 0)), nn.MaxPool2d(2, 3)],
    ],
    ids=["dilated", "same", "factored"],
)
def test_odd_windows_agree_with_gradients(layers: list[nn.Module]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(*layers).double()
    widened = nn.Sequential(nn.Conv2d(3, 1, 1).double(), *network)
    field = receptive_field(widened, str(len(layers)))
    for axis in (0, 1):
        spans = [support(widened, str(len(layers)), axis, 60, 40, 5) for _ in range(20)]
        first, last_pixel = min(s[0] for s in spans), max(s[1] for s in spans)
        assert (first + last_pixel + 1) / 2 == field.start + 5 * field.stride
        assert last_pixel + 1 - first == field.size


class Padded(nn.Conv2d):
    """`same` as in TensorFlow: a padding of its own, more at the end, and a convolution by function."""

    def __init__(self) -> None:
        super().__init__(3, 3, 3, stride=2)
        self.around = nn.ZeroPad2d((0, 1, 0, 1))

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(F.pad(self.around(images), (1, 0, 1, 0)), self.weight, self.bias, self.stride, (0, 0), (2, 2))


def test_paddings_and_convolutions_by_function_agree_with_gradients() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(Padded(), Padded(), nn.ReLU()).double()
    field = receptive_field(network, "1")
    for axis in (0, 1):
        first, last = support(network, "1", axis, 60, 40, 5)
        assert (first + last + 1) / 2 == field.start + 5 * field.stride
        assert last + 1 - first == field.size


class Gated(nn.Module):
    """Squeeze and excitation: a global branch scales the maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        return maps * self.gate(F.adaptive_avg_pool2d(maps, 1)).sigmoid()


def test_global_branches_leave_the_field_as_it_is() -> None:
    network = nn.Sequential(Gated())
    assert receptive_field(network, "0") == ReceptiveField(1.5, 1, 3)


class Crooked(nn.Module):
    """A residual sum whose branches look at different places."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 2), nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.left(images) + self.right(images)[:, :, 1:, 1:]


class Shortcut(nn.Module):
    """Branches of different centre, as a shortcut that pools has (ResNet-D)."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.MaxPool2d(2, 2), nn.Conv2d(3, 3, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.left(images) + self.right(images)


class Strides(nn.Module):
    """Branches whose cells lie at different distances."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 3, 113), nn.Conv2d(3, 3, 3, stride=2, padding=1)  # both 112 of 224

    def forward(self, images: Tensor) -> Tensor:
        return self.fine(images) + self.coarse(images)


def test_a_sum_sees_all_that_its_branches_see() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 3, 3), Shortcut()).double()
    field = receptive_field(network, "1")
    for axis in (0, 1):
        spans = [support(network, "1", axis, 40, 40, 5) for _ in range(20)]
        first, last = min(s[0] for s in spans), max(s[1] for s in spans)
        assert (first + last + 1) / 2 == field.start + 5 * field.stride
        assert last + 1 - first == field.size


@pytest.mark.parametrize(
    ("network", "layer", "message"),
    [
        (nn.Sequential(Strides()), "0", "different strides meet at add in 0"),
        (nn.Sequential(Crooked()), "0", "getitem"),
        (nn.Sequential(nn.Conv2d(3, 3, 3), nn.Upsample(scale_factor=2)), "1", "after Upsample .interpolate. in 1 is not known"),
        (nn.Sequential(nn.ConvTranspose2d(3, 3, 2)), "0", "ConvTranspose2d"),
        (nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1)), "1", "after a global pooling"),
        (nn.Sequential(nn.Conv2d(3, 3, (3, 5))), "0", "differently along rows and columns"),
    ],
    ids=["strides", "crop", "upsampling", "transposed", "global", "oblong"],
)
def test_fields_that_are_not_known_are_errors(network: nn.Module, layer: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        receptive_field(network, layer)
    assert "\n" not in str(caught.value)


def test_a_layer_that_does_not_run_is_an_error() -> None:
    with torch.device("meta"):
        network = build_network("googlenet", 2).eval()
        network.unused = nn.Conv2d(1, 1, 1)
    with pytest.raises(InputError, match="unused is not on the network's path"):
        receptive_field(network, "unused")
