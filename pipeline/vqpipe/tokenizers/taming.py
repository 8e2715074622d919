"""VQGANs as CompVis publishes them, a `.ckpt` and its YAML config, in diffusers' names.

The layout is that of CompVis/taming-transformers (`taming/models/vqgan.py`) and of
CompVis/latent-diffusion (`ldm/models/autoencoder.py`), both with the network of
`modules/diffusionmodules/model.py`. A checkpoint is an autoencoder alone, or a whole latent
diffusion model or transformer with the autoencoder inside it as its first stage.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vqpipe.errors import CheckpointError
from vqpipe.vqgan.checkpoint import ADVICE, strip_wrappers
from vqpipe.vqgan.config import VQConfig
from vqpipe.vqgan.model import expected_state
from vqpipe.vqgan.tensors import check_names, check_tensors, parse_weights

NAMES = {
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
    ".to_q.": ".q.",
    ".to_k.": ".k.",
    ".to_v.": ".v.",
    ".to_out.0.": ".proj_out.",
}
"""What the two call one thing; other parts are equal. Decoder levels are counted backwards."""

FIRST_STAGE = "first_stage_model."
"""What names start with where the autoencoder is a part of a larger model."""
LEFTOVERS = ("loss.", "model_ema.", "colorize")
"""Starts of names that only training needs: losses, running averages, a palette."""

TARGETS = {
    "taming.models.vqgan.VQModel",
    "ldm.models.autoencoder.VQModel",
    "ldm.models.autoencoder.VQModelInterface",
}
"""Classes that this network is."""
TRAINING_PARAMS = {
    "lossconfig",
    "ckpt_path",
    "ignore_keys",
    "image_key",
    "colorize_nlabels",
    "monitor",
    "batch_resize_range",
    "scheduler_config",
    "lr_g_factor",
    "sane_index_shape",
    "use_ema",
}
"""Arguments of those classes that do not change what a trained model computes."""
REQUIRED = ("z_channels", "resolution", "in_channels", "out_ch", "ch", "num_res_blocks")
"""Fields of ddconfig that are counts."""
ONLY = {
    # field of ddconfig: (default, the one value that the network has)
    "double_z": (True, False),
    "resamp_with_conv": (True, True),
    "give_pre_end": (False, False),
    "tanh_out": (False, False),
    "use_linear_attn": (False, False),
}
"""Switches of CompVis' network that diffusers' VQModel lacks."""
DDCONFIG = {*REQUIRED, *ONLY, "ch_mult", "attn_resolutions", "attn_type", "dropout"}
"""All known fields of ddconfig; dropout is for training."""
DEFAULT_CH_MULT = [1, 2, 4, 8]


def read_compvis(
    config: bytes, weights: bytes, config_source: str, source: str
) -> tuple[VQConfig, dict[str, Tensor]]:
    """Return architecture and weights in diffusers' names, checked; weights keep their dtype.

    Args:
        config: Contents of the YAML file.
        weights: Contents of the weights file, as `tensors.parse_weights` takes them.
        config_source: Name or URL of the config, for errors.
        source: Name or URL of the weights, for their kind and for errors.

    Raises:
        CheckpointError: A file is damaged; a field is unknown, or nothing that the network can do;
            or a tensor is missing, extra, misshaped, not floating or not finite.
    """
    params, is_part = _find_autoencoder(_parse_yaml(config, config_source), config_source)
    architecture = _read_params(params, config_source)
    found = parse_weights(weights, source)
    stored = {name: found[wrapped] for wrapped, name in strip_wrappers(found).items()}
    if is_part:
        start = len(FIRST_STAGE)
        stored = {name[start:]: t for name, t in stored.items() if name.startswith(FIRST_STAGE)}
    stored = {name: t for name, t in stored.items() if not name.startswith(LEFTOVERS)}
    return architecture, _rename(architecture, stored, source)


def name_in_compvis(name: str, levels: int) -> str:
    """Return CompVis' name of a tensor that diffusers calls `name`.

    Args:
        name: Such as `decoder.up_blocks.0.resnets.2.conv1.weight`.
        levels: Resolutions of the network.
    """
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    parts = name.split(".")
    if parts[:2] == ["decoder", "up"]:
        parts[2] = str(levels - 1 - int(parts[2]))
    return ".".join(parts)


def _rename(config: VQConfig, stored: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return the weights in diffusers' names and shapes; errors speak of CompVis' names."""
    levels = len(config.block_out_channels)
    expected = expected_state(config)
    names = {name_in_compvis(name, levels): name for name in expected}
    check_names(names, stored, source, "use the YAML config and weights of one model")
    state = {}
    for theirs, name in names.items():
        tensor, shape = stored[theirs], expected[name].shape
        is_attention = tensor.shape == (*shape, 1, 1)  # a 1x1 convolution where we have a matrix
        state[name] = tensor.flatten(1) if is_attention else tensor
    theirs_of = {name: theirs for theirs, name in names.items()}
    check_tensors(expected, state, source, ADVICE, theirs_of)
    return state


def _parse_yaml(data: bytes, source: str) -> dict[str, Any]:
    import yaml  # noqa: PLC0415 - a machine that only encodes may lack it

    try:
        values = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{source} is not YAML ({error}); get the file anew") from error
    return _require_mapping(values, "the file", source)


