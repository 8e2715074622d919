"""What is said of a sink wherever one is: what it holds, what is missing, how to read it."""

import os
import shlex
import shutil
import sys
from typing import Any

from vqpipe.code_layout import CodeLayout
from vqpipe.commands.console import Fields, Prose, printable
from vqpipe.sink.beside import LAYOUTS
from vqpipe.sink.identity import EncodeIdentity
from vqpipe.sink.losses import describe_losses
from vqpipe.sink.run import CodesRun, DecodeRun, Run
from vqpipe.sink.totals import made, verb


def describe_output(sink: str, run: Run) -> Fields:
    """Returns the lines that say where a run's output is and how to read it."""
    images: Fields = []
    if isinstance(run, DecodeRun) and run.identity.layout in LAYOUTS:
        images = [("images", f"{sink}/images/")]
    return [*images, ("output", f"{sink}/data/"), ("read it", read_command(sink))]


def read_command(sink: str) -> str:
    """Returns a command that shows some rows of a sink, and that can be run where this one was."""
    place = f"{sink}/data"
    if shutil.which("duckdb"):
        quoted = place.replace("'", "''")  # as SQL has it
        query = f"FROM '{quoted}/**/*.parquet' LIMIT 5"
        return f"duckdb -c {_quote(query)}"
    if "://" in sink:  # with the same access as ours; a data set's threads and fsspec's end badly
        code = (
            "import fsspec, pyarrow as a, pyarrow.parquet as p; "
            f"fs, path = fsspec.url_to_fs({place!r}); "
            "print(p.ParquetFile(a.BufferReader(fs.cat(fs.find(path)[0]))).read().slice(0, 5))"
        )
    else:
        code = f"import pyarrow.dataset as d; print(d.dataset({place!r}).head(5))"
    return f"{_python()} -c {_quote(code)}"


def _quote(text: str) -> str:
    """Returns text as one word of a shell, in the quotes that are easier to read."""
    is_plain = not any(letter in text for letter in '"$`\\!')
    return f'"{text}"' if is_plain else shlex.quote(text)


def _python() -> str:
    """Returns how a shell calls the interpreter that has our packages."""
    found = shutil.which("python")
    is_ours = found is not None and os.path.dirname(found) == os.path.dirname(sys.executable)
    return "python" if is_ours else shlex.quote(sys.executable)


def describe_vectors(run: CodesRun) -> Fields:
    """Returns what stands beside the codes of a run, or instead of them; nothing where they do."""
    said = "; ".join(each.describe() for each in run.facts.vectors)
    left_out = "; codes are left out" if run.identity.drop_codes else ""
    return [("vectors", Prose(said + left_out))] if said else []


def describe_totals(totals: dict[str, Any], run: Run) -> Fields:
    """Returns the lines that say what a sink holds.

    Args:
        totals: As they stand in `summary.json`.
        run: What it is of.
    """
    reasons = totals["rejected_by_reason"].items()
    return [
        ("samples", f"{totals['samples']:,}"),
        (verb(totals), f"{made(totals):,}{_describe_rows(totals)}"),
        ("rejected", f"{totals['rejected']:,}"),
        *((f"  {reason}", f"{count:,}") for reason, count in reasons),
        *describe_left_out(totals),
        *describe_missing(totals),
        *(_describe_codes(totals, run.facts.codes) if isinstance(run, CodesRun) else ()),
        ("bytes per image", f"{totals['bytes_per_image']:,.1f}"),
    ]


def _describe_rows(totals: dict[str, Any]) -> str:
    """Returns how many rows there are of samples that have several."""
    return f", in {totals['rows']:,} rows" if "rows" in totals else ""


def describe_left_out(totals: dict[str, Any], about: str = "") -> Fields:
    """Returns the lines about samples that a run leaves out, if there are any.

    Args:
        totals: As they stand in `summary.json`.
        about: Begins numbers that are estimates.
    """
    if not totals.get("left_out"):
        return []
    by = sorted(totals["left_out_by"].items(), key=lambda each: (-each[1], each[0]))
    all_of = "none of the samples meets --where: look whether it says what it should"
    is_all = totals["left_out"] == totals["samples"]
    return [
        ("left out", f"{about}{totals['left_out']:,}, which left_out/ names"),
        *(("", Prose(printable(f"{count:,} do not meet {why}", 300))) for why, count in by),
        *([("take care", Prose(all_of))] if is_all else []),
    ]


