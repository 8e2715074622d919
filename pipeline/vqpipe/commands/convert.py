"""Write any checkpoint that vqpipe reads in diffusers' layout."""

import shlex

from vqpipe import storage
from vqpipe.codec.weights import Weights
from vqpipe.commands.all_jobs import Convert
from vqpipe.commands.console import print_fields, stdout
from vqpipe.commands.model import describe_family, load_weights
from vqpipe.errors import ConfigError
from vqpipe.vqgan.files import CONFIG_FILE, STEM


def run(job: Convert) -> None:
    """Writes the checkpoint and prints what it is.

    Raises:
        VqpipeError: It could not be read or written.
    """
    out = storage.normalise_uri(job.out)
    weights = load_weights(job)
    _refuse_other(out, weights.files)
    for name, data in weights.files.items():
        storage.publish(storage.join_uri(out, name), data)
    _refuse_other(out, weights.files)  # nobody else wrote there meanwhile
    _print(out, weights)


def _refuse_other(out: str, files: dict[str, bytes]) -> None:
    """Refuses a folder that holds another checkpoint, or a part of one.

    Raises:
        ConfigError: It does.
    """
    for file in storage.list_files(out, recursive=False):
        name = file.uri.rpartition("/")[2]
        is_part = name == CONFIG_FILE or name.startswith(STEM)
        if is_part and (name not in files or storage.read(file.uri) != files[name]):
            raise ConfigError(
                f"{file.uri} is of another checkpoint, which is not overwritten; give an empty "
                "folder, or remove that one"
            )


def _print(out: str, weights: Weights) -> None:
    described = weights.description
    codebook = f"{described.codebook_size:,} entries of {described.latent_channels}"
    at = f", commit {weights.commit}" if weights.commit else ""
    fields: list[tuple[str, object]] = [
        ("read", f"{weights.where}{at}"),
        *describe_family(weights),
        ("parameters", f"{weights.parameters:,}"),
        ("codebook", codebook),
        ("codes", described.describe_codes()),
        ("network", described.network),
        ("dtype", ", ".join(weights.dtypes)),
        ("sha256", weights.sha256()),
        ("output", f"{out}/"),
        ("use it", _advise(out, weights)),
    ]
    print_fields(stdout(), "convert", fields)


def _advise(out: str, weights: Weights) -> str:
    """Returns a command that takes what was written."""
    side = weights.description.side_near(256)
    size = "" if side == 256 else f" --resolution {side}"
    return f"vqpipe encode --source photos/ --sink codes/ --model {shlex.quote(out)}{size}"
