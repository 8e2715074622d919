"""What a run is: the choices its codes depend on, and what a reader of them needs to know."""

import json
import platform
import time
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from vqpipe.codec import doctor
from vqpipe.codec.config import CodecConfig
from vqpipe.codec.weights import Weights
from vqpipe.commands.jobs import Encode
from vqpipe.commands.kept import facts_of_kept
from vqpipe.commands.model import record_model
from vqpipe.errors import ConfigError, MismatchError
from vqpipe.sink.run import Run, find_run


def grid_of(resolution: int, weights: Weights) -> tuple[int, int]:
    """Returns rows and columns of the code grid.

    Raises:
        ConfigError: If the model does not take RGB images of that resolution.
    """
    factor = weights.description.multiple
    if resolution % factor:
        nearest = max(factor, round(resolution / factor) * factor)
        raise ConfigError(
            f"--resolution {resolution} is no multiple of {factor}, the pixels per code of "
            f"this model; use {nearest}"
        )
    if weights.description.channels != 3:
        raise ConfigError(f"the model takes {weights.description.channels} channels, not RGB's 3")
    return weights.description.grid_of(resolution, resolution)


def settle_codec(
    job: Encode, begun: Run | None, weights: Weights
) -> tuple[CodecConfig, dict[str, Any] | None]:
    """Returns how pixels become codes, and what the doctor found out about it.

    A sink that has a run of these weights has settled it already.
    """
    identity = begun.identity if begun else {}
    findings = None
    if identity.get("model_sha256") == weights.sha256():
        settled = identity["pixel_range"] if job.pixel_range == "auto" else job.pixel_range
    elif job.pixel_range == "auto" or not job.skip_doctor:
        settled, findings = doctor.check_start(weights, job.dtype, job.pixel_range)
    else:
        settled = job.pixel_range
    how = CodecConfig(dtype=job.dtype, pixel_range=settled, eager=job.eager)
    return how, findings


def identity_of(
    job: Encode, source: str, fmt: str, weights: Weights, codec: CodecConfig
) -> dict[str, Any]:
    """Returns every choice that changes results."""
    return {
        "stage": "encode",
        "source": source,
        "format": fmt,
        "image": job.image,
        "key": job.key,
        "key_until": job.key_until if fmt == "webdataset" else None,
        "keep": list(job.keep),
        "resolution": job.resolution,
        "resample": job.resample,
        "background": list(job.background),
        "max_pixels": job.max_pixels,
        **asdict(codec),
        "model_sha256": weights.sha256(),
        "model_config": json.loads(
            json.dumps(dict(weights.description.config))
        ),  # tuples become lists
    }


def facts_of(
    job: Encode, weights: Weights, grid: tuple[int, int], kept: pa.Schema
) -> dict[str, Any]:
    """Returns what a reader of the codes needs, and with what they were made."""
    return {
        "grid": list(grid),
        "codebook_size": weights.description.codebook_size,
        "codebook_sha256": weights.codebook_sha256(),
        "downsample_factor": weights.description.multiple,
        "model": weights.where,
        "model_commit": weights.commit,
        "model_options": record_model(job, weights),
        **facts_of_kept(kept),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(),
    }


_Types = dict[str, type | tuple[type, ...]]

_TEXT_OR_NONE = (str, type(None))
_BOTH: dict[str, _Types] = {
    "identity": {"stage": str, "source": str, "model_sha256": str},
    "facts": {"created": str, "versions": dict},
}
"""What `run.json` says in every sink, and of which type."""
_OF_STAGE: dict[str, dict[str, _Types]] = {
    "encode": {
        "identity": {
            "format": str,
            "image": _TEXT_OR_NONE,
            "key": _TEXT_OR_NONE,
            "key_until": _TEXT_OR_NONE,
            "keep": list,
            "resolution": int,
            "resample": str,
            "background": list,
            "max_pixels": int,
            "pixel_range": str,
            "dtype": str,
            "eager": bool,
        },
        "facts": {
            "grid": list,
            "codebook_size": int,
            "codebook_sha256": str,
            "model": str,
            "model_options": dict,
            "kept": dict,
        },
    },
    "decode": {
        "identity": {"format": str, "kind": str, "layout": str, "dtype": str, "pixel_range": str},
        "facts": {"size": list, "model": str, "kept": dict},
    },
    "evaluate": {"identity": {"codes": str}, "facts": {"picture_px": int, "networks": dict}},
}
"""What it says besides, by stage."""


def load_run(sink: str) -> Run:
    """Returns the run of a sink that a command was given.

    Raises:
        ConfigError: If it holds none.
        MismatchError: If its `run.json` is damaged, or none that vqpipe wrote.
    """
    found = find_whole_run(sink)
    if found is None:
        raise ConfigError(
            f"{sink} holds no run (there is no run.json); give the --sink of a command"
        )
    return found


def find_whole_run(sink: str) -> Run | None:
    """Returns the run of a sink, with all that its `run.json` must say; None if there is none.

    Raises:
        MismatchError: If its `run.json` is damaged, or none that vqpipe wrote.
    """
    found = find_run(sink)
    if found:
        _check_said(found, sink)
    return found


def _check_said(run: Run, sink: str) -> None:
    stage = run.identity.get("stage")
    if not isinstance(stage, str) or stage not in _OF_STAGE:
        raise MismatchError(
            f"{sink}/run.json is of a stage {stage!r}, which this version of vqpipe does not know: "
            "use the version that wrote it, or another sink"
        )
    wrong = [
        name
        for part, said in (("identity", run.identity), ("facts", run.facts))
        for name, kind in (_BOTH[part] | _OF_STAGE[stage][part]).items()
        if name not in said or not isinstance(said[name], kind)
    ]
    if wrong:
        raise MismatchError(
            f"{sink}/run.json does not say {', '.join(sorted(wrong))}, as that of every run of "
            f"vqpipe {stage} does: bring it back as it was (vqpipe decode also takes the Parquet "
            "files in data/ by themselves, with --model and --grid)"
        )


def check_encoded(run: Run, sink: str) -> None:
    """Checks that a run is one of `vqpipe encode`.

    Raises:
        ConfigError: If it is of another stage.
    """
    stage = run.identity["stage"]
    if stage != "encode":
        raise ConfigError(f"{sink} is a sink of vqpipe {stage}, which holds no codes")


def versions() -> dict[str, str]:
    """Returns with what a run is made: Python and the packages that may change a result."""
    packages = ("vqpipe", "ray", "torch", "pyarrow", "pillow", "numpy")
    found = {package: version(package) for package in packages}
    return {"python": platform.python_version(), **found}


def check_kept(run: Run, kept: pa.Schema) -> None:
    """Checks that kept columns have the types that they had when the run began.

    Raises:
        MismatchError: If one has not; names them.
    """
    began, found = run.facts["kept"], facts_of_kept(kept)["kept"]
    if began != found:
        said = (f"{name}: {began.get(name)} then, {found[name]} now" for name in found)
        raise MismatchError(
            "columns to keep have other types than when the run began, so that its files would "
            f"not go together: {'; '.join(said)}. Use another --sink"
        )
