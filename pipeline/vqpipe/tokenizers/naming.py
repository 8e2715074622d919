"""Other names for the tensors of a VQ model: what a family calls them, and its weights by ours."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Size, Tensor

from vqpipe.vqgan.tensors import check_names, check_tensors

State = Mapping[str, Tensor]
"""Tensors by name."""
Fill = Callable[[str, Size], Tensor | None]
"""What a tensor, by our name and shape, is where a family has none; None if it has to be there."""

ADVICE = "use weights of one model, and leave --family out unless you are asked for it"
"""What to do where weights are not those of the architecture that they seem to have."""

COMPVIS = {
    # diffusers' part of a name: CompVis' part, after the replacements above it
    ".mid_block.resnets.0.": ".mid.block_1.",
    ".mid_block.attentions.0.": ".mid.attn_1.",
    ".mid_block.resnets.1.": ".mid.block_2.",
    ".down_blocks.": ".down.",
    ".up_blocks.": ".up.",
    ".resnets.": ".block.",
    ".attentions.": ".attn.",
    ".downsamplers.0.": ".downsample.",
    ".upsamplers.0.": ".upsample.",
    ".conv_norm_out.": ".norm_out.",
    ".conv_shortcut.": ".nin_shortcut.",
    ".group_norm.": ".norm.",
    ".spatial_norm.": ".norm.",
    ".to_q.": ".q.",
    ".to_k.": ".k.",
    ".to_v.": ".v.",
    ".to_out.0.": ".proj_out.",
}
"""What CompVis calls things (CompVis/taming-transformers, `modules/diffusionmodules/model.py`), and
with it most who came after; other parts are equal."""

_UP_BLOCKS = "decoder.up_blocks."


@dataclass(frozen=True)
class Naming:
    """How a family names the tensors of a VQ model."""

    parts: Mapping[str, str]
    """Their parts of names by diffusers', replaced one after the other; each begins with a dot,
    which names are taken to have in front."""
    is_finest_first: bool = True
    """Whether they count the decoder's levels from the finest one, unlike diffusers."""

    def name(self, ours: str, levels: int) -> str:
        """Return their name of a tensor.

        Args:
            ours: diffusers' name, such as `decoder.up_blocks.0.resnets.2.conv1.weight`.
            levels: Resolutions of the network.
        """
        if self.is_finest_first and ours.startswith(_UP_BLOCKS):
            place, _, rest = ours.removeprefix(_UP_BLOCKS).partition(".")
            ours = f"{_UP_BLOCKS}{levels - 1 - int(place)}.{rest}"
        name = f".{ours}"
        for part, theirs in self.parts.items():
            name = name.replace(part, theirs)
        return name[1:]

    def by_theirs(self, expected: State) -> dict[str, str]:
        """Return our names by theirs, for the tensors of a network."""
        starts = {".".join(ours.split(".")[:3]) for ours in expected if ours.startswith(_UP_BLOCKS)}
        return {self.name(ours, len(starts)): ours for ours in expected}


def rename(
    stored: State, names: Mapping[str, str], expected: State, source: str, fill: Fill | None = None
) -> dict[str, Tensor]:
    """Return weights by our names and in our shapes, checked; errors speak of theirs.

    Args:
        stored: The weights, all of which have to be the network's.
        names: Our names by theirs.
        expected: The network's own, which may be without memory.
        source: What to call their file in errors.
        fill: What stands for those that a family does without; it has to have all others.

    Raises:
        CheckpointError: A tensor is missing, extra, misshaped, not floating or not finite.
    """
    theirs_of = {ours: theirs for theirs, ours in names.items()}
    state, absent = {}, {}
    for ours, tensor in expected.items():
        theirs = theirs_of[ours]
        if theirs in stored:
            state[ours] = _as_matrix(stored[theirs], tensor.shape)
        elif fill and (filled := fill(ours, tensor.shape)) is not None:
            absent[ours] = filled
    wanted = {theirs_of[ours] for ours in expected if ours not in absent}
    check_names(wanted, stored, source, ADVICE)
    state |= absent
    check_tensors(expected, state, source, ADVICE, theirs_of)
    return state


def idle(name: str, shape: Size) -> Tensor:
    """Return a weight, by our name, of a residual block that adds nothing."""
    is_scale = ".norm" in name and name.endswith(".weight")
    return torch.ones(shape) if is_scale else torch.zeros(shape)


def idle_blocks(stored: State, names: Mapping[str, str]) -> Fill:
    """Return what fills levels with blocks that do nothing: those of which there is no tensor.

    Args:
        stored: The weights, by their names.
        names: Our names by theirs.
    """
    there = {_block(ours) for theirs, ours in names.items() if theirs in stored}

    def fill(ours: str, shape: Size) -> Tensor | None:
        is_absent = ".resnets." in ours and _block(ours) not in there
        return idle(ours, shape) if is_absent else None

    return fill


def _block(ours: str) -> str:
    """Return what the names of a residual block begin with: all up to its number."""
    start, _, rest = ours.partition(".resnets.")
    return f"{start}.resnets.{rest.partition('.')[0]}"


def _as_matrix(tensor: Tensor, shape: Size) -> Tensor:
    """Return a 1 x 1 convolution as the matrix that attention has in its place here."""
    return tensor.flatten(1) if tensor.shape == (*shape, 1, 1) else tensor
