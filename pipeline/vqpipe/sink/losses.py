"""How many images rejections stand for, and what is lost of shards that are damaged.

A rejection stands for one image as a rule, for a known number where somebody counted them (a
Parquet footer, the members of a tar that fell into one sample), for an estimate by bytes, or for
nobody knows how many (`schema.Loss`).
"""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vqpipe.rejections import LEFT_OUT, Loss, Reason

_SHOWN = 10
_NAMED = 3


def least_images(rows: pa.Table) -> int:
    """Returns how many images the rejected ones among some rows stand for, at least."""
    rejected = rows.filter(pc.not_equal(rows["reason"], LEFT_OUT))  # null is neither
    return int(pc.sum(pc.fill_null(rejected["lost"], 1)).as_py() or 0)


def find_damage(rejected: pa.Table) -> dict[str, Any] | None:
    """Returns where a shard could not be read on and what that loses; None if it was read whole.

    Args:
        rejected: The shard's rejections (`schema.REJECTED`).
    """
    is_damage = pc.equal(rejected["reason"], Reason.SHARD_DAMAGED.value)
    found = rejected.filter(is_damage).select(["row", "lost", "lost_by"]).to_pylist()
    if not found:
        return None
    numbers = [each["lost"] for each in found]  # several where rows behind it could be read once
    lost = None if None in numbers else sum(numbers)
    return {"row": found[0]["row"], "lost": lost, "lost_by": found[-1]["lost_by"]}


def add_up(damaged: dict[str, Loss]) -> dict[str, Any]:
    """Returns what is lost of damaged shards, by name, as it stands in totals."""

    def total(by: str) -> int:
        return sum(loss.least for loss in damaged.values() if loss.by == by)

    first = sorted(damaged)[:_SHOWN]
    return {
        "damaged_shards": len(damaged),
        "lost_known": total("known"),
        "lost_estimated": total("estimated"),
        "lost_unknown": total("unknown"),  # as many as shards: at least one image each
        "damaged": [
            {"shard": name, "lost": damaged[name].images, "lost_by": damaged[name].by}
            for name in first
        ],
    }


def describe_losses(totals: dict[str, Any]) -> str:
    """Returns which shards are damaged and what is lost of them; empty if none is.

    Args:
        totals: As they are stored.
    """
    shards = totals["damaged_shards"]
    if not shards:
        return ""
    names = [each["shard"] for each in totals["damaged"][:_NAMED]]
    more = [f"{shards - len(names):,} more"] if shards > len(names) else []
    return (
        f"{shards:,} shard(s) could not be read to the end ({', '.join([*names, *more])}): "
        f"{_describe_numbers(totals)}"
    )


def describe_loss(row: dict[str, Any]) -> str:
    """Returns how many images a row of `rejected/` stands for, if not for one, after a comma."""
    count, by = row["lost"], row["lost_by"]
    about = "about " if by == "estimated" else ""
    return (
        ""
        if by is None
        else f", for {'an unknown number of' if count is None else f'{about}{count:,}'} images"
    )


def _describe_numbers(totals: dict[str, Any]) -> str:
    known, estimated, unknown = (totals[f"lost_{by}"] for by in ("known", "estimated", "unknown"))
    said = [
        *([f"{known:,} image(s) are lost that are counted"] if known else []),
        *([f"about {estimated:,} image(s) judged by bytes"] if estimated else []),
        *([f"an unknown number of images in {unknown:,} of them"] if unknown else []),
    ]
    return ", ".join(said)
