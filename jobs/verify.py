"""Read a whole sink back and check every promise that a run makes of it."""

import json
from dataclasses import asdict, dataclass

import tyro
from rich.console import Console

from jobs.console import print_fields, printable
from jobs.inspect import load_run
from pipeline import plan, storage, verify
from pipeline.errors import DamagedSinkError, IncompleteError
from pipeline.verify import CHECKS, Breach

_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Read a whole sink back and check every promise that a run makes of it.

    Reads all of data/ and rejected/, and believes nothing that an object says of itself: rows,
    keys, codes and histograms are counted again. Needs no model and no Ray.

    Example: vqpipe verify codes/
    """

    sink: tyro.conf.Positional[str]
    """Folder or s3://bucket/prefix that vqpipe encode wrote."""
    json: bool = False
    """Print one JSON object instead of a table."""


def run(job: Verify) -> None:
    """Prints what was checked and what was found.

    Raises:
        ConfigError: If there is no run.
        DamagedSinkError: If anything is not as it must be.
        IncompleteError: If all is well so far, but the run has not ended.
    """
    sink = storage.normalise_uri(job.sink)
    found = load_run(sink)
    frozen, is_complete = plan.load_plan(sink), plan.is_complete(sink)
    breaches = list(verify.verify(sink, found, frozen, is_complete=is_complete))
    if job.json:
        facts = {"complete": is_complete, "breaches": [asdict(each) for each in breaches]}
        print(json.dumps(facts))  # noqa: T201
    else:
        _print(sink, breaches, is_complete=is_complete)
    if breaches:
        raise DamagedSinkError(
            f"{sink} is not as it must be, in {len(breaches):,} place(s). Remove the objects in "
            "data/ and rejected/ that are named, and _SUCCESS, and run vqpipe encode again: it "
            "makes them anew"
        )
    if not is_complete:
        raise IncompleteError(f"{sink} is not complete yet; what is there is as it must be")


def _print(sink: str, breaches: list[Breach], *, is_complete: bool) -> None:
    fields: list[tuple[str, object]] = []
    for check, meaning in CHECKS.items():
        found = [each for each in breaches if each.check == check]
        only_then = check in {"complete", "rejected", "totals"} and not is_complete
        state = "later" if only_then else f"BROKEN, {len(found):,} time(s)" if found else "ok"
        fields.append((check, f"{state}: {meaning}"))
        fields += [("", printable(f"{each.where}: {each.message}", 300)) for each in found[:_SHOWN]]
        if len(found) > _SHOWN:
            fields.append(("", f"and {len(found) - _SHOWN:,} more; --json has them all"))
    print_fields(Console(highlight=False), f"verify {sink}", fields)
