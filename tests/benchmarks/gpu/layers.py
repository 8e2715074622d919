"""Single layers at the sizes of a batch of 64 at 256 px, bfloat16, channels-last, milliseconds."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from tests.benchmarks.gpu import timing
from tests.benchmarks.records import note
from vqpipe.codec.codec import _fuse
from vqpipe.vqgan.attention import attend_by_products
from vqpipe.vqgan.layers import GroupNorm, SpatialNorm
from vqpipe.vqgan.nearest import find_nearest


@dataclass(frozen=True)
class Layer:
    """Something to time."""

    name: str
    run: Callable
    inputs: tuple
    flops: float = 0.0
    least_bytes: float = 0.0
    """Each input read once, each output written once."""


def main():
    options = timing.parse(__doc__)
    torch.manual_seed(0)
    with torch.inference_mode():
        for make in (norm_layers, convolutions, attentions, searches):
            for layer in make(options.device, tiny=options.tiny):
                measure(layer, options.device)


def measure(layer, device):
    milliseconds = timing.time_ms(lambda: layer.run(*layer.inputs), device)
    more = {}
    if layer.flops:
        more["tflops"] = round(layer.flops / milliseconds / 1e9, 3)
    if layer.least_bytes:
        more["tb_s"] = round(layer.least_bytes / milliseconds / 1e9, 3)
    beside = ", ".join(f"{key} {value}" for key, value in more.items())
    print(f"{layer.name}: {milliseconds:.3f} ms {beside}", flush=True)
    note(layer.name, milliseconds, "ms", **more)


def draw(device, *shape):
    """Returns random bfloat16; of four axes, channels-last."""
    drawn = torch.randn(*shape, device=device, dtype=torch.bfloat16)
    return drawn.to(memory_format=torch.channels_last) if len(shape) == 4 else drawn


FORMS = {
    "compiled": "torch",
    "compiled a channel at a time": "by_channel",
    "compiled with our kernels": "kernel",
}
"""How norms are computed (`vqpipe.vqgan.group_norm`), beside torch's form one kernel by one."""


def norm_layers(device, *, tiny):
    """Group norm and spatial norm with SiLU over (64, 128, 256, 256), in all their forms."""
    x = draw(device, *((1, 32, 16, 16) if tiny else (64, 128, 256, 256)))
    quantized = draw(device, *((1, 4, 2, 2) if tiny else (64, 4, 32, 32)))
    makers = {
        "GroupNorm": lambda: GroupNorm(32, x.shape[1], eps=1e-6),
        "SpatialNorm": lambda: SpatialNorm(x.shape[1], 4),
    }
    for kind, make in makers.items():
        for how, form in {"eager": "torch", **(FORMS if device == "cuda" else {})}.items():
            norm = make().to(device, torch.bfloat16).to(memory_format=torch.channels_last)
            norm.form = form
            run = partial(norm, activation=nn.SiLU())
            run = run if how == "eager" else _fuse(run)
            name = f"{kind} and SiLU 128 x 256 x 256, {how}"
            yield Layer(name, run, (x, quantized), least_bytes=2 * x.nbytes)


def convolutions(device, *, tiny):
    """3 x 3, channels and side as in the levels of the networks."""
    for channels, side in ((128, 256), (256, 128), (256, 64), (512, 32)):
        batch, width, length = (1, 8, 8) if tiny else (64, channels, side)
        x, weight = draw(device, batch, width, length, length), draw(device, width, width, 3, 3)
        flops = 2 * 9 * batch * width * width * length * length

        def run(x, weight):
            return functional.conv2d(x, weight, padding=1)

        name = f"convolution 3 x 3, {channels} at {side} x {side}"
        yield Layer(name, run, (x, weight), flops, 2 * x.nbytes)


def attentions(device, *, tiny):
    """One head of 512 channels over a grid, by torch's own choice and by batched products."""

    def own_choice(query, key, value):
        heads = (each[:, None] for each in (query, key, value))
        return functional.scaled_dot_product_attention(*heads)

    def products(query, key, value):
        return attend_by_products(query.float(), key.float(), value.float())

    named = {"its own choice": own_choice, "products": products}
    if device == "cuda":
        named["products"] = _fuse(attend_by_products)
    for tokens in (1024, 4096):
        batch, places, channels = (1, 16, 8) if tiny else (64, tokens, 512)
        inputs = tuple(draw(device, batch, places, channels) for _ in range(3))
        flops = 4 * batch * places * places * channels
        for how, run in named.items():
            yield Layer(f"attention of {tokens} x 512, {how}", run, inputs, flops)


def searches(device, *, tiny):
    """The nearest entry, for a batch of each network."""
    shapes = {"MoVQ f8": (65_536, 16_384, 4), "aMUSEd f16": (16_384, 8192, 64)}
    shapes |= {"LDM f4": (262_144, 8192, 3), "taming f16": (16_384, 16_384, 256)}
    for name, shape in shapes.items():
        rows, entries, channels = (64, 128, shape[2]) if tiny else shape
        z = torch.randn(rows, channels, device=device)
        codebook = torch.randn(entries, channels, device=device)
        yield Layer(f"nearest entry, {name}", find_nearest, (z, codebook))


if __name__ == "__main__":
    main()
