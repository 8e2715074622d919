"""Where a run is to be, and what there is: kinds of devices, how many codecs, which machines."""

from dataclasses import dataclass, field
from typing import Any

from ray.data import ActorPoolStrategy

from vqpipe.codec.config import Device
from vqpipe.engine import capacity
from vqpipe.engine.places import Place, describe_missing
from vqpipe.engine.watchdog import CODEC_CORES
from vqpipe.errors import ConfigError

_TABLES = 2
"""That a codec on a GPU has in hand at a time: one on the device, one on the way in or out."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Where to run and how wide; nothing here changes a result."""

    address: str | None = None
    """A Ray cluster to join; None starts one on this machine that ends with the command."""
    device: Device = "auto"
    codecs: Place = field(default_factory=Place)
    """What codecs ask for, beside a GPU and some of a core."""
    workers: Place = field(default_factory=Place)
    """What all others ask for, beside some of a core."""
    actors: int | None = None
    """Most codecs; None is one for every GPU, also those that come later, or one on a CPU."""
    batch_size: int | None = None
    """Images in one forward."""
    stall_timeout_s: float = 900.0
    """Seconds without any progress after which the run is given up."""


@dataclass(frozen=True)
class Where:
    """What there is to run on, and what of it each worker asks for."""

    kind: str
    """Kind of device of the codecs, `cuda` or `cpu`."""
    codec: dict[str, Any]
    """What a codec asks Ray for."""
    pool: ActorPoolStrategy
    """How many codecs."""
    workers: Place
    """What all others ask for, beside some of a core."""
    cores: int | None
    """Those of this machine if it is the only one: each process of Ray takes two seconds of a core
    to start, and a laptop has few."""


def look_around(resources: Resources) -> Where:
    """Returns where a run is to be, by what there is now."""
    gpus = capacity.count_gpus(resources.codecs)
    kind = choose_kind(resources.device, resources.codecs, gpus)
    on_gpu = kind == "cuda"
    # On a GPU it asks for no core: one that comes to a machine whose cores all open images would
    # wait until one of them ends, which reads shards as long as there are some, and its GPU too.
    codec = resources.codecs.options(num_cpus=0 if on_gpu else CODEC_CORES, num_gpus=int(on_gpu))
    at_once = int(gpus / codec["num_gpus"]) if on_gpu else 1
    is_alone = not resources.address and len(capacity.machines()) == 1
    cores = capacity.cores() if is_alone else None
    return Where(kind, codec, _pool(resources.actors, at_once, kind), resources.workers, cores)


def choose_kind(device: Device, place: Place, gpus: float) -> str:
    """Returns the kind of device that codecs work on, `cuda` or `cpu`.

    Args:
        device: What was asked for.
        place: What codecs ask for beside.
        gpus: That are there now.
    """
    if device == "auto":
        return "cuda" if gpus or place.resources.get("GPU") else "cpu"
    return device


def look_for_machines(resources: Resources) -> list[str]:
    """Returns what is to be known, in sentences, of machines that a run waits for.

    Raises:
        ConfigError: If this machine alone is what there is, and lacks what was asked for.
    """
    machines = capacity.machines()
    asked = ("codecs", resources.codecs), ("other workers", resources.workers)
    missing = [said for who, place in asked if (said := describe_missing(place, machines, who))]
    if missing and not resources.address and len(machines) == 1:
        raise ConfigError(
            f"{'; '.join(missing)}: this machine is all there is. Join a cluster by --address, or "
            "leave these options out"
        )
    return [f"{said} now: they wait for one" for said in missing] + _say_no_gpu(resources)


def _say_no_gpu(resources: Resources) -> list[str]:
    gpus = capacity.count_gpus(resources.codecs)
    kind = choose_kind(resources.device, resources.codecs, gpus)
    if resources.address and resources.device == "auto" and kind == "cpu":
        return ["no GPU in the cluster now, so CPUs encode: --device cuda waits for GPUs to come"]
    return []


def _pool(actors: int | None, at_once: int, kind: str) -> ActorPoolStrategy:
    """Returns where codecs are: at least one at work.

    On GPUs there may be any number of them, unless one was asked for: Ray adds codecs as long as
    there are GPUs for them and work waits, and asks its autoscaler for more GPUs while those that
    are there are busy; a bound from what is there at the start would hold forever. All that have
    a GPU begin at once: one after the other, each would wait for the kernels of those before
    it. There each takes two tables at a time, so that fetching one and handing on another go on
    beside the device.

    Args:
        actors: Most of them that were asked for.
        at_once: How many find a place now; on a cluster that is only starting, none.
        kind: Of their devices.
    """
    if kind == "cpu":
        return ActorPoolStrategy(min_size=1, max_size=actors or 1)
    return ActorPoolStrategy(
        min_size=1,
        max_size=actors,
        initial_size=max(1, min(actors or at_once, at_once)),
        max_concurrent_calls_per_actor=_TABLES,
    )
