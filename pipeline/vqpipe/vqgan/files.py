"""The files of a checkpoint in diffusers' layout: their names, variants and shards."""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from vqpipe.errors import CheckpointError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
PICKLE_FILE = "diffusion_pytorch_model.bin"
"""Weights of older repositories; read only where there are no safetensors."""
STEM = "diffusion_pytorch_model"
"""What the name of every weights file, shard and index starts with."""
KINDS = ("safetensors", "bin")
"""How weights are stored, in the order of preference."""


def name_weights(kind: str, variant: str | None = None, stem: str = STEM) -> tuple[str, ...]:
    """Return the names that weights can have, the first that is there to be read: index, then file.

    A variant's index was named in three ways: as diffusers 0.42 does (`_add_variant`), as it did
    before (`_fetch_index_file_legacy`), and after the pattern of the file itself.

    Args:
        kind: One of `KINDS`.
        variant: Such as fp16.
        stem: What they start with: diffusers' `STEM`, or what other libraries have there.
    """
    if variant is None:
        return (f"{stem}.{kind}.index.json", f"{stem}.{kind}")
    return (
        f"{stem}.{kind}.index.{variant}.json",
        f"{stem}.{kind}.{variant}.index.json",
        f"{stem}.{variant}.{kind}.index.json",
        f"{stem}.{variant}.{kind}",
    )


def choose_weights(names: Collection[str], variant: str | None, where: str) -> str:
    """Return which of a folder's files the weights, or the index of their shards, are in.

    Raises:
        CheckpointError: None of them is there.
    """
    for kind in KINDS:
        for name in name_weights(kind, variant):
            if name in names:
                return name
    expected = name_weights(KINDS[0], variant)[-1]
    there = sorted(name for name in names if name.startswith(STEM) or name == CONFIG_FILE)
    advice = "give a folder in diffusers' layout" if variant is None else "give another --variant"
    raise CheckpointError(
        f"{where}/{expected} is missing (there: {', '.join(there) or 'no weights'}); {advice}"
    )


def read_files(
    read: Callable[[str], bytes], names: Collection[str], variant: str | None, where: str
) -> dict[str, bytes]:
    """Return a checkpoint's config and weights, and the shards of an index; nothing else is read.

    Args:
        read: Takes a file's name and returns its contents.
        names: What the folder holds.
        variant: Which weights, such as fp16; None for the plain ones.
        where: What to call the folder in errors.

    Raises:
        CheckpointError: There are no such weights, or the index is damaged.
    """
    name = choose_weights(names, variant, where)
    wanted = [CONFIG_FILE, name]
    files = {wanted_name: read(wanted_name) for wanted_name in wanted if wanted_name in names}
    if is_index(name):
        shards = set(parse_index(files[name], f"{where}/{name}").values())
        files |= {shard: read(shard) for shard in sorted(shards & set(names))}
    return files


def read_folder(folder: Path, variant: str | None = None) -> dict[str, bytes]:
    """Return the files of a checkpoint in a local folder, by name.

    Raises:
        CheckpointError: There are no such weights, or the index is damaged.
    """
    names = [path.name for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    take_file(dict.fromkeys(names, b""), CONFIG_FILE, str(folder))
    return read_files(lambda name: (folder / name).read_bytes(), names, variant, str(folder))


def take_file(files: Mapping[str, bytes], name: str, where: str) -> bytes:
    """Return one file's contents.

    Raises:
        CheckpointError: It is missing; the message says which files are there.
    """
    if name not in files:
        there = ", ".join(sorted(files)) or "none of the expected files"
        raise CheckpointError(
            f"{where}/{name} is missing (there: {there}); give a folder in diffusers' layout"
        )
    return files[name]


def is_index(name: str) -> bool:
    """Whether a weights file is the index of shards."""
    return name.endswith(".json")


def parse_index(data: bytes, source: str) -> dict[str, str]:
    """Return the shard that holds each tensor, by the tensor's name.

    A shard is a plain file name of the index's own kind: an index must not lead out of its folder,
    nor from safetensors to a pickle.

    Raises:
        CheckpointError: The index is no JSON object, has no map, or names something else.
    """
    shards = parse_json_object(data, source).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(f"{source} has no weight_map; get the file anew")
    kind = next(kind for kind in KINDS if f".{kind}" in source.rpartition("/")[2])
    for tensor, shard in shards.items():
        is_plain = isinstance(shard, str) and not set(shard) & set("/\\") and ".." not in shard
        if not is_plain or not shard.endswith(f".{kind}"):
            raise CheckpointError(
                f"{source}: the weight_map puts {tensor} into {shard!r}, which is no .{kind} file "
                "of the same folder; get the index anew"
            )
    return shards


def parse_json_object(data: bytes, source: str) -> dict[str, Any]:
    """Return the JSON object in the bytes.

    Raises:
        CheckpointError: There is none.
    """
    try:
        values = json.loads(data)
    except ValueError as error:
        raise CheckpointError(f"{source} is not JSON ({error}); get the file anew") from error
    if not isinstance(values, dict):
        raise CheckpointError(
            f"{source} is a JSON {type(values).__name__}, not an object; get the file anew"
        )
    return values
