"""FID's Inception-v3: what a set of images is like, as one vector an image.

    load_inception    file                             ->  Inception
    extract_features  Inception, (N, H, W, 3) uint8  ->  (N, 2048) float32

The network is Inception-v3 (Szegedy et al. 2015, arXiv:1512.00567) with the weights that FID was
defined by (Heusel et al. 2017, arXiv:1706.08500): TensorFlow's `inception-2015-12-05`. The file is
its published port, `pt_inception-2015-12-05-6726825d.pth` of the project pytorch-fid. Names
of modules, and so state-dict keys, are those of torchvision's `Inception3`, without `AuxLogits`.

TensorFlow's graph differs from torchvision's network, and so does this one: average pooling leaves
out the padding (`_pool_average`), and the last block pools by maximum.

The network was compared with pytorch-fid 0.3.0 for random weights, never for the published ones.
"""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqpipe.errors import CheckpointError
from vqpipe.metrics import Images
from vqpipe.quality.batches import in_full_float32, split_batches
from vqpipe.quality.judges import build_network, read_state

SIDE_PX = 299
"""Every image is resized to this square."""
FEATURES = 2048
"""Length of the vectors."""
CLASSIFIER = {"fc.weight": (1008, FEATURES), "fc.bias": (1008,)}
"""What the file has for the classes of ImageNet, which features do without."""
BATCH_SIZE = 32
"""Images at a time."""

_ADVICE = "get pt_inception-2015-12-05-6726825d.pth of pytorch-fid's releases"


class BasicConv2d(nn.Module):
    """A convolution, its norm and a ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, C, h, w)."""
        return F.relu(self.bn(self.conv(x)))


def _strip(in_channels: int, out_channels: int, kernel: tuple[int, int]) -> BasicConv2d:
    """Returns a convolution along one axis that keeps the size."""
    padding = (kernel[0] // 2, kernel[1] // 2)
    return BasicConv2d(in_channels, out_channels, kernel, padding=padding)


class InceptionA(nn.Module):
    """35 x 35: branches of 1 x 1, 5 x 5 and twice 3 x 3."""

    def __init__(self, channels: int, pool_channels: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(channels, 64, 1)
        self.branch5x5_1 = BasicConv2d(channels, 48, 1)
        self.branch5x5_2 = BasicConv2d(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = BasicConv2d(channels, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, padding=1)
        self.branch_pool = BasicConv2d(channels, pool_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, 224 + pool channels, h, w)."""
        small = self.branch5x5_2(self.branch5x5_1(x))
        large = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        pooled = self.branch_pool(_pool_average(x))
        return torch.cat([self.branch1x1(x), small, large, pooled], 1)


class InceptionB(nn.Module):
    """35 x 35 to 17 x 17."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3 = BasicConv2d(channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = BasicConv2d(channels, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, 480 + C, h, w) of half the size."""
        large = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), large, F.max_pool2d(x, 3, stride=2)], 1)


class InceptionC(nn.Module):
    """17 x 17: a 7 x 7 window in strips, once and twice."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(channels, 192, 1)
        self.branch7x7_1 = BasicConv2d(channels, inner, 1)
        self.branch7x7_2 = _strip(inner, inner, (1, 7))
        self.branch7x7_3 = _strip(inner, 192, (7, 1))
        self.branch7x7dbl_1 = BasicConv2d(channels, inner, 1)
        self.branch7x7dbl_2 = _strip(inner, inner, (7, 1))
        self.branch7x7dbl_3 = _strip(inner, inner, (1, 7))
        self.branch7x7dbl_4 = _strip(inner, inner, (7, 1))
        self.branch7x7dbl_5 = _strip(inner, 192, (1, 7))
        self.branch_pool = BasicConv2d(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, 768, h, w)."""
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        pooled = self.branch_pool(_pool_average(x))
        return torch.cat([self.branch1x1(x), once, twice, pooled], 1)


class InceptionD(nn.Module):
    """17 x 17 to 8 x 8."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3_1 = BasicConv2d(channels, 192, 1)
        self.branch3x3_2 = BasicConv2d(192, 320, 3, stride=2)
        self.branch7x7x3_1 = BasicConv2d(channels, 192, 1)
        self.branch7x7x3_2 = _strip(192, 192, (1, 7))
        self.branch7x7x3_3 = _strip(192, 192, (7, 1))
        self.branch7x7x3_4 = BasicConv2d(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, 512 + C, h, w) of half the size."""
        small = self.branch3x3_2(self.branch3x3_1(x))
        large = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat([small, self.branch7x7x3_4(large), F.max_pool2d(x, 3, stride=2)], 1)


