"""What things are called on the Hugging Face hub; nothing here asks it or imports what is heavy."""

import re
from typing import NamedTuple

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FILE = re.compile(r"hf://(?P<repository>[^/@]+/[^/@]+)(?:@(?P<revision>[^/@:]+))?/(?P<name>.+)")


_DATA_SET = re.compile(
    r"hf://(?:datasets/)?(?P<repository>[^/@]+/[^/@]+)(?:@(?P<branch>[^@:\s]+))?"
)


class HubFile(NamedTuple):
    """One file of a repository."""

    repository: str
    """`org/name`."""
    revision: str | None
    """Branch, tag or commit; None for the main branch."""
    name: str
    """Path of the file in it."""


def is_repository(name: str) -> bool:
    """Whether a name has the form `org/name`."""
    return _REPOSITORY.fullmatch(name) is not None


def parse_hub_file(where: str) -> HubFile | None:
    """Returns what `hf://org/name[@revision]/file` names; None of anything else.

    Credentials in it make it something else.
    """
    parts = _FILE.fullmatch(where)
    if parts is None or not is_repository(parts["repository"]):
        return None
    return HubFile(parts["repository"], parts["revision"], parts["name"])


def parse_data_set(where: str) -> tuple[str, str | None] | None:
    """Returns what `hf://org/name[@branch]` names, and its branch; None of anything else.

    Credentials in it make it something else.
    """
    parts = _DATA_SET.fullmatch(where.rstrip("/"))
    if parts is None or not is_repository(parts["repository"]):
        return None
    return parts["repository"], parts["branch"]
