"""What `--gpus`, `--codec-labels` and the like say, parsed."""

import math
import re
from collections.abc import Iterable

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_VALUE = re.compile(rf"!?(?:{_LABEL}|in\({_LABEL}(?:, ?{_LABEL})*\))")
"""What Ray takes for a wanted label: a value, several, or none of these."""
_GPU = re.compile(r"\d+|(?:GPU|MIG)-[A-Za-z0-9/-]+")
OF_A_CODEC = ("CPU", "GPU", "memory")
"""Resources that every machine may have and that can be asked for a codec."""
PICKS_HERE = (
    "--gpus picks GPUs of this machine: say which of a cluster's machines by --codec-labels or "
    "--codec-resources, and how many of its GPUs by --actors"
)
_RAYS_OWN = ("CPU", "GPU", "memory", "object_store_memory")


def parse_gpus(said: str) -> tuple[str, ...]:
    """Returns the GPUs that `--gpus` names, in its order.

    Raises:
        ValueError: If it names none, one twice, or what no GPU is called.
    """
    names = tuple(each.strip() for each in said.split(","))
    for name in names:
        if not _GPU.fullmatch(name):
            raise ValueError(
                f"--gpus is {said!r}; it must be numbers as nvidia-smi has them, such as 0,2, or "
                "UUIDs. --device cpu takes none"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"--gpus is {said!r}; each GPU can be named once")
    return names


def parse_labels(option: str, said: Iterable[str]) -> dict[str, str]:
    """Returns the values that labels must have, by label.

    Args:
        option: Which option says so, such as `--codec-labels`.
        said: Such as `ray.io/accelerator-type=in(H100, A100)`.

    Raises:
        ValueError: If one says nothing that Ray understands, or two speak of one label.
    """
    found: dict[str, str] = {}
    for text in said:
        name, equals, value = text.partition("=")
        if not (name and equals and _VALUE.fullmatch(value)):
            raise ValueError(
                f"{option} has {text!r}; it must be LABEL=VALUE, such as "
                "ray.io/accelerator-type=H100, or with !H100, in(H100,A100) or !in(H100,A100) for "
                "the value"
            )
        _check_new(option, name, found)
        found[name] = value
    return found


def parse_resources(option: str, said: Iterable[str], of_ray: Iterable[str]) -> dict[str, float]:
    """Returns how much of each resource a worker is to have, by name.

    Args:
        option: Which option says so, such as `--codec-resources`.
        said: Such as `accelerator_type:H100=0.001`.
        of_ray: Which of the resources that every machine may have can be among them.

    Raises:
        ValueError: If one is no such amount, cannot be asked for, or is there twice.
    """
    found: dict[str, float] = {}
    for text in said:
        name, _, amount = text.rpartition("=")
        if not name or not _is_amount(amount):
            raise ValueError(
                f"{option} has {text!r}; it must be NAME=AMOUNT, such as "
                "accelerator_type:H100=0.001, the amount above 0, and whole above 1"
            )
        if name in set(_RAYS_OWN).difference(of_ray):
            raise ValueError(f"{option} has {text!r}; how much {name} these workers ask for is set")
        _check_new(option, name, found)
        found[name] = float(amount)
    if found.get("GPU", 0) > 1:
        raise ValueError(f"{option} has GPU={found['GPU']:g}; a codec works on one GPU at most")
    return found


def _check_new(option: str, name: str, found: Iterable[str]) -> None:
    if name in found:
        raise ValueError(f"{option} has {name} twice")


def _is_amount(said: str) -> bool:
    """Tells whether Ray takes it for an amount: a ten-thousandth is the least it knows."""
    try:
        amount = float(said)
    except ValueError:
        return False
    is_whole = math.isfinite(amount) and amount == int(amount)
    return 0.0001 <= amount < 1 or (is_whole and amount >= 1)
