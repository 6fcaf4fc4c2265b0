"""Networks that torchvision does not have: VGG-M and VGG-S as published, and a small CNN for the default data."""

from __future__ import annotations

from torch import Tensor, nn


class ChainedNet(nn.Module):
    """A convolutional part and a classifier, as torchvision lays out AlexNet and VGG.

    Args:
        features: images -> maps.
        side: of the maps at the published input size; `avgpool` brings other inputs to it and leaves this one as it is.
        classifier: flattened maps -> logits.
    """

    def __init__(self, features: nn.Sequential, side: int, classifier: nn.Sequential):
        super().__init__()
        self.features, self.avgpool, self.classifier = features, nn.AdaptiveAvgPool2d(side), classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(images)).flatten(1))


def _fully_connected(inputs: int, hidden: int, classes: int, dropout: float) -> nn.Sequential:
    """fc6 and fc7, each with ReLU and dropout, and fc8: `classifier.1` and `classifier.4` are the targets."""
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, classes),
    )


def vgg_m(classes: int) -> ChainedNet:
    """CNN-M of Chatfield et al., BMVC 2014, table 1: 96 x 7 x 7 / 2, 256 x 5 x 5 / 2, three of 512 x 3 x 3; 224 px.

    Poolings round up, as in Caffe and MatConvNet; torch's LRN divides alpha by its size, as Caffe's does.
    """
    features = nn.Sequential(
        nn.Conv2d(3, 96, 7, stride=2),
        nn.ReLU(),
        nn.LocalResponseNorm(5, alpha=5e-4, k=2),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        nn.Conv2d(96, 256, 5, stride=2, padding=1),
        nn.ReLU(),
        nn.LocalResponseNorm(5, alpha=5e-4, k=2),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        nn.Conv2d(256, 512, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(512, 512, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(512, 512, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
    )
    return ChainedNet(features, 6, _fully_connected(512 * 6 * 6, 4096, classes, 0.5))


def vgg_s(classes: int) -> ChainedNet:
    """CNN-S of Chatfield et al., BMVC 2014, table 1: 96 x 7 x 7 / 2, 256 x 5 x 5 / 1, three of 512 x 3 x 3; 224 px.

    Poolings round up, as in Caffe and MatConvNet; torch's LRN divides alpha by its size, as Caffe's does.
    """
    features = nn.Sequential(
        nn.Conv2d(3, 96, 7, stride=2),
        nn.ReLU(),
        nn.LocalResponseNorm(5, alpha=5e-4, k=2),
        nn.MaxPool2d(3, stride=3, ceil_mode=True),
        nn.Conv2d(96, 256, 5),
        nn.ReLU(),
        nn.MaxPool2d(2, stride=2, ceil_mode=True),
        nn.Conv2d(256, 512, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(512, 512, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(512, 512, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=3, ceil_mode=True),
    )
    return ChainedNet(features, 6, _fully_connected(512 * 6 * 6, 4096, classes, 0.5))


def small(classes: int) -> ChainedNet:
    """Five conv-layers with batch norm to a feature of 64 x 14 x 14 at 112 px, then fc6 and fc7 of 256."""
    layers: list[nn.Module] = []
    channels = 3
    for width, kernel, stride, pool in (
        (24, 5, 2, False),
        (32, 3, 1, True),
        (64, 3, 1, True),
        (64, 3, 1, False),
        (64, 3, 1, True),
    ):
        conv = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, bias=False)
        layers += [conv, nn.BatchNorm2d(width), nn.ReLU()] + ([nn.MaxPool2d(2)] if pool else [])
        channels = width
    return ChainedNet(nn.Sequential(*layers), 7, _fully_connected(channels * 7 * 7, 256, classes, 0.3))
