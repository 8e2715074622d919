"""The README.md of a sink: what is in it and how to read it, for people and for `datasets`.

`datasets.load_dataset` takes every Parquet file that it finds for rows, and guesses splits from
names; the front matter says which ones to take. It keeps what it has read under the name of the
folder and of the configuration, whatever is in the files: of two folders `codes`, the second one
would have the rows of the first (seen in datasets 5.2). So the configuration is named after what
the sink holds. What stands between two marks is written anew at
the end of each command; all else is the owner's, who knows the licence.
"""

import hashlib
import re
from typing import Any

import yaml

from vqpipe import storage
from vqpipe.sink.run import CodesRun, CompactRun, DecodeRun, Run, Sink
from vqpipe.sink.sums import Totals

BEGIN, END = "<!-- vqpipe writes this part anew -->", "<!-- from here on it is yours -->"
FRONT: dict[str, Any] = {
    "configs": [
        {
            "config_name": "default",
            "data_files": [{"split": "train", "path": "data/**/*.parquet"}],
        },
    ],
    "tags": ["vqpipe"],
}
DEFAULT = "default"
CONFIG_NAME = re.compile(rf"{DEFAULT}|rows-[0-9a-f]{{12}}")
"""Of a configuration of ours; one of another name is the owner's."""
_NAMED = re.compile(rf"^(- config_name: )(?:{CONFIG_NAME.pattern})$".encode(), re.MULTILINE)
LICENCE = """## Licence

That of the images and of the model, which what wrote this cannot know: say it here, and as
`license:` at the top.
"""
_READ = """Below `data/` are the rows, in Parquet, one file a shard; nothing else here is rows.

```python
import datasets

rows = datasets.load_dataset("path/of/this/folder", split="train")
```

```python
import pyarrow.dataset

table = pyarrow.dataset.dataset("path/of/this/folder/data").to_table()
```

```sql
FROM 'path/of/this/folder/data/**/*.parquet' LIMIT 5; -- DuckDB
```
"""
_CODES = "`codes` holds entries of the codebook, {order}"
_VECTORS = "`{name}` holds {meaning}: {numbers} of an image, {axes}, row-major"
_BITS = (
    ", as bits of bfloat16, of which numpy makes float32 with "
    "`(x.astype('uint32') << 16).view('float32')`"
)
_GRIDS = "; `grid_h` and `grid_w` are the rows and columns of it"
_SHARDS = """;
`{column}` is the shard that a row was encoded in, and `row` its place there"""
_SIZES = """; `width` and `height` are
those of the image, and `crop` is what of it was encoded, in its pixels; `flip` says whether it was
mirrored.

"""


def write_card(sink: Sink, totals: Totals) -> None:
    """Writes `README.md`, or our part of it; one without our marks is somebody's own and is left.

    Args:
        sink: Where the run is.
        totals: What was added up.
    """
    uri = storage.join_uri(sink.uri, "README.md")
    try:
        before = storage.read(uri)
    except FileNotFoundError:
        before = blank_card()
    head, begin, rest = before.partition(BEGIN.encode())
    _, end, tail = rest.partition(END.encode())
    head = _NAMED.sub(rb"\g<1>" + _name_of(sink, totals).encode(), head, count=1)
    ours = f"\n{describe(sink, totals, _READ)}\n".encode()
    card = head + begin + ours + end + tail
    if begin and end and card != before:
        storage.replace(uri, card)


def _name_of(sink: Sink, totals: Totals) -> str:
    """Returns what a configuration is called: another name wherever rows are others."""
    said = f"{sink.run.fingerprint} {totals.objects:064x}".encode()
    return f"rows-{hashlib.sha256(said).hexdigest()[:12]}"


def blank_card() -> bytes:
    """Returns a card that has nothing in our part."""
    front = yaml.safe_dump(FRONT, sort_keys=False)
    return f"---\n{front}---\n\n{BEGIN}\n{END}\n\n{LICENCE}".encode()


