"""Where a checkpoint is, and which of the files there are its weights and its config.

    folder      on any store: diffusers' layout, transformers' (`model.safetensors`,
                `pytorch_model.bin`), or a `model.ckpt` with its YAML
    one file    with weights, on any store; the config beside it, in `../configs/` as taming has it,
                or named
    org/name    a repository of the Hugging Face hub, as a folder
    hf://org/name[@revision]/file  one file of such a repository

What they hold is `codec.weights`' business.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from vqpipe import storage
from vqpipe.codec import hub
from vqpipe.errors import CheckpointError, ConfigError
from vqpipe.hub.names import HubFile, is_repository, parse_hub_file
from vqpipe.vqgan.files import CONFIG_FILE, STEM, WEIGHTS_FILE, choose_weights
from vqpipe.vqgan.tensors import TRAINED

WEIGHTS_ENDINGS = (*TRAINED, ".safetensors", ".bin")
"""What the name of a single file with weights ends with."""
INDEX_ENDING = ".index.json"
"""What the name ends with of a file that says which shard holds what."""
YAML_ENDINGS = (".yaml", ".yml")
"""What the name of CompVis' configs ends with."""


@dataclass(frozen=True)
class Found:
    """The files of a checkpoint."""

    folder: str
    """URI of where they lie."""
    weights: str
    """Name of the file with weights there, or of the index of its shards."""
    where: str
    """What to call the checkpoint."""
    configs: tuple[str, ...]
    """URIs of what may be the config: one, or it does not show which."""
    is_folder: bool
    """Whether a folder was given, and not one file."""
    commit: str | None = None
    """Commit of a repository on the hub."""

    @property
    def config(self) -> str | None:
        """URI of the config."""
        return self.configs[0] if len(self.configs) == 1 else None

    @property
    def is_of_diffusers(self) -> bool:
        """Whether it is in diffusers' layout."""
        return self.weights.startswith(STEM)


def find(
    model: str,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    variant: str | None = None,
    config: str | None = None,
) -> Found:
    """Returns the files of a checkpoint, wherever it is; of the hub they are fetched.

    Args:
        model: See the module.
        subfolder: Folder inside it.
        revision: Branch, tag or commit of a repository.
        variant: Which weights of a folder in diffusers' layout, as in fp16.
        config: URI of the config of a single file.

    Raises:
        CheckpointError: There is no checkpoint.
        ConfigError: An option does not go with such a model.
    """
    file = parse_hub_file(model)
    if file:
        _refuse_options("one file of a repository", subfolder=subfolder, variant=variant)
        return _find_on_hub(file, model, revision, config)
    if _is_repository(model):
        _refuse_options("a Hugging Face repository", model_config=config)
        folder, commit = hub.fetch(model, subfolder, revision, variant)
        where = storage.join_uri(model, *_parts(subfolder))
        return replace(_find_in_folder(str(folder), where, variant), commit=commit)
    _refuse_half_names(model)
    where = storage.normalise_uri(storage.join_uri(model, *_parts(subfolder)))
    if _is_weights(where) and not list_names(where):  # a folder may end so too
        _refuse_options("a single file", revision=revision, variant=variant)
        return _find_single(where, where, config)
    _refuse_options("a folder", revision=revision, model_config=config)
    return _find_in_folder(where, where, variant)


def _is_weights(name: str) -> bool:
    """Whether a name is that of one file: with weights, or the index of what has them."""
    return name.endswith((*WEIGHTS_ENDINGS, INDEX_ENDING))


def _refuse_half_names(model: str) -> None:
    """Refuses what is of the hub and no name of a file or of a repository there.

    Raises:
        ConfigError: It is.
    """
    if model.startswith(("hf://", "https://huggingface.co/")):
        raise ConfigError(
            f"--model {model} names nothing on the Hugging Face hub: give a repository as "
            "org/name, or one file of it as hf://org/name/file or hf://org/name@revision/file"
        )


def list_names(folder: str) -> list[str]:
    """Returns the names of the files of a folder."""
    files = storage.list_files(folder, recursive=False)
    return [file.uri.rpartition("/")[2] for file in files]


def _parts(subfolder: str | None) -> list[str]:
    return [subfolder.strip("/")] if subfolder else []


def _is_repository(model: str) -> bool:
    """Whether a model is named as on the hub, and not a path of this machine."""
    if not is_repository(model) or _is_weights(model):
        return False
    return not Path(model).exists()


