"""The networks that judge images, from their layouts alone: weights by name, and what they make.

Names and shapes are those that the published files have; the networks are computed by plain calls
of torch.nn.functional on the weights. No published weights are at hand here, so these are random.
"""

import torch
from torch.nn import functional

ALEX = {"slice1.0": (64, 3, 11, 11), "slice2.3": (192, 64, 5, 5), "slice3.6": (384, 192, 3, 3)}
ALEX |= {"slice4.8": (256, 384, 3, 3), "slice5.10": (256, 256, 3, 3)}
VGG = {"slice1.0": (64, 3, 3, 3), "slice1.2": (64, 64, 3, 3)}
VGG |= {"slice2.5": (128, 64, 3, 3), "slice2.7": (128, 128, 3, 3)}
VGG |= {"slice3.10": (256, 128, 3, 3), "slice3.12": (256, 256, 3, 3), "slice3.14": (256, 256, 3, 3)}
VGG |= {"slice4.17": (512, 256, 3, 3), "slice4.19": (512, 512, 3, 3), "slice4.21": (512, 512, 3, 3)}
VGG |= {f"slice5.{i}": (512, 512, 3, 3) for i in (24, 26, 28)}
TRUNKS = {"alex": (ALEX, (64, 192, 384, 256, 256)), "vgg": (VGG, (64, 128, 256, 512, 512))}


def lpips_state(trunk, seed=0):
    """Returns weights in the layout of lpips 0.1.4, those that it has twice included."""
    generator = torch.Generator().manual_seed(seed)
    kernels, channels = TRUNKS[trunk]
    state = {
        "scaling_layer.shift": torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1),
        "scaling_layer.scale": torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1),
    }
    for name, shape in kernels.items():
        state[f"net.{name}.weight"] = _kernel(shape, generator)
        state[f"net.{name}.bias"] = torch.randn(shape[0], generator=generator) / 10
    for i, count in enumerate(channels):
        weights = torch.rand(1, count, 1, 1, generator=generator)
        state |= {f"lin{i}.model.1.weight": weights, f"lins.{i}.model.1.weight": weights}
    return state


def lpips(state, trunk, first, second):
    """Returns the distances (B,) of images (B, 3, H, W) in levels 0..255."""
    total = 0
    for i, pair in enumerate(
        zip(*(_slices(state, trunk, x) for x in (first, second)), strict=True)
    ):
        a, b = (x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10) for x in pair)
        weights = state[f"lin{i}.model.1.weight"].flatten()
        total = total + torch.einsum("bchw,c->bhw", (a - b) ** 2, weights).mean((1, 2))
    return total


def _slices(state, trunk, levels):
    mean, deviation = (state[f"scaling_layer.{name}"] for name in ("shift", "scale"))
    x, outputs = ((levels / 255 * 2 - 1) - mean) / deviation, {}
    for name, shape in TRUNKS[trunk][0].items():
        layer = f"net.{name}"
        index = name.partition(".")[0]
        if trunk == "alex":
            x = functional.max_pool2d(x, 3, 2) if index in {"slice2", "slice3"} else x
            stride, padding = {11: (4, 2), 5: (1, 2), 3: (1, 1)}[shape[-1]]
        else:
            x = functional.max_pool2d(x, 2, 2) if index not in {"slice1", *outputs} else x
            stride, padding = 1, 1
        weights = state[f"{layer}.weight"], state[f"{layer}.bias"]
        x = functional.conv2d(x, *weights, stride=stride, padding=padding).clamp(min=0)
        outputs[index] = x
    return list(outputs.values())


def inception_kernels():
    """Returns the shape of every convolution of the published file, by the name of its module."""
    kernels = {"Conv2d_1a_3x3": (32, 3, 3, 3), "Conv2d_2a_3x3": (32, 32, 3, 3)}
    kernels |= {"Conv2d_2b_3x3": (64, 32, 3, 3), "Conv2d_3b_1x1": (80, 64, 1, 1)}
    kernels |= {"Conv2d_4a_3x3": (192, 80, 3, 3)}
    for name, c, pool in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
        block = {"branch1x1": (64, c, 1, 1), "branch5x5_1": (48, c, 1, 1)}
        block |= {"branch5x5_2": (64, 48, 5, 5), "branch3x3dbl_1": (64, c, 1, 1)}
        block |= {"branch3x3dbl_2": (96, 64, 3, 3), "branch3x3dbl_3": (96, 96, 3, 3)}
        block |= {"branch_pool": (pool, c, 1, 1)}
        kernels |= _prefixed(name, block)
    block = {"branch3x3": (384, 288, 3, 3), "branch3x3dbl_1": (64, 288, 1, 1)}
    block |= {"branch3x3dbl_2": (96, 64, 3, 3), "branch3x3dbl_3": (96, 96, 3, 3)}
    kernels |= _prefixed("6a", block)
    for name, c in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        block = {"branch1x1": (192, 768, 1, 1), "branch7x7_1": (c, 768, 1, 1)}
        block |= {"branch7x7_2": (c, c, 1, 7), "branch7x7_3": (192, c, 7, 1)}
        block |= {"branch7x7dbl_1": (c, 768, 1, 1), "branch7x7dbl_2": (c, c, 7, 1)}
        block |= {"branch7x7dbl_3": (c, c, 1, 7), "branch7x7dbl_4": (c, c, 7, 1)}
        block |= {"branch7x7dbl_5": (192, c, 1, 7), "branch_pool": (192, 768, 1, 1)}
        kernels |= _prefixed(name, block)
    block = {"branch3x3_1": (192, 768, 1, 1), "branch3x3_2": (320, 192, 3, 3)}
    block |= {"branch7x7x3_1": (192, 768, 1, 1), "branch7x7x3_2": (192, 192, 1, 7)}
    block |= {"branch7x7x3_3": (192, 192, 7, 1), "branch7x7x3_4": (192, 192, 3, 3)}
    kernels |= _prefixed("7a", block)
    for name, c in (("7b", 1280), ("7c", 2048)):
        block = {"branch1x1": (320, c, 1, 1), "branch3x3_1": (384, c, 1, 1)}
        block |= {"branch3x3_2a": (384, 384, 1, 3), "branch3x3_2b": (384, 384, 3, 1)}
        block |= {"branch3x3dbl_1": (448, c, 1, 1), "branch3x3dbl_2": (384, 448, 3, 3)}
        block |= {"branch3x3dbl_3a": (384, 384, 1, 3), "branch3x3dbl_3b": (384, 384, 3, 1)}
        kernels |= _prefixed(name, block | {"branch_pool": (192, c, 1, 1)})
    return kernels


