"""Configs of VQGANs as CompVis has them: YAML with the arguments of a network, `ddconfig`.

Layout of CompVis/taming-transformers (`taming/models/vqgan.py`) and CompVis/latent-diffusion
(`ldm/models/autoencoder.py`), both with the network of `modules/diffusionmodules/model.py`. Those
who came after kept `ddconfig`, and put it where their own programs look for it:

    model: {target, params}         CompVis; the params of a whole model have a first_stage_config
    model: {class_path, init_args}  programs of Lightning's command line (TencentARC/SEED-Voken)
    {ddconfig, n_embed, ...}        Emu3.5
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vqpipe.errors import CheckpointError
from vqpipe.vqgan.config import VQConfig

TRAINING_PARAMS = {
    "lossconfig",
    "ckpt_path",
    "ignore_keys",
    "image_key",
    "colorize_nlabels",
    "monitor",
    "batch_resize_range",
    "scheduler_config",
    "learning_rate",
    "lr_g_factor",
    "sane_index_shape",
    "use_ema",
    "ema_decay",
}
"""Arguments of their classes that do not change what a trained model computes."""
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


@dataclass(frozen=True)
class Model:
    """A class and its arguments, as a config says them."""

    target: str
    """Dotted name of the class; empty where the config has the arguments alone."""
    params: Mapping[str, Any]


def find_model(config: Mapping[str, Any]) -> Model | None:
    """Return what a config says, of a larger model its first stage; None where it is of no such."""
    if "ddconfig" in config:
        return Model("", config)
    model: Any = config.get("model")
    for _ in range(2):
        if not isinstance(model, Mapping):
            return None
        target = model.get("target", model.get("class_path"))
        params = model.get("params", model.get("init_args"))
        if not isinstance(params, Mapping):
            return None
        if "first_stage_config" not in params:
            return Model(str(target), params)
        model = params["first_stage_config"]
    return None


def read_params(params: Mapping[str, Any], source: str, ignored: set[str]) -> VQConfig:
    """Return the architecture that an autoencoder's arguments describe.

    Args:
        params: The arguments.
        source: What to call the config in errors.
        ignored: Those that do not change what a trained model computes, `TRAINING_PARAMS` and more.

    Raises:
        CheckpointError: One is unknown, or nothing that the network can do.
    """
    _check_known(params, {"ddconfig", "embed_dim", "n_embed", "remap", *ignored}, source)
    check_remap(params, source)
    dd = params.get("ddconfig")
    if not isinstance(dd, dict):
        raise CheckpointError(
            f"{source}: ddconfig is {dd!r}, not a mapping; give the YAML config of a VQGAN"
        )
    _check_ddconfig(dd, source)
    size, length = (_take_count(params, name, source) for name in ("n_embed", "embed_dim"))
    try:
        return VQConfig(**_fields(dd), num_vq_embeddings=size, vq_embed_dim=length)
    except ValueError as error:
        raise CheckpointError(
            f"{source}: as a VQModel, {error}; this VQGAN cannot be expressed"
        ) from error


def check_remap(params: Mapping[str, Any], source: str) -> None:
    """Check that codes are the numbers of entries.

    Raises:
        CheckpointError: They are others.
    """
    if params.get("remap") is not None:
        raise CheckpointError(
            f"{source}: remap is {params['remap']!r}; codes that are renumbered cannot be expressed"
        )


def _fields(dd: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a checked `ddconfig` says of encoder and decoder, as `VQConfig` calls it."""
    channels = [dd["ch"] * multiple for multiple in dd.get("ch_mult", DEFAULT_CH_MULT)]
    attends = dd.get("attn_type", "vanilla") == "vanilla"
    down, up = _find_attention(dd, len(channels)) if attends else ([False] * len(channels),) * 2
    return {
        "in_channels": dd["in_channels"],
        "out_channels": dd["out_ch"],
        "down_block_types": tuple(f"{'Attn' * attn}DownEncoderBlock2D" for attn in down),
        "up_block_types": tuple(f"{'Attn' * attn}UpDecoderBlock2D" for attn in up),
        "block_out_channels": tuple(channels),
        "layers_per_block": dd["num_res_blocks"],
        "latent_channels": dd["z_channels"],
        "sample_size": dd["resolution"],
        "mid_block_add_attention": attends,
    }


def _find_attention(dd: Mapping[str, Any], levels: int) -> tuple[list[bool], list[bool]]:
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


def _check_known(values: Mapping[str, Any], known: set[str], source: str) -> None:
    unknown = ", ".join(sorted(map(str, set(values) - known)))
    if unknown:
        raise CheckpointError(
            f"{source}: unknown field {unknown}; remove it if it does not change results"
        )


def _take_count(values: Mapping[str, Any], name: str, source: str) -> int:
    value = values.get(name)
    if type(value) is not int or value < 1:
        raise CheckpointError(f"{source}: {name} is {value!r}; it must be an integer >= 1")
    return value


def _check_counts(values: object, name: str, source: str) -> None:
    if not isinstance(values, list) or not all(type(v) is int and v >= 1 for v in values):
        raise CheckpointError(
            f"{source}: ddconfig: {name} is {values!r}; it must be a list of integers >= 1"
        )