def _refuse_options(model: str, **options: str | None) -> None:
    """Refuses options that would do nothing, which is never what was meant.

    Raises:
        ConfigError: If one is given.
    """
    for name, value in options.items():
        if value is not None:
            option = name.replace("_", "-")
            raise ConfigError(
                f"--{option} {value} does not go with {model} as --model; leave it out"
            )


def _find_on_hub(file: HubFile, where: str, revision: str | None, config: str | None) -> Found:
    """Returns one file of a repository, fetched with the configs beside it."""
    if file.revision is not None:
        _refuse_options("a file of a revision", revision=revision)
    if file.name.endswith(INDEX_ENDING):
        raise ConfigError(
            f"--model {where} is the index of a checkpoint in shards: give its repository, "
            f"{file.repository}, and its folder there, if it is in one, with --subfolder"
        )
    asked = file._replace(revision=file.revision or revision)
    path, commit = hub.fetch_file(asked, (CONFIG_FILE, *(f"*{each}" for each in YAML_ENDINGS)))
    return replace(_find_single(str(path), where, config), commit=commit)


def _find_in_folder(folder: str, where: str, variant: str | None) -> Found:
    """Returns the files of a folder.

    Raises:
        CheckpointError: It holds none.
        ConfigError: The weights of another layout have no variants.
    """
    names = list_names(folder)
    other = next((name for name in hub.OTHERS if name in names), None)
    if any(name.startswith(STEM) for name in names):
        weights = choose_weights(names, variant, where)
    elif other:
        _refuse_options(f"weights that are called {other}", variant=variant)
        weights = other
    else:
        raise CheckpointError(_describe_stranger(where, names))
    json, yamls = [name for name in names if name == CONFIG_FILE], _yamls(names)
    configs = (yamls or json) if weights.endswith(TRAINED) else (json or yamls)
    uris = tuple(storage.join_uri(folder, name) for name in configs)
    return Found(folder, weights, where, uris, is_folder=True)


def _yamls(names: list[str]) -> list[str]:
    return [name for name in names if name.endswith(YAML_ENDINGS)]


def _describe_stranger(where: str, names: list[str]) -> str:
    """Returns what to say of a folder without weights in a layout that is known."""
    single = [name for name in names if name.endswith(WEIGHTS_ENDINGS)]
    if any("-of-" in name for name in single):
        return (
            f"{where} holds shards of a checkpoint ({', '.join(single)}), and no index, whose name "
            "ends with .index.json and which says what is in which: get it, too"
        )
    if single:
        return (
            f"{where} has no {WEIGHTS_FILE}, as diffusers names it, but holds "
            f"{', '.join(single)}; give that file as --model"
        )
    if not names and not _is_local_folder(where):
        return (
            f"{where} does not exist; correct --model: a path, a URL, or org/name on the Hugging "
            "Face hub"
        )
    return (
        f"{where} holds no model: expected {CONFIG_FILE} and {WEIGHTS_FILE}, as diffusers saves a "
        "VQModel, or the files of another tokenizer; give the folder that holds them (in a "
        "pipeline: add --subfolder vqvae)"
    )


def _is_local_folder(where: str) -> bool:
    return "://" not in where and Path(where).is_dir()


def _find_single(uri: str, where: str, config: str | None) -> Found:
    """Returns a file with weights and its config: the one that is named, or what is beside it."""
    folder, _, name = uri.rpartition("/")
    try:
        storage.stat(uri)
    except FileNotFoundError:
        raise CheckpointError(f"{uri} does not exist; correct --model") from None
    if config is not None:
        on_hub = parse_hub_file(config)
        found = str(hub.fetch_file(on_hub)[0]) if on_hub else storage.normalise_uri(config)
        return Found(folder, name, where, (found,), is_folder=False)
    places = [folder]
    if uri.endswith(TRAINED):
        places.append(storage.join_uri(folder.rpartition("/")[0], "configs"))
    configs: list[str] = []
    for place in places:
        names = [each for each in list_names(place) if _is_config(each)]
        configs += [storage.join_uri(place, each) for each in names]
        if len(configs) == 1:
            break
    return Found(folder, name, where, tuple(configs), is_folder=False)


def _is_config(name: str) -> bool:
    return name == CONFIG_FILE or name.endswith(YAML_ENDINGS)
