"""Which GPUs of this machine a Ray that is started here has, and thus its codecs.

Ray counts the machine's GPUs itself and heeds CUDA_VISIBLE_DEVICES; it is given no number of them,
which it would believe.
"""

import os
from collections.abc import Sequence

from ray._private.accelerators import NvidiaGPUAcceleratorManager

from vqpipe.errors import ConfigError

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def choose_gpus(asked: Sequence[str]) -> dict[str, str]:
    """Returns the environment in which Ray finds the GPUs that it is to have.

    Args:
        asked: Numbers as nvidia-smi has them, or UUIDs; none for all that this process may use.

    Raises:
        ConfigError: If one of them is not there, or not for this process.
    """
    allowed = find_allowed()
    if asked:
        _check(asked, allowed)
        return {_VISIBLE: ",".join(asked)}
    return {} if allowed is None else {_VISIBLE: ",".join(allowed)}


def find_allowed() -> list[str] | None:
    """Returns the GPUs that CUDA_VISIBLE_DEVICES names; None if it leaves all of them.

    CUDA hides all from the first on that there is not. Ray (2.60) only counts names: it takes the
    usual -1 for a GPU, and would promise it to a codec.
    """
    said = os.environ.get(_VISIBLE)
    if said is None:
        return None
    names = [each.strip() for each in said.split(",")]
    first = next(
        (at for at, name in enumerate(names) if name in {"", "NoDevFiles"} or name[0] == "-"), None
    )
    return names[:first]


def _check(asked: Sequence[str], allowed: list[str] | None) -> None:
    there = NvidiaGPUAcceleratorManager.get_current_node_num_accelerators()
    missing = [name for name in asked if name.isdigit() and int(name) >= there]
    if missing or not there:
        has = f"{there} GPUs, 0 to {there - 1}" if there else "no NVIDIA GPU"
        raise ConfigError(
            f"--gpus asks for {', '.join(missing or asked)}, and this machine has {has}: look at "
            "nvidia-smi"
        )
    hidden = [name for name in asked if allowed is not None and name not in allowed]
    if hidden:
        raise ConfigError(
            f"--gpus asks for {', '.join(hidden)}, and {_VISIBLE}={os.environ[_VISIBLE]} leaves "
            "this command others: name some of these, or unset it"
        )
