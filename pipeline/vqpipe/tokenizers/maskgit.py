"""MaskGIT's VQGAN, which RAR and MaskBit's baseline take, as a VQModel.

Names and arithmetic of bytedance/1d-tokenizer (`modeling/modules/maskgit_vqgan.py`), which are
those of huggingface/open-muse. Beside a VQModel it lacks attention and most biases, and

    averages 2 x 2 pixels where a VQModel has a convolution: one with these weights is the same;
    adds to conv2's result h, where channels change, not a projection of the input, but of h:
        h + W h is one convolution of weights (1 + W) w2, beside a shortcut of zeros;
    takes the latents from a 1 x 1 convolution: the middle of a 3 x 3 one;
    has no convolutions beside the codebook: the identity;
    has as many blocks in a decoder's level as in an encoder's: one more, which does nothing.
"""

import torch
import torch.nn.functional as F
from torch import Size, Tensor

from vqpipe.errors import CheckpointError
from vqpipe.tokenizers.architecture import architecture_of, decoder_of
from vqpipe.tokenizers.family import Family, Network, Part
from vqpipe.tokenizers.naming import ADVICE, COMPVIS, Naming, State, idle, rename
from vqpipe.tokenizers.taming import to_vq_model
from vqpipe.vqgan.config import VQConfig
from vqpipe.vqgan.model import expected_state
from vqpipe.vqgan.tensors import list_names

NAMING = Naming(
    {
        ".mid_block.resnets.": ".mid.",
        ".upsamplers.0.conv.": ".upsample_conv.",
        **COMPVIS,
    }
)
_WITHOUT_BIAS = (".conv1.bias", ".conv2.bias", ".nin_shortcut.bias")
DID = (
    "average pooling and the shortcuts that come after conv2 made convolutions; blocks and biases "
    "that it does without made ones that do nothing",
)


def convert(part: Part) -> Network:
    """Return the same as a VQModel."""
    state = _centre(_fold(part.state, part.source))
    config = architecture_of(state, NAMING, part.source)
    folded = Part(state, part.source, part.config, part.config_source)

    def fill(name: str, shape: Size) -> Tensor | None:
        return _fill(name, shape, config.layers_per_block)

    network = to_vq_model(folded, config, NAMING, fill)
    return Network(network.name, network.config, network.state, DID)


def convert_decoder(state: State, source: str) -> tuple[VQConfig, dict[str, Tensor]]:
    """Return the architecture and weights of its decoder alone, as those of a VQModel.

    Args:
        state: Weights whose names begin with `decoder.`, and no others.
        source: What to call their file in errors.

    Raises:
        CheckpointError: A tensor is missing, extra, misshaped, not floating or not finite.
    """
    folded = _fold(state, source)
    config = decoder_of(folded, NAMING, source)
    whole = expected_state(config)
    expected = {name: each for name, each in whole.items() if name.startswith("decoder.")}
    names = NAMING.by_theirs(expected)
    blocks = sum(name.startswith("decoder.mid.") and "conv1" in name for name in folded)

    def fill(name: str, shape: Size) -> Tensor | None:
        return _fill(name, shape, blocks)

    return config, rename(folded, names, expected, source, fill)


def _fold(state: State, source: str) -> dict[str, Tensor]:
    """Return weights in which each conv2 has taken in the shortcut behind it.

    Raises:
        CheckpointError: There are biases of these, which it never has and folding leaves out.
    """
    extra = {name for name in state if name.endswith(_WITHOUT_BIAS)}
    if extra:
        raise CheckpointError(f"{source}: extra tensor {list_names(extra)}; {ADVICE}")
    folded = dict(state)
    for name, shortcut in state.items():
        conv2 = name.replace(".nin_shortcut.weight", ".conv2.weight")
        if conv2 != name and conv2 in state and shortcut.ndim == 4:
            del folded[name]
            projected = torch.einsum(
                "oi,ickl->ockl", shortcut[:, :, 0, 0].double(), state[conv2].double()
            )
            folded[conv2] = (state[conv2].double() + projected).to(state[conv2].dtype)
    return folded


def _centre(state: State) -> dict[str, Tensor]:
    """Return weights in which the 1 x 1 convolution of the latents is a 3 x 3 one."""
    name = "encoder.conv_out.weight"
    if name in state and state[name].shape[2:] == (1, 1):
        return {**state, name: F.pad(state[name], (1, 1, 1, 1))}
    return dict(state)


def _fill(name: str, shape: Size, blocks: int) -> Tensor | None:
    """Return what stands for a tensor that there is none of.

    Args:
        name: Ours.
        shape: Of the tensor.
        blocks: Residual blocks of a level.
    """
    is_added = name.startswith(("decoder.up_blocks.", "encoder.mid", "decoder.mid"))
    if is_added and any(f".resnets.{i}." in name for i in (blocks, blocks + 1)):
        return idle(name, shape)
    if name in {"quant_conv.weight", "post_quant_conv.weight"}:
        return torch.eye(shape[0])[:, :, None, None]
    if name.endswith("downsamplers.0.conv.weight"):
        return _average(shape[0])
    has_none = name.endswith((".conv1.bias", ".conv2.bias", "downsamplers.0.conv.bias"))
    is_own = name in {"encoder.conv_in.bias", "quant_conv.bias", "post_quant_conv.bias"}
    if has_none or is_own or ".conv_shortcut." in name:
        return torch.zeros(shape)
    return None


def _average(channels: int) -> Tensor:
    """Return a 3 x 3 convolution of stride 2 that averages 2 x 2 places: the first of its taps."""
    weights = torch.zeros(channels, channels, 3, 3)
    weights[range(channels), range(channels), :2, :2] = 0.25
    return weights


FAMILY = Family(
    name="maskgit",
    models="MaskGIT's VQGAN, which RAR takes and MaskBit sets itself against",
    signs=("decoder.up.1.upsample_conv.weight", "encoder.mid.0.conv1.weight"),
    is_named=lambda config: config.get("_class_name") == "MaskGitVQGAN",
    convert=convert,
    pixel_range="unit",
)
