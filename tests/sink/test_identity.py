"""What `run.json` says, held against documents that vqpipe wrote before it had classes for them."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sink.runs import make_run
from vqpipe.errors import MismatchError
from vqpipe.sink.growth import Growth
from vqpipe.sink.plan import Plan
from vqpipe.sink.run import STAGES, load_run, parse_run
from vqpipe.sink.start import start_run

DOCUMENTS = sorted(Path(__file__).with_name("documents").glob("*.json"))
NEEDED = {
    "encode": {
        *("source", "format", "image", "key", "key_until", "keep", "resolution", "resample"),
        *("background", "max_pixels", "dtype", "pixel_range", "eager", "model_sha256"),
        *("layout", "codebook_size", "codebook_sha256", "model", "model_options", "kept"),
        *("created", "versions"),
    },
    "decode": {
        *("source", "format", "kind", "layout", "dtype", "pixel_range", "model_sha256"),
        *("size", "model", "kept", "created", "versions"),
    },
    "evaluate": {
        *("source", "codes", "model_sha256", "picture_px", "networks", "created", "versions"),
    },
    "compact": {
        *("source", "codes", "snapshot", "rows_per_file", "shuffle", "encode", "model_sha256"),
        *("layout", "codebook_size", "codebook_sha256", "model", "model_options", "kept"),
        *("source_run", "source_totals", "source_histogram", "created", "versions"),
    },
}
"""Without which a `run.json` is refused."""

every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=[p.stem for p in DOCUMENTS])


def read(path):
    return json.loads(path.read_bytes())


def written(document):
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


def fingerprint_of(document):
    """Returns the fingerprint by its definition: SHA-256 of canonical JSON."""
    said = [document["identity"], document["plan_sha256"]]
    text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


@every_document
def test_parse_run_of_a_document_writes_the_same_bytes_and_fingerprint(path):
    run = parse_run(path.read_bytes(), "sink")
    assert run.to_json() == path.read_bytes()
    assert run.fingerprint == read(path)["fingerprint"] == fingerprint_of(read(path))


@every_document
def test_fields_stand_in_the_order_in_which_documents_have_them(path):
    """So that a run which is made, and was never read, is written in just that way."""
    run = parse_run(path.read_bytes(), "sink")
    assert (run.identity.said, run.facts.said) == ({}, {})
    made = replace(run, identity=replace(run.identity), facts=replace(run.facts))
    assert made.to_json() == path.read_bytes()


def test_documents_are_of_every_stage():
    assert {read(path)["identity"]["stage"] for path in DOCUMENTS} == STAGES.keys()


@pytest.mark.parametrize("stage", STAGES)
def test_stage_is_named_as_its_classes_are(stage):
    entry = STAGES[stage]
    run = make_run(stage)
    assert run.stage == entry.identity.stage == stage
    assert type(run) is entry.run
    assert (type(run.identity), type(run.facts)) == (entry.identity, entry.facts)


@every_document
def test_what_another_version_has_written_is_kept_and_counts(path):
    document = read(path)
    first, *others = document["identity"].items()
    document["identity"] = dict([others[-1], first, ("later", {"a": [1]}), *others[:-1]])
    document = {"also_later": None, **document}
    document["fingerprint"] = fingerprint_of(document)
    run = parse_run(written(document), "sink")
    assert run.fingerprint == document["fingerprint"] != read(path)["fingerprint"]
    assert json.loads(run.to_json()) == document
    assert list(run.identity.document()) == list(document["identity"])
    assert parse_run(run.to_json(), "sink") == run


@pytest.mark.parametrize("said", [{}, {"draft": False}, {"draft": True}], ids=str)
def test_draft_is_written_where_it_is_on_or_was_said_and_counts_then(said):
    plain, run = make_run(), make_run(**said)
    assert run.identity.document() == plain.identity.document() | said
    assert run.identity.draft == said.get("draft", False)
    assert (run.fingerprint == plain.fingerprint) == (not said)
    changed = replace(plain.identity, draft=True)
    assert changed.document() == plain.identity.document() | {"draft": True}
    assert parse_run(run.to_json(), "sink").to_json() == run.to_json()


@every_document
def test_unknown_facts_change_no_fingerprint(path):
    run = parse_run(written({**read(path), "later": 1}), "sink")
    assert run.fingerprint == read(path)["fingerprint"]
    assert json.loads(run.to_json())["later"] == 1


def test_replaced_field_of_a_run_of_another_version_is_written_and_others_are_kept():
    found = make_run(later=1)
    changed = replace(found.identity, resolution=512, model_config={"act_fn": "silu"})
    said = {**found.identity.document(), "resolution": 512, "model_config": {"act_fn": "silu"}}
    assert changed.document() == said


@every_document
def test_parse_run_without_a_field_names_it_if_it_is_needed(path):
    document = read(path)
    stage = document["identity"]["stage"]
    parts = (document, document["identity"])
    names = [(part, name) for part in parts for name in part]
    own = {"stage", "fingerprint", "identity", "plan_sha256"}
    for part, name in [each for each in names if each[1] not in own]:
        value = part.pop(name)
        if name in NEEDED[stage]:
            with pytest.raises(MismatchError, match=f"s3://a/run.json does not say {name}, as "):
                parse_run(written(document), "s3://a")
        else:
            found = parse_run(written(document), "s3://a")
            assert found.fingerprint == fingerprint_of(document)
            assert json.loads(found.to_json()).keys() == document.keys()
        part[name] = value


@pytest.mark.parametrize("stage", STAGES)
def test_parse_run_with_fields_of_wrong_types_names_them_all(stage):
    document = json.loads(make_run(stage).to_json())
    for name in NEEDED[stage]:
        part = document if name in document else document["identity"]
        part[name] = 7.5
    with pytest.raises(MismatchError) as caught:
        parse_run(written(document), "codes")
    assert caught.value.message == (
        f"codes/run.json does not say {', '.join(sorted(NEEDED[stage]))}, as that of every run of "
        f"vqpipe {stage} does: bring it back as it was (vqpipe decode also takes the Parquet "
        "files in data/ by themselves, with --model and --grid)"
    )


@pytest.mark.parametrize("stage", [None, 7, ["encode"], "distil"])
def test_parse_run_of_a_stage_that_is_not_known_says_so(stage):
    document = json.loads(make_run().to_json())
    document["identity"]["stage"] = stage
    with pytest.raises(MismatchError) as caught:
        parse_run(written(document), "codes")
    assert caught.value.message == (
        f"codes/run.json is of a stage {stage!r}, which this version of vqpipe does not know: "
        "use the version that wrote it, or another sink"
    )


@pytest.mark.parametrize("data", [b"", b"7", b"[1, 2]", b"{}", b'{"identity": 1}', b"\xff"])
def test_parse_run_of_something_else_is_a_mismatch(data):
    with pytest.raises(MismatchError, match=r"run\.json is none that vqpipe wrote"):
        parse_run(data, "codes")


def differing(sink, asked):
    """Returns what a command is told that asks for another run than the sink has."""
    with pytest.raises(MismatchError) as caught:
        start_run(str(sink), asked, PLAN, Growth())
    return caught.value.message.splitlines()[1:-1]


PLAN = Plan.of([])


def test_start_run_names_what_differs_as_json_has_it_fields_of_another_version_included(tmp_path):
    """Each is told by its name, of whichever version: neither side's is passed over."""
    start_run(str(tmp_path), make_run(plan_sha256=PLAN.sha256(), later=[1]), PLAN, Growth())
    asked = make_run(plan_sha256=PLAN.sha256(), background=[0, 0, 0], keep=["txt"])
    assert differing(tmp_path, asked) == [
        "  background: the sink has [255, 255, 255], this command asks for [0, 0, 0]",
        "  keep: the sink has [], this command asks for ['txt']",
        "  later: the sink has [1], this command asks for None",
    ]


def test_start_run_on_another_stages_sink_names_the_stage_before_all_that_it_may_lack(tmp_path):
    start_run(str(tmp_path), make_run("evaluate", PLAN.sha256()), PLAN, Growth())
    document = json.loads((tmp_path / "run.json").read_bytes())
    del document["networks"]
    document["identity"]["stage"] = "distil"
    (tmp_path / "run.json").write_bytes(written(document))
    said = differing(tmp_path, make_run(plan_sha256=PLAN.sha256()))
    assert "  stage: the sink has 'distil', this command asks for 'encode'" in said


def test_start_run_returns_a_run_of_the_stage_that_was_asked_for(tmp_path):
    for stage in STAGES:
        sink = str(tmp_path / stage)
        found = start_run(sink, make_run(stage, PLAN.sha256()), PLAN, Growth()).run
        assert found == load_run(sink) == make_run(stage, PLAN.sha256())