def describe_missing(totals: dict[str, Any]) -> Fields:
    """Returns the lines about images that are no samples of their own, if there are any."""
    images, over = totals["rejected_images"], totals["passed_over"]
    damaged = describe_losses(totals)
    stand = f"the rejections stand for at least {images:,} images"
    taken = f"{over:,} image(s), of samples of which another one was taken"
    return [
        *([("images lost", Prose(stand))] if images > totals["rejected"] else []),
        *([("damaged", Prose(printable(damaged, 500)))] if damaged else []),
        *([("passed over", Prose(taken))] if over else []),
        *_describe_nulls(totals),
    ]


def _describe_nulls(totals: dict[str, Any]) -> Fields:
    """Returns the lines about kept columns that are null, where samples did not have them."""
    good = made(totals)
    return [
        (
            "take care" if count >= good else "null",
            Prose(printable(f"{name}, which is kept, is null in {count:,} of {good:,}")),
        )
        for name, count in totals["kept_nulls"].items()
    ]


def _describe_codes(totals: dict[str, Any], codes: CodeLayout) -> Fields:
    name = "codes per view" if "rows" in totals else "codes per image"
    shape = (name, f"{codes.count} ({codes.describe()})")
    if "codebook_usage" not in totals:  # they were left out, and are counted nowhere here
        return [shape]
    usage, perplexity = totals["codebook_usage"], totals["codebook_perplexity"]
    return [
        shape,
        ("codebook usage", f"{usage:.1%} of the entries, perplexity {perplexity:,.1f}"),
        *_describe_audit(totals),
    ]


def _describe_audit(totals: dict[str, Any]) -> Fields:
    return [*_describe_flips(totals), *describe_psnr(totals)]


def describe_psnr(totals: dict[str, Any]) -> Fields:
    """Returns the lines about the images that were decoded again on the way."""
    if not totals.get("psnr_images"):
        return []
    said = f"{totals['psnr_db']:.2f} dB PSNR, measured on {totals['psnr_images']:,} image(s)"
    low = totals["low_psnr_shards"]
    look = f"{', '.join(map(printable, low))}: images there come back far worse than elsewhere"
    return [("decoded again", said), *([("look at", Prose(look))] if low else [])]


def _describe_flips(totals: dict[str, Any]) -> Fields:
    if not totals["audited"]:
        return []
    share, images = totals["flip_rate"], totals["audited"]
    return [("unlike float32", f"{share:.2%} of the codes, measured on {images:,} image(s)")]


def describe_views(identity: EncodeIdentity, views: int) -> Fields:
    """Returns the lines about which views there are of an image, if it is more than its centre."""
    if identity.viewing == "center":
        return []
    count = f"{views:,} an image: " if views > 1 else ""
    return [("views", Prose(f"{count}{identity.viewing}"))]


def warn_of_shapes(identity: EncodeIdentity) -> Fields:
    """Returns what is to be known before a run of many shapes begins."""
    if len(identity.shapes) < 2 or identity.eager:
        return []
    said = (
        f"a GPU compiles kernels for each of the {len(identity.shapes):,} shapes when it first "
        "meets it, a minute or so each; --eager does without, and is slower"
    )
    return [("shapes", Prose(said))]


def describe_where(identity: EncodeIdentity) -> Fields:
    """Returns the line about what an image has to meet, if it has to meet anything."""
    said = identity.where
    return [] if said is None else [("where", Prose(printable(said, 500)))]


def describe_limit(identity: EncodeIdentity) -> str | None:
    """Returns what of the beginning of a source is taken, in words; None if it is all of it."""
    images, shards = identity.limit, identity.limit_shards
    parts = [
        *([f"the first {images:,} images"] if images else []),
        *([f"the first {shards:,} shards"] if shards else []),
    ]
    return " of ".join(parts) or None
