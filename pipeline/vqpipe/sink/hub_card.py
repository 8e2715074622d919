"""The README.md of a data set on the Hugging Face hub that is made of a sink.

It is the sink's own card (`sink.card`) with what the hub asks for in its front matter, and with
how to read the rows from there. What somebody has written on the hub stays: text around our part,
fields of the front matter, and a card without our part but for what its front matter lacks.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import yaml

from vqpipe.code_layout import CodeLayout
from vqpipe.errors import ConfigError
from vqpipe.sink.card import (
    BEGIN,
    CONFIG_NAME,
    DEFAULT,
    END,
    FRONT,
    LICENCE,
    blank_card,
    cell,
    describe,
)
from vqpipe.sink.run import Sink
from vqpipe.sink.sums import Totals

_FRONT = re.compile(r"\A---\n(.*?)^---\s*?$\n?", re.DOTALL | re.MULTILINE)
_NAMES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
_SIZES = {10**power: name for power, name in enumerate(_NAMES, 3)}
"""Numbers of rows between which the hub tells data sets apart
(https://github.com/huggingface/hub-docs/blob/main/datasetcard.md)."""
_MEANINGS = {
    "key": "name of the image in its data set",
    "row": "place of the image in its shard",
    "view": "which view of the image",
    "codes": "entries of the codebook",
    "grid_h": "rows of codes",
    "grid_w": "columns of codes",
    "width": "pixels of the image",
    "height": "pixels of the image",
    "crop": "left, top, right, bottom of what was encoded, in pixels of the image",
    "flip": "whether it was mirrored",
}
_READ = """## Columns

| column | type | |
|---|---|---|
{columns}

## How to read it

```python
import datasets

rows = datasets.load_dataset({arguments}, split="train")
{take}
```

`streaming=True` reads rows as they are asked for; a process takes at least one file. With DuckDB:

```sql
FROM 'hf://datasets/{place}/data/**/*.parquet' LIMIT 5;
```

## How it was made, and back to pixels

With `vqpipe encode`: `run.json` has every choice that it depends on, `rejected/` and `left_out/`
name the images without codes, and each Parquet file has a histogram of its codes in its footer.
This turns codes into images; the model is found where `run.json` says, or is named by `--model`:

```bash
hf download {name} --repo-type dataset {revision}--local-dir codes/
vqpipe inspect codes/
vqpipe decode --source codes/ --sink images/
```
"""


@dataclass(frozen=True)
class HubPlace:
    """Where a data set is on the hub."""

    name: str
    """`org/name`."""
    branch: str = "main"

    @property
    def is_main(self) -> bool:
        """Whether it is what who names no branch gets."""
        return self.branch == "main"

    @property
    def load_line(self) -> str:
        """Python that loads it."""
        return f'datasets.load_dataset({self.arguments}, split="train")'

    @property
    def arguments(self) -> str:
        """Of `datasets.load_dataset`."""
        return f'"{self.name}"' + ("" if self.is_main else f', revision="{self.branch}"')


@dataclass(frozen=True)
class Rows:
    """What the rows of `data/` are."""

    columns: pa.Schema
    codes: CodeLayout
    kept: Collection[str]
    """Names of the columns that are the source's."""


@dataclass(frozen=True)
class Cards:
    """What cards there are before."""

    ours: bytes | None
    """In the sink."""
    theirs: bytes | None
    """On the hub."""


def write_hub_card(sink: Sink, totals: Totals, rows: Rows, place: HubPlace, cards: Cards) -> bytes:
    """Returns the card.

    Args:
        sink: Where the run is.
        totals: What was added up.
        rows: What they are.
        place: Where the card goes.
        cards: What there is before.

    Raises:
        ConfigError: If a card there cannot be read; says whose.
    """
    ours = _decode(cards.ours or blank_card(), "the sink")
    theirs = _decode(cards.theirs or b"", f"{place.name} on the hub")
    fronts = [_front(ours, "the sink"), _front(theirs, f"{place.name} on the hub")]
    is_theirs = bool(_FRONT.sub("", theirs).strip())
    body = _FRONT.sub("", theirs if is_theirs else ours)
    head, begin, rest = body.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if begin and end:
        reading = _reading(rows, place)
        body = f"{head}{begin}\n{describe(sink, totals, reading)}\n{end}{tail}"
    front = _merge(fronts, totals.rows)
    said = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    return f"---\n{said}---\n{body}".encode()


def set_licence(card: bytes, licence: str) -> bytes:
    """Returns a card with a licence, in its front matter and where it asks for one."""
    text = card.decode()
    front = _front(text, "the sink") | {"license": licence}
    said = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    body = _FRONT.sub("", text).replace(LICENCE, f"## Licence\n\n{licence}\n")
    return f"---\n{said}---\n{body}".encode()


def has_licence(card: bytes) -> bool:
    """Tells whether a card names a licence in its front matter."""
    return bool(_front(card.decode(), "the sink").get("license"))


def _merge(fronts: list[dict[str, Any]], rows: int) -> dict[str, Any]:
    """Returns the front matter: what people wrote, and what it lacks."""
    ours, theirs = fronts
    tags = [*FRONT["tags"], "image-tokens", *_tags(ours), *_tags(theirs)]
    own = {"tags": list(dict.fromkeys(tags)), "size_categories": [_size_category(rows)]}
    front = {**FRONT, **ours, **theirs, **own}
    configs = front["configs"]
    return {**front, "configs": [*map(_renamed, configs)] if isinstance(configs, list) else configs}


def _renamed(config: Any) -> Any:  # noqa: ANN401 (whatever somebody wrote)
    """Returns a configuration by its plain name: what is cached of the hub goes by commits."""
    if not isinstance(config, dict) or not CONFIG_NAME.fullmatch(str(config.get("config_name"))):
        return config
    return {**config, "config_name": DEFAULT}


def _tags(front: dict[str, Any]) -> list[str]:
    said = front.get("tags") or []
    return said if isinstance(said, list) else [str(said)]


def _size_category(rows: int) -> str:
    least = None
    for bound, name in _SIZES.items():
        if rows < bound:
            return f"{least}<n<{name}" if least else f"n<{name}"
        least = name
    return f"n>{least}"


def _decode(card: bytes, whose: str) -> str:
    try:
        return card.decode().replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise ConfigError(f"README.md of {whose} is no text in UTF-8: mend or remove it") from None


def _front(card: str, whose: str) -> dict[str, Any]:
    found = _FRONT.match(card)
    try:
        said = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        said = "no YAML"
    if not isinstance(said or {}, dict):
        raise ConfigError(
            f"README.md of {whose} begins with what is no YAML mapping: mend what stands between "
            "its first two lines ---"
        )
    return said or {}


def _reading(rows: Rows, place: HubPlace) -> str:
    columns, codes = rows.columns, rows.codes
    lines = [f"| {' | '.join(_describe_column(each, rows.kept))} |" for each in columns]
    shape = "" if codes.differs else f".reshape{codes.shape}".replace(",)", ")")
    grid = 'rows[0]["grid_h"], rows[0]["grid_w"]'
    taken = 'rows.with_format("numpy")[0]["codes"]'
    shape = f".reshape({grid})" if codes.differs and len(codes.shapes[0]) == 2 else shape
    return _READ.format(
        columns="\n".join(lines),
        arguments=place.arguments,
        take=f"codes = {taken}{shape}" if "codes" in columns.names else "rows[0]",
        place=place.name if place.is_main else f"{place.name}@{place.branch}",
        name=place.name,
        revision="" if place.is_main else f"--revision {place.branch} ",
    )


def _describe_column(field: pa.Field, kept: Collection[str]) -> list[str]:
    own = _MEANINGS.get(field.name, "see above")
    meaning = "kept from the source" if field.name in kept else own
    return [cell(field.name), cell(_describe_type(field.type)), meaning]


def _describe_type(kind: pa.DataType) -> str:
    """Returns an Arrow type in words."""
    if pa.types.is_fixed_size_list(kind):
        return f"list of {kind.list_size:,} {_describe_type(kind.value_type)}"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list of {_describe_type(kind.value_type)}"
    return str(kind)
