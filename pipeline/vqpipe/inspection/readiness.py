"""Whether codes are fit to train on, as far as their sink can say: an answer, with reasons.

no         not all of the plan is committed and counted, or objects are missing
with care  all is there, and something about it wants a look first
yes        all is there, and nothing stands out
"""

from dataclasses import dataclass
from typing import Any, Literal

from vqpipe.inspection.survey import Survey
from vqpipe.sink.identity import EncodeFacts
from vqpipe.sink.losses import describe_losses
from vqpipe.sink.totals import made

MOST_REJECTED = 0.05
"""Share of samples."""
MOST_UNLIKE = 0.05
"""Share of codes that differ from float32's; bfloat16 turns 2 to 4 % of a trained codebook's."""
LEAST_USAGE = 0.01
"""Share of codebook entries. Models that are in use have 6 % and more."""
ENOUGH_CODES = 10
"""Times the codebook size: of fewer codes, usage says nothing."""
MOST_DRIFT = 1.5
"""Times the median of the distances: a shard of other images than the rest, or a damaged one."""
LEAST_DRIFT = 0.2
"""Jensen-Shannon distance below which no shard drifts; a few thousand codes differ by chance."""

Answer = Literal["yes", "with care", "no"]


@dataclass(frozen=True)
class Remark:
    """Why the answer is what it is."""

    check: str
    """`complete`, `missing`, `damaged`, `foreign`, `empty`, `rejected`, `unlike`, `usage`, `psnr`
    or `drift`."""
    message: str


@dataclass(frozen=True)
class Readiness:
    """An answer, with at least one reason."""

    answer: Answer
    why: list[Remark]


def judge(survey: Survey, totals: dict[str, Any], concerns: list[Remark]) -> Readiness:
    """Returns whether a sink is fit to be used.

    Args:
        survey: The sink.
        totals: What it adds up to.
        concerns: What else there is to say against it (`check_codes`).
    """
    concerns = _check_rejected(totals) + concerns
    if survey.foreign:
        message = f"{len(survey.foreign):,} object(s) in data/ belong to no shard of the plan"
        concerns = [Remark("foreign", message), *concerns]
    blocking = _check_complete(survey, totals)
    damage = describe_losses(totals)
    if damage and not any(each.check == "damaged" for each in blocking):
        concerns = [Remark("damaged", damage), *concerns]
    if blocking:
        return Readiness("no", [*blocking, *concerns])
    if concerns:
        return Readiness("with care", concerns)
    done = f"all {len(survey.sink.plan):,} shard(s) are committed and counted"
    return Readiness("yes", [Remark("complete", done)])


def _check_complete(survey: Survey, totals: dict[str, Any]) -> list[Remark]:
    planned, missing = len(survey.sink.plan), len(survey.sink.plan) - len(survey.objects)
    if not survey.is_complete:
        done = totals["shards"]
        damage = describe_losses(totals)
        if done == planned and damage:
            return [Remark("damaged", f"all {planned:,} shard(s) are committed, but {damage}")]
        if done == planned:
            said = f"all {planned:,} shard(s) are there; run the command again to have them counted"
        else:
            said = f"{done:,} of {planned:,} shards are there, and safe to read now"
        return [Remark("complete", said)]
    if missing:
        message = f"{missing:,} shard(s) were counted and are gone: see vqpipe verify"
        return [Remark("missing", message)]
    if not made(totals):
        is_chosen = totals.get("left_out", 0)
        return [Remark("empty", f"every sample was {'left out or ' * bool(is_chosen)}rejected")]
    return []


def _check_rejected(totals: dict[str, Any]) -> list[Remark]:
    rejected = totals["rejected_images"]
    share = rejected / max(made(totals) + rejected, 1)
    if share <= MOST_REJECTED:
        return []
    return [Remark("rejected", f"{share:.1%} of the images were rejected")]


def check_codes(
    facts: EncodeFacts, totals: dict[str, Any], evaluation: dict[str, Any] | None
) -> list[Remark]:
    """Returns what there is to say against the codes themselves.

    Args:
        facts: Those of the run.
        totals: What its sink adds up to.
        evaluation: What `evaluation.json` says, if there is one.
    """
    measured = evaluation or {}
    concerns = []
    unlike = totals["flip_rate"]
    unlike = measured.get("codes_unlike_float32") if unlike is None else unlike
    if unlike is not None and unlike > MOST_UNLIKE:
        concerns.append(Remark("unlike", f"{unlike:.1%} of the codes are unlike float32's"))
    size, usage = facts.codebook_size, totals["codebook_usage"]
    codes = made(totals) * facts.codes.length
    if codes >= ENOUGH_CODES * size and (usage < LEAST_USAGE or totals["codebook_perplexity"] < 2):
        message = f"only {usage:.2%} of the codebook is used: see vqpipe doctor"
        concerns.append(Remark("usage", message))
    drift = measured.get("drift")
    concerns += _check_psnr(totals["low_psnr_shards"])
    return concerns + (_check_drift(drift) if drift else [])


def _check_psnr(low: list[str]) -> list[Remark]:
    """Returns what to say of the shards whose images come back far worse than those of others."""
    if not low:
        return []
    others = f" and {len(low) - 1:,} more" if len(low) > 1 else ""
    message = f"images of {low[0]}{others} come back far worse than elsewhere: see vqpipe evaluate"
    return [Remark("psnr", message)]


def _check_drift(drift: dict[str, Any]) -> list[Remark]:
    """Returns what to say of the shards whose codes are least like those of all others."""
    if drift["shards"] < 3:
        return []
    bound = max(LEAST_DRIFT, MOST_DRIFT * drift["median"])
    far = [each for each in drift["most"] if each["distance"] > bound]
    return [Remark("drift", _describe_far(far, drift))] if far else []


def _describe_far(far: list[dict[str, Any]], drift: dict[str, Any]) -> str:
    first = far[0]["shard"]
    apart = f"(distance {far[0]['distance']:.2f}, median {drift['median']:.2f})"
    if len(far) == 1:
        return f"shard {first} has other codes than the rest {apart}: look at its images"
    least = "at least " if len(far) == len(drift["most"]) < drift["shards"] else ""
    return (
        f"{least}{len(far):,} shards have other codes than the rest, most of all {first} {apart}: "
        "look at their images"
    )