def _prefixed(name, block):
    return {f"Mixed_{name}.{branch}": shape for branch, shape in block.items()}


def inception_state(seed=0):
    """Returns weights in the layout of pt_inception-2015-12-05-6726825d.pth."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in inception_kernels().items():
        state[f"{name}.conv.weight"] = _kernel(shape, generator)
        state[f"{name}.bn.weight"] = torch.rand(shape[0], generator=generator) + 0.5
        state[f"{name}.bn.bias"] = torch.randn(shape[0], generator=generator) / 10
        state[f"{name}.bn.running_mean"] = torch.randn(shape[0], generator=generator) / 10
        state[f"{name}.bn.running_var"] = torch.rand(shape[0], generator=generator) + 0.5
    state["fc.weight"] = torch.zeros(1008, 2048)
    state["fc.bias"] = torch.zeros(1008)
    return state


def _kernel(shape, generator):
    return torch.randn(shape, generator=generator) * (2 / shape[1] / shape[2] / shape[3]) ** 0.5


def inception_features(state, x):
    """Returns the features (B, 2048) of images (B, 3, 299, 299) in [-1, 1]."""

    def conv(name, x, stride=1, *, same=True):
        kernel = state[f"{name}.conv.weight"]
        padding = [side // 2 for side in kernel.shape[2:]] if same else 0
        scale = state[f"{name}.bn.weight"] / (state[f"{name}.bn.running_var"] + 1e-3).sqrt()
        shift = state[f"{name}.bn.bias"] - state[f"{name}.bn.running_mean"] * scale
        x = functional.conv2d(x, kernel * scale.view(-1, 1, 1, 1), shift, stride, padding)
        return x.clamp(min=0)

    def chain(x, *names):
        for name in names:
            x = conv(name, x)
        return x

    def average(x):  # with a border of NaN, which nanmean leaves out
        windows = functional.pad(x, (1, 1, 1, 1), value=torch.nan).unfold(2, 3, 1).unfold(3, 3, 1)
        return windows.flatten(-2).nanmean(-1)

    def small(block, x):
        b = f"Mixed_{block}.branch"
        three = chain(x, f"{b}3x3dbl_1", f"{b}3x3dbl_2", f"{b}3x3dbl_3")
        five = chain(x, f"{b}5x5_1", f"{b}5x5_2")
        return torch.cat([conv(f"{b}1x1", x), five, three, conv(f"{b}_pool", average(x))], 1)

    def strips(block, x):
        b = f"Mixed_{block}.branch"
        once = chain(x, *(f"{b}7x7_{i}" for i in (1, 2, 3)))
        twice = chain(x, *(f"{b}7x7dbl_{i}" for i in (1, 2, 3, 4, 5)))
        return torch.cat([conv(f"{b}1x1", x), once, twice, conv(f"{b}_pool", average(x))], 1)

    def wide(block, x, pooled):
        b = f"Mixed_{block}.branch"
        three, double = conv(f"{b}3x3_1", x), chain(x, f"{b}3x3dbl_1", f"{b}3x3dbl_2")
        ends = [conv(f"{b}3x3_2{end}", three) for end in "ab"]
        ends += [conv(f"{b}3x3dbl_3{end}", double) for end in "ab"]
        return torch.cat([conv(f"{b}1x1", x), *ends, conv(f"{b}_pool", pooled)], 1)

    x = conv("Conv2d_1a_3x3", x, 2, same=False)
    x = conv("Conv2d_2b_3x3", conv("Conv2d_2a_3x3", x, same=False))
    x = conv("Conv2d_3b_1x1", functional.max_pool2d(x, 3, 2))
    x = functional.max_pool2d(conv("Conv2d_4a_3x3", x, same=False), 3, 2)
    for block in ("5b", "5c", "5d"):
        x = small(block, x)
    b = "Mixed_6a.branch"
    double = conv(f"{b}3x3dbl_3", chain(x, f"{b}3x3dbl_1", f"{b}3x3dbl_2"), 2, same=False)
    x = torch.cat([conv(f"{b}3x3", x, 2, same=False), double, functional.max_pool2d(x, 3, 2)], 1)
    for block in ("6b", "6c", "6d", "6e"):
        x = strips(block, x)
    b = "Mixed_7a.branch"
    three = conv(f"{b}3x3_2", conv(f"{b}3x3_1", x), 2, same=False)
    seven = chain(x, *(f"{b}7x7x3_{i}" for i in (1, 2, 3)))
    seven = conv(f"{b}7x7x3_4", seven, 2, same=False)
    x = torch.cat([three, seven, functional.max_pool2d(x, 3, 2)], 1)
    x = wide("7b", x, average(x))
    x = wide("7c", x, functional.max_pool2d(x, 3, 1, 1))
    return x.flatten(2).mean(2)
