"""Features that turn with the picture, from a frozen trunk that does not."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock


class RotationalNormaliser(nn.Module):
    """Features that turn with the picture: the largest of what a frozen trunk says of its four turns, each turned back.

    The trunk is ResNet-18 up to its third stage, of stride 16, and stays in evaluation mode: its statistics belong to its weights.

    Args:
        width: channels of the trunk's first stage; 64 in ResNet-18. The output has four times as many.

    Source: Spectral VMamba (arXiv 2503.06369), the rotational feature normaliser.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _residual_stage(width, width, 1)
        self.layer2 = _residual_stage(width, 2 * width, 2)
        self.layer3 = _residual_stage(2 * width, 4 * width, 2)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "RotationalNormaliser":
        """Stays in evaluation mode."""
        return super().train(False)

    def trunk(self, image: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, 4*width, ceil(h/16), ceil(w/16))."""
        x = F.max_pool2d(self.bn1(self.conv1(image)).relu(), 3, 2, 1)
        return self.layer3(self.layer2(self.layer1(x)))

    def forward(self, image: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, 4*width, ceil(h/16), ceil(w/16)). Turning the input turns the output."""
        turned = [torch.rot90(self.trunk(torch.rot90(image, q, (2, 3))), -q, (2, 3)) for q in range(4)]
        return torch.stack(turned).amax(0)


def _residual_stage(width_in: int, width_out: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or width_in != width_out:
        shortcut = nn.Sequential(nn.Conv2d(width_in, width_out, 1, stride, bias=False), nn.BatchNorm2d(width_out))
    return nn.Sequential(BasicBlock(width_in, width_out, stride, shortcut), BasicBlock(width_out, width_out))