class InceptionE(nn.Module):
    """8 x 8: branches that end in a row and a column side by side."""

    def __init__(self, channels: int, *, is_last: bool) -> None:
        super().__init__()
        self.is_last = is_last
        self.branch1x1 = BasicConv2d(channels, 320, 1)
        self.branch3x3_1 = BasicConv2d(channels, 384, 1)
        self.branch3x3_2a = _strip(384, 384, (1, 3))
        self.branch3x3_2b = _strip(384, 384, (3, 1))
        self.branch3x3dbl_1 = BasicConv2d(channels, 448, 1)
        self.branch3x3dbl_2 = BasicConv2d(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = _strip(384, 384, (1, 3))
        self.branch3x3dbl_3b = _strip(384, 384, (3, 1))
        self.branch_pool = BasicConv2d(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, 2048, h, w)."""
        small = self.branch3x3_1(x)
        large = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        around = F.max_pool2d(x, 3, stride=1, padding=1) if self.is_last else _pool_average(x)
        branches = [
            self.branch1x1(x),
            self.branch3x3_2a(small),
            self.branch3x3_2b(small),
            self.branch3x3dbl_3a(large),
            self.branch3x3dbl_3b(large),
            self.branch_pool(around),
        ]
        return torch.cat(branches, 1)


def _pool_average(x: Tensor) -> Tensor:
    """Returns the mean of each 3 x 3 window, of as much of it as lies inside."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class Inception(nn.Module):
    """The whole network up to its features, top to bottom."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, 3)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80, 1)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, 3)
        self.Mixed_5b = InceptionA(192, 32)
        self.Mixed_5c = InceptionA(256, 64)
        self.Mixed_5d = InceptionA(288, 64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(768, 128)
        self.Mixed_6c = InceptionC(768, 160)
        self.Mixed_6d = InceptionC(768, 160)
        self.Mixed_6e = InceptionC(768, 192)
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = InceptionE(1280, is_last=False)
        self.Mixed_7c = InceptionE(2048, is_last=True)

    def forward(self, x: Tensor) -> Tensor:
        """Returns features (B, 2048) of images (B, 3, H, W) in [0, 1], of any size."""
        side = (SIDE_PX, SIDE_PX)
        x = F.interpolate(x, size=side, mode="bilinear", align_corners=False, antialias=False)
        x = self.Conv2d_1a_3x3(2 * x - 1)  # (B, 32, 149, 149)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(x))  # (B, 64, 147, 147)
        x = F.max_pool2d(x, 3, stride=2)  # (B, 64, 73, 73)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))  # (B, 192, 71, 71)
        x = F.max_pool2d(x, 3, stride=2)  # (B, 192, 35, 35)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))  # (B, 288, 35, 35)
        x = self.Mixed_6a(x)  # (B, 768, 17, 17)
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        x = self.Mixed_7a(x)  # (B, 1280, 8, 8)
        x = self.Mixed_7c(self.Mixed_7b(x))  # (B, 2048, 8, 8)
        return x.mean((2, 3))


def load_inception(where: str, device: str | torch.device = "cpu") -> Inception:
    """Returns the network on a device.

    Args:
        where: The published file, or the same tensors as safetensors; see `checkpoint`.
        device: A torch device.

    Raises:
        CheckpointError: There is no such file, or it is damaged or something else.
    """
    state = _drop_unused(read_state(where), where)
    return build_network(Inception, state, where, _ADVICE).to(device)


def _drop_unused(state: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Returns the weights without the classifier, and without how many batches norms have seen.

    Training needs those counters, and only files of torch 0.4.1 and later have them.
    """
    for name, shape in CLASSIFIER.items():
        found = tuple(state[name].shape) if name in state else "missing"
        if found != shape:
            raise CheckpointError(f"{where}: {name} is {found}, not {shape}; {_ADVICE}")
    counted = {name for name in state if name.endswith(".bn.num_batches_tracked")}
    return {name: state[name] for name in state.keys() - counted - CLASSIFIER.keys()}


@torch.inference_mode()
def extract_features(
    network: Inception, images: Images, batch_size: int = BATCH_SIZE
) -> npt.NDArray[np.float32]:
    """Returns the features (N, 2048) float32 of images (N, H, W, 3) uint8 RGB.

    Args:
        network: From `load_inception`; its device is where it is computed, in float32.
        images: Of any size; they are resized without antialiasing, as FID was defined.
        batch_size: Images at a time; only for memory.

    Raises:
        ValueError: If shape or dtype are others.
    """
    device = network.Conv2d_1a_3x3.conv.weight.device
    found = [np.empty((0, FEATURES), np.float32)]
    for (batch,) in split_batches(batch_size, device, images):
        with in_full_float32():
            found.append(network(batch / 255).cpu().numpy())
    return np.concatenate(found)
