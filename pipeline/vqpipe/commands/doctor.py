"""Say what a checkpoint is and what it bears: pixel range, code grid, safe precisions."""

import json
import shlex
from dataclasses import fields
from typing import Any

from rich import box
from rich.table import Table

from vqpipe import schema
from vqpipe.codec import doctor
from vqpipe.codec.device import choose_device
from vqpipe.codec.doctor import Diagnosis, Precision
from vqpipe.codec.weights import Weights
from vqpipe.commands.all_jobs import Doctor
from vqpipe.commands.console import print_fields, stdout
from vqpipe.commands.model import describe_family, layout_of, load_weights
from vqpipe.commands.options import ModelOptions

_SAFE = """  safe: vqpipe encode takes it here, and the network's numbers stay finite; how many
  codes it changes is shown beside it, and is for you to judge
"""


def run(job: Doctor) -> None:
    """Prints the findings.

    Raises:
        CheckpointError: If the checkpoint is damaged.
        ConfigError: If its pixel range does not show and was not given, or it takes no photos of
            that size.
    """
    weights = load_weights(job)
    side = weights.description.side_near(256) if job.resolution is None else job.resolution
    layout_of(side, weights)
    device = choose_device(job.device)
    found = doctor.diagnose(weights, side, job.pixel_range, device)
    if job.json:
        print(json.dumps(_facts(weights, found)))  # noqa: T201
        return
    console = stdout()
    print_fields(console, weights.where, _describe(weights, found))
    console.print(_tabulate(found.precisions, device))
    console.print(_SAFE, soft_wrap=True)
    console.print(_advise(job, found), soft_wrap=True, markup=False)


def _facts(weights: Weights, found: Diagnosis) -> dict[str, Any]:
    return {
        "model": weights.where,
        "model_sha256": weights.sha256(),
        "family": dict(weights.provenance) or None,
        "codebook_size": found.layout.codebook_size,
        "codes_per_image": found.layout.length,
        "codes_dtype": str(schema.code_type(found.layout.codebook_size)),
        "downsample_factor": weights.description.multiple,
        **found.to_dict(),
    }


def _describe(weights: Weights, found: Diagnosis) -> list[tuple[str, object]]:
    description = weights.description
    codes, factor = found.layout, description.multiple
    return [
        *describe_family(weights),
        ("weights", f"{weights.parameters / 1e6:,.1f} million, sha256 {weights.sha256()[:12]}"),
        (
            "codebook",
            f"{codes.codebook_size:,} entries of {description.latent_channels} numbers",
        ),
        (
            "codes",
            f"{codes.describe()} at {found.side_px} px"
            + (f", one code for {factor} x {factor}" if codes.kind == "grid" else ""),
        ),
        (
            "stored as",
            f"{codes.length:,} codes an image, {schema.code_type(codes.codebook_size)}",
        ),
        ("pixel range", f"{found.pixel_range}: {found.probe.describe()}"),
        (
            "codebook usage",
            f"{found.codes_used:,} entries in {len(doctor.PROBES)} photos, perplexity "
            f"{found.perplexity:,.1f}",
        ),
        ("round trip", f"{found.again:.1%} of the codes come back from the decoded photos"),
    ]


def _tabulate(precisions: tuple[Precision, ...], device: str) -> Table:
    table = Table(box=box.SIMPLE, title=f"\n  precisions on {device}", title_justify="left")
    for name in ("--dtype", "codes unlike float32", "PSNR of the photos", "safe"):
        table.add_column(name, no_wrap=name != "safe")
    for found in precisions:
        safe = "yes" if found.is_safe else f"no: {found.refused or 'latents are not finite'}"
        psnr = f"{found.psnr_db:.2f} dB" if found.finite else "-"
        table.add_row(found.dtype, f"{found.flips:.2%}", psnr, safe)
    return table


def _advise(job: Doctor, found: Diagnosis) -> str:
    names = [option.name for option in fields(ModelOptions)]
    given = {name: value for name in names if (value := getattr(job, name)) is not None}
    given |= {"pixel_range": found.pixel_range, "resolution": found.side_px}
    options = (f"--{name.replace('_', '-')} {shlex.quote(str(given[name]))}" for name in given)
    return f"  use it with  vqpipe encode --source ... --sink ... {' '.join(options)}"