def describe(sink: Sink, totals: Totals, reading: str) -> str:
    """Returns our part of a card.

    Args:
        sink: Where the run is.
        totals: What was added up.
        reading: What it says of how to read the rows, behind what it says of the run.
    """
    run, shards = sink.run, f"{totals.shards:,} of {len(sink.plan):,}"
    facts = _facts(run, totals) | {"shards": shards}
    lines = [f"| {name} | {cell(said)} |" for name, said in facts.items() if said is not None]
    table = "\n".join(["| | |", "|---|---|", *lines])
    rows = _describe_rows(run) if isinstance(run, CodesRun) else ""
    return f"# {run.entry.title}\n\n{table}\n\n{rows}{reading}"


def _describe_rows(run: CodesRun) -> str:
    """Returns what columns hold."""
    said = [] if run.identity.drop_codes else [_CODES.format(order=run.facts.codes.order)]
    for each in run.facts.vectors:
        numbers = " x ".join(map(str, each.shape))
        known = {"name": each.name, "meaning": each.meaning, "numbers": numbers, "axes": each.axes}
        said.append(_VECTORS.format(**known) + (_BITS if each.dtype == "bfloat16" else ""))
    grids = _GRIDS if run.facts.codes.differs else ""
    column = run.facts.shard_column if isinstance(run, CompactRun) else None
    shards = _SHARDS.format(column=column) if column else ""
    return ";\n".join(said) + grids + shards + _SIZES


def _facts(run: Run, totals: Totals) -> dict[str, Any]:
    """Returns what a reader of a run may ask first; None where it does not apply."""
    return {
        totals.made: f"{totals.good:,}",
        "rejected": f"{totals.rejected:,}, which `rejected/` names" if totals.rejected else "0",
        "left out": f"{totals.left_out:,}, which `left_out/` names" if totals.left_out else None,
        "model": run.facts.model if isinstance(run, CodesRun | DecodeRun) else None,
        "model, SHA-256": run.identity.model_sha256,
        **(_facts_of_codes(run, totals) if isinstance(run, CodesRun) else {}),
        "made from": run.identity.source,
        "run": run.fingerprint,
    }


def _facts_of_codes(run: CodesRun, totals: Totals) -> dict[str, object]:
    codes = run.facts.codes
    left_out = "; left out" if run.identity.drop_codes else ""
    used = f", {totals.codebook_usage:.1%} of them used" if len(totals.histogram) else ""
    return {
        **(_facts_of_files(run) if isinstance(run, CompactRun) else {}),
        "taken": _describe_choice(run),
        "pixels": f"{run.encoding.sizing}, {run.encoding.resizing}",
        "views of an image": _views(run),
        f"codes of {run.facts.unit}": f"{codes.count}, {codes.describe()}{left_out}",
        "codebook": f"{codes.codebook_size:,} entries{used}",
    }


def _facts_of_files(run: CompactRun) -> dict[str, object]:
    """Returns how rows are put into files, and what of their source is not among them."""
    said, seed = run.facts.source_totals, run.identity.shuffle
    aside = {"rejected": said["rejected"], "left out": said.get("left_out", 0)}
    parts = ", ".join(f"{count:,} {what}" for what, count in aside.items() if count)
    return {
        "rows of a file": f"{run.identity.rows_per_file:,}, the last one's are fewer",
        "order": "of the source" if seed is None else f"shuffled over all files, seed {seed}",
        "not taken": f"{parts} in the source" if parts else None,
        "images": run.encoding.source,
    }


def _views(run: CodesRun) -> str | None:
    said = run.encoding.viewing
    return None if said == "center" else f"{run.facts.views:,}: {said}"


def _describe_choice(run: CodesRun) -> str | None:
    """Returns which samples of the source were taken; None if all were."""
    said = run.encoding
    parts = [
        *([f"the first {said.limit:,} samples"] if said.limit else []),
        *([f"the first {said.limit_shards:,} shards"] if said.limit_shards else []),
        *([f"where {said.where}"] if said.where else []),
    ]
    return ", ".join(parts) or None


def cell(said: object) -> str:
    """Returns text that stays in its cell of a table, whatever it holds."""
    letters = (each if each.isprintable() else f"\\u{ord(each):04x}" for each in str(said))
    return "".join(letters).replace("|", "\\|").replace("<", "&lt;")
