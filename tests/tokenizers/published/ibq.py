"""IBQ in plain torch, from its published layout, and its files.

Layout and arithmetic: TencentARC/SEED-Voken, `src/IBQ/models/ibqgan.py`,
`src/IBQ/modules/vqvae/quantize.py` (`IndexPropagationQuantize`) and `src/IBQ/modules/ema.py`; the
network is CompVis'. baaivision/Emu3.5 has the same in `src/vision_tokenizer`.
"""

import copy
import functools

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody does

from tests.tokenizers.published.colours import GRID, NARROW, WIDE, randomise, set_by_hand
from tests.vqgan.compvis import VQGAN, to_yaml

PIXEL_RANGE = "signed"
# published: 256, 256, 128, [1, 1, 2, 2, 4], 4 and [16], with 1024 to 262144 entries of 256
DDCONFIG = {
    "double_z": False,
    "z_channels": 16,
    "resolution": 32,
    "in_channels": 3,
    "out_ch": 3,
    "attn_resolutions": [8],
    "dropout": 0.0,
}
SIZE, EMBED_DIM = len(GRID), 6


class Net(VQGAN):
    def __init__(self, shape):
        self.ddconfig = DDCONFIG | shape
        super().__init__(self.ddconfig, EMBED_DIM, SIZE)

    def encode(self, x):
        latents, book = self.quant_conv(self.encoder(x)), self.quantize.embedding.weight
        return torch.einsum("bdhw,nd->bnhw", latents, book).argmax(1)


@functools.cache
def make_random():
    return randomise(Net(NARROW), seed=3)


def latents_of(colours):
    return torch.cat([colours, F.pad(torch.ones_like(colours[..., :1]), (0, 2))], -1)


@functools.cache
def make_faithful():
    """Its inner products are largest where the distance of colours is least."""
    entries = torch.cat([GRID, -(GRID**2).sum(1, keepdim=True) / 2], 1)
    return set_by_hand(Net(WIDE), 4, latents_of, 4 * F.pad(entries, (0, 2)))


def shake(net, seed=5):
    """A copy with other weights, and other codes."""
    generator = torch.Generator().manual_seed(seed)
    net = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in net.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.3 * parameter.std() * noise)
    return net


def write(folder, net, has_averages=True):
    """TencentARC's, whose scripts take the averages of a model with `use_ema`: `net` is those."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = shake(net) if has_averages else net
    state = raw.state_dict() | {
        "loss.discriminator.main.0.weight": torch.ones(4, 3, 4, 4),
        "loss.discriminator.main.3.running_mean": torch.ones(4),
        "loss.discriminator.main.3.num_batches_tracked": torch.tensor(3),
        "loss.perceptual_loss.scaling_layer.shift": torch.ones(1, 3, 1, 1),
    }
    if has_averages:
        averages = dict(net.named_parameters())
        averages["loss.discriminator.main.0.weight"] = torch.ones(4, 3, 4, 4)
        kept = {"decay": torch.tensor(0.999), "num_updates": torch.tensor(-1, dtype=torch.int)}
        kept |= {name.replace(".", ""): tensor.detach() for name, tensor in averages.items()}
        state |= {f"model_ema.{name}": tensor for name, tensor in kept.items()}
    path = folder / "imagenet256_16384.ckpt"
    torch.save({"epoch": 1, "global_step": 9, "state_dict": state}, path)
    loss = {"target": "src.IBQ.modules.losses.vqperceptual.VQLPIPSWithDiscriminator"}
    arguments = {
        "ddconfig": net.ddconfig,
        "lossconfig": loss | {"params": {"disc_conditional": False, "disc_in_channels": 3}},
        "n_embed": SIZE,
        "embed_dim": EMBED_DIM,
        "learning_rate": "1e-4",
        "l2_normalize": False,
        "use_entropy_loss": True,
        "sample_minimization_weight": 1.0,
        "batch_maximization_weight": 1.0,
        "entropy_temperature": 0.01,
        "beta": 0.25,
        "use_ema": has_averages,
        "resume_lr": None,
        "lr_drop_epoch": [250, 300],
    }
    config = {
        "seed_everything": True,
        "trainer": {"accelerator": "gpu", "max_epochs": 330},
        "model": {"class_path": "src.IBQ.models.ibqgan.IBQ", "init_args": arguments},
        "data": {"class_path": "main.DataModuleFromConfig", "init_args": {"batch_size": 4}},
        "ckpt_path": None,
    }
    (folder / "imagenet_ibqgan_16384.yaml").write_bytes(to_yaml(config))
    return str(path)


def write_emu(folder, net):
    """BAAI's, the tokenizer of Emu3.5: one set of weights, and the arguments of its class."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), folder / "model.ckpt")
    config = {
        "ddconfig": net.ddconfig,
        "n_embed": SIZE,
        "embed_dim": EMBED_DIM,
        "beta": 0.25,
        "use_entropy_loss": False,
        "cosine_similarity": False,
        "entropy_temperature": 0.01,
        "sample_minimization_weight": 1.0,
        "batch_maximization_weight": 1.0,
    }
    (folder / "config.yaml").write_bytes(to_yaml(config))
    return str(folder)
