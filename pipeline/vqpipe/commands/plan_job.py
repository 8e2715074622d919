"""What `vqpipe plan` can be told: all that `vqpipe encode` can, and what things cost."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from vqpipe.commands.options import Group, Shown, Speed, What, Where, check_least
from vqpipe.commands.stage_jobs import Encode

Price = Annotated[float | None, Group.COST, Shown("AMOUNT")]


@dataclass(frozen=True, kw_only=True)
class Plan(Encode):
    """Say what a run of vqpipe encode would take: images, GPU-hours, hours, bytes, requests, cost.

    Takes the options of vqpipe encode, opens and encodes a few images with them on this machine, or
    with --address on a cluster, starts Ray once, and writes nothing. With --sink, only what is left
    to do there counts.

    Example: vqpipe plan --source s3://bucket/photos --model vqgan/ --for-gpus 8 64 --gpu-price 2.5
    """

    sink: What[str | None] = None  # type: ignore[assignment]  # it may be left out here
    """Where the codes would go: what is there is not done again. Without it, all counts."""
    dry_run: tyro.conf.Suppress[bool] = False
    progress_file: tyro.conf.Suppress[str | None] = None
    sample: Speed[int] = 256
    """Images to measure on, picked by hashes; more are read, of 16 shards at most."""
    for_gpus: Where[tuple[int, ...]] = ()
    """For how many GPUs to tell the time; default: as many as there are where it is measured."""
    cores: Where[int | None] = None
    """CPU cores beside these GPUs, all machines together; default: as many as keep them busy."""
    gpu_price: Price = None
    """Of a GPU for an hour, in any currency; costs are told for what has a price."""
    cpu_price: Price = None
    """Of a CPU core for an hour; leave it out where the GPU's price has the machine in it."""
    get_price: Price = None
    """Of 1,000 requests that the store bills as GET: GET and HEAD."""
    put_price: Price = None
    """Of 1,000 requests that the store bills as PUT: PUT and LIST."""
    storage_price: Price = None
    """Of a GB (10^9 bytes) that is stored for a month."""
    json: Where[bool] = False
    """Print one JSON object instead of lines; README says what is in it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, "sample", "cores")
        if any(count < 1 for count in self.for_gpus):
            said = " ".join(map(str, self.for_gpus))
            raise ValueError(f"--for-gpus is {said}; each must be at least 1")
        for name in ("gpu_price", "cpu_price", "get_price", "put_price", "storage_price"):
            check_least(self, name, least=0)
