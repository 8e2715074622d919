"""LPIPS: how different two images look, by the activations of a classifier (Zhang et al. 2018).

    load_lpips     file                              ->  Lpips
    measure_lpips  Lpips, (N, H, W, 3) uint8, twice  ->  (N,): 0 for equal images

The paper is https://arxiv.org/abs/1801.03924; version 0.1 of its linear weights, and the layout of
the file, are those of the PyPI package lpips 0.1.4:

    torch.save(lpips.LPIPS(net="alex").state_dict(), "lpips-alex.pth")

makes the file. "vgg" does too, and has other distances. Names of modules, and so state-dict keys,
are that package's; the numbers in `net` are those of `features` in torchvision's `alexnet` and
`vgg16`. The network was compared with that package for random weights, never for the published
ones.
"""

from collections import OrderedDict
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from vqpipe.errors import CheckpointError
from vqpipe.metrics import Images
from vqpipe.quality.batches import fit_batch, in_full_float32, split_batches
from vqpipe.quality.judges import build_network, read_state
from vqpipe.quality.pixels import Scores

Trunk = Literal["alex", "vgg"]

CHANNELS: dict[Trunk, tuple[int, ...]] = {
    "alex": (64, 192, 384, 256, 256),
    "vgg": (64, 128, 256, 512, 512),
}
"""Channels of each slice's activations."""
MIN_SIDE_PX: dict[Trunk, int] = {"alex": 31, "vgg": 16}
"""Images with a smaller side have no pixel left in the last slice."""
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""Takes RGB in [-1, 1] to what ImageNet classifiers expect (package lpips, `ScalingLayer`)."""
EPS = 1e-10
"""Added to the length of an activation (package lpips, `normalize_tensor`)."""
MAX_PIXELS = 2**18
"""Pixels of each side that are compared at a time."""

_ADVICE = 'save lpips.LPIPS(net="alex").state_dict() or that of "vgg" anew'
_FIRST_KERNEL = "net.slice1.0.weight"


class Scaling(nn.Module):
    """Shifts and scales RGB."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, 3, H, W) as the trunk expects it."""
        return (x - self.shift) / self.scale


def make_alexnet() -> list[list[nn.Module]]:
    """Returns AlexNet's convolutions (Krizhevsky 2014, arXiv:1404.5997), a slice to each ReLU."""
    return [
        [nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU()],
        [nn.MaxPool2d(3, stride=2), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()],
        [nn.MaxPool2d(3, stride=2), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()],
        [nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()],
        [nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()],
    ]


def make_vgg16() -> list[list[nn.Module]]:
    """Returns VGG16's (Simonyan and Zisserman 2014, arXiv:1409.1556), a slice to each pooling."""
    slices: list[list[nn.Module]] = []
    before = 3
    for channels, depth in zip(CHANNELS["vgg"], (2, 2, 3, 3, 3), strict=True):
        layers: list[nn.Module] = [nn.MaxPool2d(2)] if slices else []
        for _ in range(depth):
            layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
            before = channels
        slices.append(layers)
    return slices


class Slices(nn.Module):
    """A classifier's convolutions in five slices, whose layers are numbered through."""

    def __init__(self, slices: list[list[nn.Module]]) -> None:
        super().__init__()
        number = 0
        for index, layers in enumerate(slices, start=1):
            names = [str(number + place) for place in range(len(layers))]
            number += len(layers)
            pairs = zip(names, layers, strict=True)
            self.add_module(f"slice{index}", nn.Sequential(OrderedDict(pairs)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Returns what comes out of each slice, (B, C, h, w)."""
        activations = []
        for layers in self.children():
            x = layers(x)
            activations.append(x)
        return activations


class Weighing(nn.Module):
    """One weight a channel, learned from what people said."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        weights = nn.Conv2d(channels, 1, 1, bias=False)
        self.model = nn.Sequential(OrderedDict([("1", weights)]))  # 0 is a dropout, for training

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, 1, h, w)."""
        return self.model(x)


class Lpips(nn.Module):
    """The distance; `trunk` says which classifier it looks through."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk
        self.scaling_layer = Scaling()
        self.net = Slices(make_alexnet() if trunk == "alex" else make_vgg16())
        self.lin0, self.lin1, self.lin2, self.lin3, self.lin4 = map(Weighing, CHANNELS[trunk])

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Returns the distances (B,) of images (B, 3, H, W) in [-1, 1]."""
        weighings = (self.lin0, self.lin1, self.lin2, self.lin3, self.lin4)
        of_first = self.net(self.scaling_layer(first))
        of_second = self.net(self.scaling_layer(second))
        slices = zip(weighings, of_first, of_second, strict=True)
        parts = [weigh((unit(a) - unit(b)) ** 2).mean((1, 2, 3)) for weigh, a, b in slices]
        return torch.stack(parts).sum(0)


def unit(x: Tensor) -> Tensor:
    """Returns activations (B, C, h, w), the vector at each place of length one, or zero."""
    return x / (x.square().sum(1, keepdim=True).sqrt() + EPS)


def load_lpips(where: str, device: str | torch.device = "cpu") -> Lpips:
    """Returns the network on a device, with the trunk that the file is of.

    Args:
        where: One file with all weights, as the module's top says; see `checkpoint`.
        device: A torch device.

    Raises:
        CheckpointError: There is no such file, or it is damaged or something else.
    """
    state = _drop_aliases(read_state(where), where)
    kernel = state.get(_FIRST_KERNEL)
    if kernel is None:
        raise CheckpointError(f"{where}: missing tensor {_FIRST_KERNEL}; {_ADVICE}")
    trunk: Trunk = "alex" if tuple(kernel.shape[2:]) == (11, 11) else "vgg"
    return build_network(partial(Lpips, trunk), state, where, _ADVICE).to(device)


def _drop_aliases(state: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Returns the weights without those of `lins.`: the package has them under `lin0`.. too."""
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("lins.")}
    for name in state.keys() - kept.keys():
        twin = kept.get(name.replace("lins.", "lin", 1))
        if twin is None or not torch.equal(twin, state[name]):
            raise CheckpointError(f"{where}: extra tensor {name}, with no equal; {_ADVICE}")
    return kept


@torch.inference_mode()
def measure_lpips(
    network: Lpips, originals: Images, decoded: Images, max_pixels: int = MAX_PIXELS
) -> Scores:
    """Returns the distance of each pair of images: 0 if they are equal; above 1 is rare.

    Args:
        network: From `load_lpips`; its device is where it is computed, in float32.
        originals: (N, H, W, 3) uint8 RGB.
        decoded: The same, of the same shape.
        max_pixels: Pixels of each side at a time, or one image if it has more; only for memory.

    Returns:
        (N,); NaN for images with a side below `MIN_SIDE_PX`.

    Raises:
        ValueError: If shapes or dtypes are others.
    """
    size, device = fit_batch(originals, max_pixels), network.scaling_layer.shift.device
    found = [np.empty(0)]
    for first, second in split_batches(size, device, originals, decoded):
        if min(first.shape[-2:]) < MIN_SIDE_PX[network.trunk]:
            return np.full(len(originals), np.nan)
        with in_full_float32():
            found.append(network(first / 127.5 - 1, second / 127.5 - 1).double().cpu().numpy())
    return np.concatenate(found)
