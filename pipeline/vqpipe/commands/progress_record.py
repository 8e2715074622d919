"""How far a command is, as a record: what `--progress-file` has in a line and `on_progress` gets.

A record is a flat object of JSON's types, but for `rejected`, `busy` and `totals`; README has the
list of its fields. New ones may come, and go into `measure`, the one place where `Progress` is
turned into them; what is there keeps its name and its unit.
"""

from datetime import UTC, datetime
from typing import Any

from vqpipe.bottleneck import find_bound
from vqpipe.commands.progress import Progress


def stamp(event: str, stage: str) -> dict[str, Any]:
    """Returns what every record begins with: when it was made, and of what it tells."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"time": now.replace("+00:00", "Z"), "event": event, "stage": stage}


def measure(progress: Progress) -> dict[str, Any]:
    """Returns how far a command is; counts of images are of this command, not of earlier ones."""
    left_s, total = progress.left_s, progress.images_total
    seen = progress.occupancy
    bound = find_bound(seen) if seen else None
    return {
        "elapsed_s": round(progress.seconds, 1),
        "start_up_s": None if progress.start_up_s is None else round(progress.start_up_s, 1),
        "eta_s": None if left_s is None else round(left_s, 1),
        "shards_done": progress.shards_before + progress.shards,
        "shards_total": progress.shards_total,
        "shards_before": progress.shards_before,
        "images_done": progress.images,
        "images_safe": progress.durable,
        "images_total": total,
        "images_per_second": round(progress.rate, 2),
        "images_left_out": progress.left_out,
        "images_rejected": progress.rejected_images,
        "rejected": dict(progress.reasons),
        "devices": list(progress.devices),
        "busy": seen and {part: round(share, 3) for part, share in seen.parts.items()},
        "bound": bound and bound.part,
    }
