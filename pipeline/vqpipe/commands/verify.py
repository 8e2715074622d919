"""Read a whole sink back and check every promise that a run makes of it."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

from vqpipe import storage
from vqpipe.codec.codec import Codec
from vqpipe.codec.config import CodecConfig
from vqpipe.codec.device import choose_device
from vqpipe.commands.console import print_fields, printable, stderr, stdout
from vqpipe.commands.description import describe_missing
from vqpipe.commands.model import load_recorded
from vqpipe.commands.runs import load_run
from vqpipe.commands.sink_jobs import Verify
from vqpipe.errors import ConfigError, DamagedSinkError, IncompleteError
from vqpipe.images import Preprocess
from vqpipe.images.sandbox import Sandbox
from vqpipe.inspection import reencode, verify
from vqpipe.inspection.reencode import Again, Reencoded
from vqpipe.inspection.survey import find_json
from vqpipe.inspection.verify import Breach
from vqpipe.schema import Selection
from vqpipe.sink import layout, totals
from vqpipe.sink.losses import describe_losses
from vqpipe.sink.run import EncodeRun, EncodeSink, Sink, is_complete, open_sink

_SHOWN = 10
_ONLY_AT_THE_END = {"complete", "rejected", "left_out", "totals", "same"}


def run(job: Verify) -> None:
    """Prints what was checked and what was found.

    Raises:
        ConfigError: If there is no run.
        DamagedSinkError: If anything is not as it must be.
        IncompleteError: If all is well so far, but the run has not ended.
        MismatchError: If the model is not the run's.
        SourceChangedError: If a source to encode again is not what it was.
    """
    uri = storage.normalise_uri(job.sink)
    found = load_run(uri)
    if job.deep and not isinstance(found, EncodeRun):
        raise ConfigError(
            f"{uri} is a sink of vqpipe {found.stage}: --deep encodes again, and only codes are "
            "encoded; leave it out"
        )
    sink, complete = open_sink(uri, found), is_complete(uri)
    breaches = list(verify.verify(sink, is_complete=complete))
    again = Reencoded()
    if job.deep and isinstance(found, EncodeRun) and not breaches:  # damage has to be mended first
        again = _encode_again(job, EncodeSink(uri, found, sink.plan))
        breaches = again.breaches
    counted = {} if breaches else _totals(sink, is_complete=complete)
    if job.json:
        facts = {"complete": complete, "breaches": [asdict(each) for each in breaches]}
        facts |= {name: counted.get(name) for name in ("damaged_shards", "rejected_images")}
        print(json.dumps(facts | ({"deep": _count(again)} if job.deep else {})))  # noqa: T201
    else:
        _print(uri, verify.checks_of(found), breaches, again, is_complete=complete)
        _print_missing(counted)
    if breaches:
        raise DamagedSinkError(
            f"{uri} is not as it must be, in {len(breaches):,} place(s). Remove the objects in "
            "data/, rejected/ and left_out/ that are named, and _SUCCESS, and run vqpipe "
            f"{found.stage} again: it makes them anew"
        )
    if not complete:
        damage = describe_losses(counted)
        why = f": {damage}" if damage else ""
        raise IncompleteError(f"{uri} is not complete yet; what is there is as it must be{why}")


def _totals(sink: Sink, *, is_complete: bool) -> dict[str, Any]:
    """Returns the totals of a sink in which nothing is broken."""
    said = find_json(layout.success_uri(sink.uri)) if is_complete else None
    return said or totals.read_totals(sink).to_dict()


def _print_missing(counted: dict[str, Any]) -> None:
    """Prints what no check can find: images that no object of the sink is to have."""
    lines = describe_missing(counted) if counted else []
    if lines:
        print_fields(stdout(), "not in the codes or images", lines)


def _encode_again(job: Verify, sink: EncodeSink) -> Reencoded:
    """Encodes a share of what is committed again."""
    total = Reencoded()
    picked = reencode.pick_shards(sink.plan, reencode.committed(sink), job.share)
    with _open_again(job, sink.run, reencode.preprocess_of(sink, picked)) as again:
        for index in picked:
            total.add(reencode.compare_shard(sink, index, again))
            if not job.json:
                said = f"  encoded {total.views:,} views of {total.shards:,} shard(s) again"
                stderr().print(said, style="dim")
    return total


@contextmanager
def _open_again(job: Verify, found: EncodeRun, preprocess: Preprocess) -> Iterator[Again]:
    """Yields what it takes to encode as the run did."""
    identity = found.identity
    how = CodecConfig(dtype=identity.dtype, pixel_range=identity.pixel_range, eager=identity.eager)
    codec = Codec(load_recorded(job, found), how, device=choose_device(job.device))
    with closing(Sandbox(preprocess)) as sandbox:
        yield Again(
            Selection(
                identity.image,
                identity.key,
                identity.keep,
                key_until=identity.key_until or "first-dot",
                label=identity.label,
            ),
            preprocess,
            partial(codec.encode_vectors, vectors=found.facts.vectors),
            lambda images, _: sandbox.open(images),
        )


def _count(again: Reencoded) -> dict[str, int]:
    return {name: getattr(again, name) for name in ("shards", "views", "codes", "unlike")}


def _print(
    sink: str,
    checks: dict[str, str],
    breaches: list[Breach],
    again: Reencoded,
    *,
    is_complete: bool,
) -> None:
    fields: list[tuple[str, object]] = []
    for check, meaning in {**checks, **(reencode.CHECKS if again.shards else {})}.items():
        found = [each for each in breaches if each.check == check]
        is_later = check in _ONLY_AT_THE_END and not is_complete
        fields += _describe(check, meaning, found, is_later=is_later)
    if again.shards:
        said = f"{again.unlike:,} of {again.codes:,} codes differ, in {again.views:,} views"
        said = said if again.codes else f"{again.views:,} views, whose codes were left out,"
        fields.append(("encoded again", f"{said} of {again.shards:,} shard(s)"))
    print_fields(stdout(), f"verify {sink}", fields)


def _describe(
    check: str, meaning: str, found: list[Breach], *, is_later: bool
) -> Iterator[tuple[str, object]]:
    state = "later" if is_later else f"BROKEN, {len(found):,} time(s)" if found else "ok"
    yield check, f"{state}: {meaning}"
    for each in found[:_SHOWN]:
        yield "", printable(f"{each.where}: {each.message}", 300)
    if len(found) > _SHOWN:
        yield "", f"and {len(found) - _SHOWN:,} more; --json has them all"
