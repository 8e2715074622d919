import pytest

from tests.sink import sinks
from tests.sink.runs import facts_of_codes, make_run
from vqpipe.code_layout import CodeLayout
from vqpipe.inspection import readiness, survey
from vqpipe.inspection.readiness import check_codes, judge
from vqpipe.sink.run import load_run

FACTS = make_run(facts=facts_of_codes(CodeLayout.grid(16, 16, 1024))).facts
SOUND = {
    "shards": 3,
    "samples": 1000,
    "encoded": 990,
    "rejected": 10,
    "rejected_images": 10,
    "damaged_shards": 0,
    "flip_rate": None,
    "codebook_usage": 0.9,
    "codebook_perplexity": 700.0,
    "low_psnr_shards": [],
}


def seen(sink, done=3, *, is_complete=True):
    writer = sinks.begin(sink)
    for index in range(done):
        sinks.commit(writer, index, 4)
    sinks.end(writer, is_complete=is_complete)
    return survey.look(writer.sink.uri, writer.sink.run)


def drift(*distances, median=None, shards=None):
    """Returns an evaluation of which all shards, or so many, are listed."""
    found = sorted(distances)[len(distances) // 2] if median is None else median
    return {"drift": sinks.drift(*distances, median=found, shards=shards or len(distances))}


def test_judge_complete_sound_sink_is_yes(tmp_path):
    found = judge(seen(tmp_path), SOUND, check_codes(FACTS, SOUND, None))
    assert (found.answer, [why.check for why in found.why]) == ("yes", ["complete"])


@pytest.mark.parametrize(("low", "said"), [(["b/c"], "b/c come"), (["b", "a"], "b and 1 more")])
def test_judge_shards_that_come_back_far_worse_want_care(tmp_path, low, said):
    found = judge(seen(tmp_path), SOUND, check_codes(FACTS, SOUND | {"low_psnr_shards": low}, None))
    assert (found.answer, [why.check for why in found.why]) == ("with care", ["psnr"])
    assert said in found.why[0].message


@pytest.mark.parametrize("done", [0, 2, 3])
def test_judge_without_success_is_no_and_says_how_many_are_safe(tmp_path, done):
    found = judge(seen(tmp_path, done, is_complete=False), SOUND | {"shards": done}, [])
    assert (found.answer, found.why[0].check) == ("no", "complete")
    assert f"{done}" in found.why[0].message


def test_judge_object_that_went_after_success_is_no(tmp_path):
    sink = seen(tmp_path).sink.uri
    (tmp_path / "data" / "b.parquet").unlink()
    found = judge(survey.look(sink, load_run(sink)), SOUND, [])
    assert (found.answer, found.why[0].check) == ("no", "missing")


def test_judge_object_of_no_shard_wants_care(tmp_path):
    sink = seen(tmp_path).sink.uri
    (tmp_path / "data" / "mine.parquet").write_bytes(b"")
    found = judge(survey.look(sink, load_run(sink)), SOUND, [])
    assert (found.answer, found.why[0].check) == ("with care", "foreign")


def test_judge_sink_without_any_image_is_no(tmp_path):
    found = judge(seen(tmp_path), SOUND | {"encoded": 0, "samples": 0}, [])
    assert (found.answer, found.why[0].check) == ("no", "empty")


@pytest.mark.parametrize(("rejected", "answer"), [(50, "yes"), (51, "with care")])
def test_judge_rejections_above_their_share_want_care(tmp_path, rejected, answer):
    totals = SOUND | {"encoded": 1000 - rejected, "rejected_images": rejected}
    assert judge(seen(tmp_path), totals, []).answer == answer


LOST = {
    "damaged_shards": 1,
    "damaged": [{"shard": "b/c", "lost": 7, "lost_by": "known"}],
    "lost_known": 7,
    "lost_estimated": 0,
    "lost_unknown": 0,
}


def test_judge_damaged_shard_that_was_accepted_wants_care(tmp_path):
    found = judge(seen(tmp_path), SOUND | LOST, [])
    assert (found.answer, [why.check for why in found.why]) == ("with care", ["damaged"])
    assert "b/c" in found.why[0].message
    assert "7 image(s)" in found.why[0].message


def test_judge_damaged_shard_that_was_not_accepted_is_no(tmp_path):
    found = judge(seen(tmp_path, is_complete=False), SOUND | LOST, [])
    assert (found.answer, [why.check for why in found.why]) == ("no", ["damaged"])
    half = judge(seen(tmp_path / "half", 2, is_complete=False), SOUND | LOST | {"shards": 2}, [])
    assert [why.check for why in half.why] == ["complete", "damaged"]


@pytest.mark.parametrize(
    ("totals", "evaluation", "checks"),
    [
        ({"flip_rate": 0.05}, None, []),
        ({"flip_rate": 0.051}, None, ["unlike"]),
        ({}, {"codes_unlike_float32": 0.2}, ["unlike"]),
        ({"flip_rate": 0.01}, {"codes_unlike_float32": 0.2}, []),  # measured on more images
        ({"codebook_usage": 0.009}, None, ["usage"]),
        ({"codebook_usage": 0.009, "encoded": 39}, None, []),  # 9,984 codes for 1,024 entries
        ({"codebook_perplexity": 1.5}, None, ["usage"]),
        ({}, drift(0.9, 0.3, 0.2), ["drift"]),
        ({}, drift(0.4, 0.39, 0.38), []),  # by chance, and all alike
        ({}, drift(0.15, 0.02, 0.01), []),
        ({}, drift(0.9), []),  # nothing to hold it against
        ({}, {"drift": sinks.drift(median=None, shards=0)}, []),
        ({}, drift(*[0.9] * 20, median=0.1, shards=100_000), ["drift"]),  # all that are listed
        ({}, drift(*[0.5] * 20, median=0.45, shards=100_000), []),
    ],
)
def test_check_codes_names_what_stands_out(totals, evaluation, checks):
    found = check_codes(FACTS, SOUND | totals, evaluation)
    assert [why.check for why in found] == checks


def test_check_codes_drift_names_the_shard():
    [why] = check_codes(FACTS, SOUND, drift(0.9, 0.3, 0.2))
    assert "shard s0" in why.message
    assert readiness.MOST_DRIFT * 0.3 < 0.9


@pytest.mark.parametrize(
    ("distances", "words"),
    [
        ([0.9, 0.1], "shard s0 has other codes"),
        ([0.9, 0.8, 0.7, 0.1], "3 shards have other codes than the rest, most of all s0"),
        ([0.9, 0.8], "at least 2 shards have other codes"),
    ],
)
def test_check_codes_drift_says_how_many_shards_are_far_off(distances, words):
    [why] = check_codes(FACTS, SOUND, drift(*distances, median=0.1, shards=1000))
    assert why.message.startswith(words)
    assert "median 0.10" in why.message
