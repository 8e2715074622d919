"""Verbs for what is stored: list, stat, read, publish, replace, delete. The only door to it.

verbs     what the rest of the program asks for, by URI
stores    what a kind of store can do, and which one a URI is in: `local`, `s3`, `gcs`, `azure`
uris      what a URI is, which store it is in, what is hidden
retries   asks again; `refusals` says what failed
disk      makes files in one step; `tree` walks folders, `imprints` tell files apart
content   what is stored: bytes, or a file's; `pinned` reads one version of an object
ahead     many requests at a time; meter  what was asked for so far
"""

from vqpipe.storage.content import FileContent
from vqpipe.storage.listing import list_files, list_source
from vqpipe.storage.meter import Usage, used
from vqpipe.storage.reader import open_file
from vqpipe.storage.stores import forget
from vqpipe.storage.uris import join_uri, normalise_uri
from vqpipe.storage.verbs import (
    creates_once,
    delete,
    hurry,
    imprint,
    is_on_disk,
    may_exist,
    publish,
    read,
    read_tail,
    replace,
    replace_if,
    stat,
    sweep,
)

__all__ = [
    "FileContent",
    "Usage",
    "creates_once",
    "delete",
    "forget",
    "hurry",
    "imprint",
    "is_on_disk",
    "join_uri",
    "list_files",
    "list_source",
    "may_exist",
    "normalise_uri",
    "open_file",
    "publish",
    "read",
    "read_tail",
    "replace",
    "replace_if",
    "stat",
    "sweep",
    "used",
]
