"""The card of a data set on the hub: what the hub reads of it, and what its owner wrote."""

from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from tests.sink import sinks
from tests.sink.test_card import encoded
from vqpipe.code_layout import CodeLayout
from vqpipe.errors import ConfigError
from vqpipe.sink.hub_card import Cards, HubPlace, Rows, has_licence, set_licence, write_hub_card
from vqpipe.sink.parts import data_types
from vqpipe.sink.snapshot import take_snapshot
from vqpipe.sink.totals import read_totals

MAIN, BRANCH = HubPlace("org/codes"), HubPlace("org/codes", "small")


def write(writer, ours=None, theirs=None, place=MAIN, rows=None):
    totals = read_totals(writer.sink)
    totals.rows = totals.rows if rows is None else rows
    columns = data_types(take_snapshot(writer.sink.uri, allow_incomplete=True))
    facts = writer.sink.run.facts
    of_rows = Rows(columns, facts.codes, facts.kept)
    return write_hub_card(writer.sink, totals, of_rows, place, Cards(ours, theirs))


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    return encoded(tmp_path_factory.mktemp("card") / "codes")


def front_of(card):
    return yaml.safe_load(card.decode().split("---\n")[1])


def test_card_names_rows_and_only_rows_and_how_to_load_them(writer):
    card = write(writer)
    front = front_of(card)
    (config,) = front["configs"]
    assert config["data_files"] == [{"split": "train", "path": "data/**/*.parquet"}]
    assert front["size_categories"] == ["n<1K"]
    assert "vqpipe" in front["tags"]
    text = card.decode()
    assert '\nrows = datasets.load_dataset("org/codes", split="train")\n' in text
    assert '[0]["codes"].reshape(2, 3)\n' in text
    assert "| codes | list of 6 uint8 | entries of the codebook |" in text
    assert "| caption | string | kept from the source |" in text
    assert "hf download org/codes --repo-type dataset --local-dir codes/" in text
    assert writer.sink.run.fingerprint in text
    assert "path/of/this" not in text


def test_card_of_a_branch_loads_that_branch(writer):
    text = write(writer, place=BRANCH).decode()
    assert 'load_dataset("org/codes", revision="small", split="train")' in text
    assert "'hf://datasets/org/codes@small/data/**/*.parquet'" in text
    assert "--revision small --local-dir" in text


# https://github.com/huggingface/hub-docs/blob/main/datasetcard.md: size_categories
SIZES = [
    (999, "n<1K"),
    (1_000, "1K<n<10K"),
    (99_999, "10K<n<100K"),
    (1_281_167, "1M<n<10M"),
    (10**9, "1B<n<10B"),
    (10**12, "n>1T"),
]


@pytest.mark.parametrize(("rows", "category"), SIZES)
def test_card_has_the_size_category_of_its_rows(rows, category, writer):
    assert front_of(write(writer, rows=rows))["size_categories"] == [category]


def test_card_keeps_text_of_the_sink_and_of_the_hub(writer):
    mine = (Path(writer.sink.uri) / "README.md").read_bytes()
    ours = mine.replace(b"tags:", b"license: mit\ntags:\n- birds") + b"From here.\n"
    first = write(writer, ours)
    assert first.endswith(b"From here.\n")
    assert front_of(first)["license"] == "mit"
    theirs = first.replace(b"license: mit", b"license: cc0-1.0\npretty_name: Birds")
    theirs += b"From there.\n"
    again = write(writer, ours, theirs)
    assert again.endswith(b"From here.\nFrom there.\n")
    front = front_of(again)
    assert (front["license"], front["pretty_name"]) == ("cc0-1.0", "Birds")
    assert {"birds", "vqpipe"} <= set(front["tags"])
    assert again.count(b"## How to read it") == 1
    assert write(writer, ours, again) == again


def test_card_that_somebody_wrote_is_left_but_for_what_names_the_rows(writer):
    theirs = b"---\nlicense: mit\n---\n# Birds\n\nMine.\n"
    card = write(writer, theirs=theirs)
    assert card.partition(b"---\n# Birds")[2] == b"\n\nMine.\n"
    assert front_of(card)["license"] == "mit"
    assert front_of(card)["configs"]


@pytest.mark.parametrize("theirs", [b"---\nlicense: mit\n---\n", b"---\n---\n", b""])
def test_card_of_which_the_hub_has_only_front_matter_gets_a_text(theirs, writer):
    card = write(writer, theirs=theirs)
    assert b"## How to read it" in card
    assert front_of(card).get("license") == ("mit" if b"mit" in theirs else None)


@pytest.mark.parametrize("theirs", [b"\xff\xfe", b"---\n- a\n- b\n---\n", b"---\na: [\n---\n"])
def test_card_that_cannot_be_read_is_refused_and_named(theirs, writer):
    with pytest.raises(ConfigError, match=r"README\.md of org/codes on the hub"):
        write(writer, theirs=theirs)


def test_set_licence_stands_at_the_top_and_where_the_card_asks_for_it(writer):
    card = write(writer)
    assert not has_licence(card)
    licensed = set_licence(card, "cc-by-4.0")
    assert has_licence(licensed)
    assert front_of(licensed)["license"] == "cc-by-4.0"
    assert licensed.endswith(b"## Licence\n\ncc-by-4.0\n")
    assert b"cannot know" not in licensed


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (CodeLayout("sequence", ((6,),), (16,)), '["codes"].reshape(6)'),
        (CodeLayout("stacked", ((1, 2, 3),), (16,)), '["codes"].reshape(1, 2, 3)'),
        (CodeLayout("scales", ((1, 1), (1, 5)), (16,)), '["codes"].reshape(6)'),
    ],
)
def test_card_says_the_shape_of_codes_of_any_layout(layout, said, tmp_path):
    writer = sinks.begin(tmp_path, ("a",), facts={"layout": layout.document()})
    sinks.commit(writer, 0, 2)
    assert said in write(writer).decode()


def test_card_of_columns_with_marks_stays_a_table(tmp_path):
    kept = pa.schema([("a|b\n<i>", pa.list_(pa.float16()))])
    writer = sinks.begin(tmp_path, ("a",), kept=kept)
    sinks.commit(writer, 0, 2)
    text = write(writer).decode()
    assert "| a\\|b\\u000a&lt;i> | list of halffloat | kept from the source |" in text