def _require_mapping(values: object, name: str, source: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise CheckpointError(
            f"{source}: {name} is {values!r}, not a mapping; give the YAML config of a VQGAN"
        )
    return values


def _find_autoencoder(values: dict[str, Any], source: str) -> tuple[dict[str, Any], bool]:
    """Return the autoencoder's arguments, and whether it is the first stage of a larger model."""
    name, model = "model", _require_mapping(values.get("model"), "model", source)
    params = _require_mapping(model.get("params"), "model.params", source)
    is_part = "first_stage_config" in params
    if is_part:
        name = "model.params.first_stage_config"
        model = _require_mapping(params["first_stage_config"], name, source)
        params = _require_mapping(model.get("params"), f"{name}.params", source)
    if model.get("target") not in TARGETS:
        raise CheckpointError(
            f"{source}: {name}.target is {model.get('target')!r}, which is no VQGAN that "
            f"diffusers' VQModel can express; it must be one of {', '.join(sorted(TARGETS))}"
        )
    return params, is_part


def _read_params(params: dict[str, Any], source: str) -> VQConfig:
    """Return the architecture that the autoencoder's arguments describe."""
    _check_known(params, {"ddconfig", "embed_dim", "n_embed", "remap", *TRAINING_PARAMS}, source)
    if params.get("remap") is not None:
        raise CheckpointError(
            f"{source}: remap is {params['remap']!r}; codes that are renumbered cannot be expressed"
        )
    dd = _require_mapping(params.get("ddconfig"), "ddconfig", source)
    _check_ddconfig(dd, source)
    channels = [dd["ch"] * multiple for multiple in dd.get("ch_mult", DEFAULT_CH_MULT)]
    attends = dd.get("attn_type", "vanilla") == "vanilla"
    down, up = _find_attention(dd, len(channels)) if attends else ([False] * len(channels),) * 2
    try:
        return VQConfig(
            in_channels=dd["in_channels"],
            out_channels=dd["out_ch"],
            down_block_types=tuple(f"{'Attn' * attn}DownEncoderBlock2D" for attn in down),
            up_block_types=tuple(f"{'Attn' * attn}UpDecoderBlock2D" for attn in up),
            block_out_channels=tuple(channels),
            layers_per_block=dd["num_res_blocks"],
            latent_channels=dd["z_channels"],
            sample_size=dd["resolution"],
            num_vq_embeddings=_take_count(params, "n_embed", source),
            vq_embed_dim=_take_count(params, "embed_dim", source),
            mid_block_add_attention=attends,
        )
    except ValueError as error:
        raise CheckpointError(
            f"{source}: as a VQModel, {error}; this VQGAN cannot be expressed"
        ) from error


def _find_attention(dd: dict[str, Any], levels: int) -> tuple[list[bool], list[bool]]:
    """Return which levels attend: encoder's, finest first, and decoder's, coarsest first."""
    at, finest = dd["attn_resolutions"], dd["resolution"]
    coarsest = finest // 2 ** (levels - 1)
    down = [finest // 2**level in at for level in range(levels)]
    up = [coarsest * 2**level in at for level in range(levels)]
    return down, up


def _check_ddconfig(dd: dict[str, Any], source: str) -> None:
    """Check that each field is known, whole, and something that the network can do."""
    _check_known(dd, DDCONFIG, f"{source}: ddconfig")
    for name in REQUIRED:
        _take_count(dd, name, f"{source}: ddconfig")
    for name, (default, only) in ONLY.items():
        if dd.get(name, default) is not only:
            raise CheckpointError(
                f"{source}: ddconfig: {name} is {dd.get(name, default)!r}, with which diffusers' "
                f"VQModel cannot be built; it must be {only}"
            )
    if dd.get("attn_type", "vanilla") not in {"vanilla", "none"}:
        raise CheckpointError(
            f"{source}: ddconfig: attn_type is {dd['attn_type']!r}; it must be vanilla or none"
        )
    _check_counts(dd.get("attn_resolutions"), "attn_resolutions", source)
    multiples = dd.get("ch_mult", DEFAULT_CH_MULT)
    _check_counts(multiples, "ch_mult", source)
    if not multiples or multiples[0] != 1:
        raise CheckpointError(
            f"{source}: ddconfig: ch_mult is {multiples}; it must begin with 1 for a VQModel"
        )


def _check_known(values: dict[str, Any], known: set[str], source: str) -> None:
    unknown = ", ".join(sorted(map(str, set(values) - known)))
    if unknown:
        raise CheckpointError(
            f"{source}: unknown field {unknown}; remove it if it does not change results"
        )


def _take_count(values: dict[str, Any], name: str, source: str) -> int:
    value = values.get(name)
    if type(value) is not int or value < 1:
        raise CheckpointError(f"{source}: {name} is {value!r}; it must be an integer >= 1")
    return value


def _check_counts(values: object, name: str, source: str) -> None:
    if not isinstance(values, list) or not all(type(v) is int and v >= 1 for v in values):
        raise CheckpointError(
            f"{source}: ddconfig: {name} is {values!r}; it must be a list of integers >= 1"
        )
