"""Job definitions: those in `jobs/`, what is read of one, and who wins."""

import math
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vqpipe.commands import cli
from vqpipe.commands.all_jobs import JOBS, STAGES
from vqpipe.commands.definition import read_definition, to_arguments, write_definition
from vqpipe.commands.stage_jobs import Decode, Encode, Evaluate
from vqpipe.errors import ConfigError

FOLDER = Path(__file__).parents[2] / "jobs"
PLACES = {
    "encode": ("--source", "/a", "--sink", "/b", "--model", "/c"),
    "decode": ("--source", "/a", "--sink", "/b"),
    "evaluate": ("--source", "/a"),
    "compact": ("/a", "/b", "--rows-per-file", "3"),
}
NAMED = {
    "encode": {"source", "sink", "model"},
    "decode": {"source", "sink"},
    "evaluate": {"source"},
    "compact": {"source", "sink", "rows_per_file"},
}
"""What these say, which no definition with the defaults does."""


def printed(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.parse([str(argument) for argument in arguments])
    assert ended.value.code == 0
    return capsys.readouterr().out


def write(tmp_path, text):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("stage", STAGES)
def test_jobs_are_what_the_commands_print(stage, capsys):
    """`make jobs` writes them anew."""
    assert (FOLDER / f"{stage}.yaml").read_text() == printed(capsys, stage, "--print-job")


@pytest.mark.parametrize("stage", STAGES)
def test_jobs_have_every_option_with_its_default_and_a_word_on_it(stage):
    text = (FOLDER / f"{stage}.yaml").read_text()
    said = yaml.safe_load(text)
    options = {field.name: field for field in fields(JOBS[stage])}
    assert said.keys() == options.keys()
    whole = cli.parse([stage, *PLACES[stage]])
    for name, value in said.items():
        expected = getattr(whole, name)
        expected = list(expected) if isinstance(expected, tuple) else expected
        assert value == (None if name in NAMED[stage] else expected)
    lines = text.splitlines()
    for name in options:
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{name}:"))
        assert lines[at - 1].startswith("# ")


@pytest.mark.parametrize("stage", STAGES)
def test_jobs_as_they_are_change_nothing(stage):
    file = ("--job", str(FOLDER / f"{stage}.yaml"))
    assert cli.parse([stage, *file, *PLACES[stage]]) == cli.parse([stage, *PLACES[stage]])


@pytest.mark.parametrize("stage", STAGES)
def test_jobs_as_they_are_still_ask_for_what_is_required(stage, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.parse([stage, "--job", str(FOLDER / f"{stage}.yaml")])
    assert ended.value.code == 4
    assert "source" in capsys.readouterr().err.lower()


ODD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
OPTIONS = {
    "key": st.none() | ODD,
    "format": st.sampled_from([None, "webdataset", "parquet", "folder"]),
    "keep": st.lists(ODD, unique=True).map(tuple),
    "background": st.tuples(*[st.integers(0, 255)] * 3),
    "max_pixels": st.integers(1, 10**15),
    "draft": st.booleans(),
    "eager": st.booleans(),
    "audit": st.floats(0, 1),
    "max_rejected": st.floats(0) | st.just(math.inf),
    "batch_size": st.none() | st.integers(1, 999),
}


@settings(deadline=None, max_examples=50)
@given(st.fixed_dictionaries({}, optional=OPTIONS))
def test_write_definition_of_any_encode_is_read_back_as_it_was(tmp_path_factory, options):
    job = Encode(source="/a b", sink="/it's: #1", model="yes", **options)
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(write_definition(Encode, vars(job)), encoding="utf-8")
    assert cli.parse(["encode", "--job", str(path)]) == job


@pytest.mark.parametrize(
    "job",
    [
        Decode(source="/a", sink="/b", model="m", format="png", quality=1, grid=(16, 8), keep=()),
        Decode(source="/a", sink="/b", latents="z", keep=("a", "b"), layout="folder", eager=True),
        Evaluate(source="/a", images="/i", samples=3, shards=1, lpips="/l", stall_timeout_s=0.5),
        Encode(source="/a", sink="/b", model="m", skip_doctor=True, pixel_range="unit", actors=2),
    ],
    ids=lambda job: type(job).__name__,
)
def test_print_job_of_a_command_line_gives_the_same_job(tmp_path, job, capsys):
    stage = type(job).__name__.lower()
    path = write(tmp_path, printed(capsys, stage, *to_arguments(job), "--print-job"))
    assert cli.parse([stage, "--job", path]) == job
    assert cli.parse([stage, *to_arguments(job)]) == job


def test_main_command_line_wins_over_the_file_and_the_file_over_defaults(tmp_path):
    text = "resolution: 128\ndtype: tf32\nkeep: [a, b]\nkey: name\nextend: true\neager: true\n"
    path = write(tmp_path, text)
    words = ("--dtype", "bfloat16", "--keep", "c", "--key", "None", "--no-eager", "--extend")
    job = cli.parse(["encode", *PLACES["encode"], f"--job={path}", *words])
    assert (job.resolution, job.dtype, job.keep, job.key) == (128, "bfloat16", ("c",), None)
    assert (job.extend, job.eager, job.resample) == (True, False, None)


def test_main_file_may_say_what_is_required(tmp_path):
    path = write(tmp_path, "source: /a\nsink: /b\nmodel: /c\n")
    assert cli.parse(["encode", "--job", path]) == cli.parse(["encode", *PLACES["encode"]])


WRONG = {
    "resolutoin: 3": ("resolutoin", "did you mean resolution?"),
    "batch-size: 3": ("batch-size", "did you mean batch_size?"),
    "5: 3": ("5 is no option",),
    "resolution: large": ("resolution is 'large'", "a whole number"),
    "resolution: 1.5": ("resolution is 1.5", "a whole number"),
    "resolution: true": ("resolution is True", "a whole number"),
    "resolution:": ("resolution is empty", "a whole number"),
    "audit: [1]": ("audit is [1]", "a number"),
    "audit: true": ("audit is True", "a number"),
    "eager: 1": ("eager is 1", "true or false"),
    "key: no": ("key is False", "quotes"),
    "image: {a: b}": ("image is {'a': 'b'}", "text"),
    "format: gif": ("format is 'gif'", "webdataset, parquet, folder"),
    "format: [folder]": ("format is ['folder']", "webdataset"),
    "keep: txt": ("keep is 'txt'", "a list"),
    "keep: [1]": ("keep is [1]", "text"),
    "background: [1, 2]": ("background is [1, 2]", "3 values"),
    "- a list": ("no job definition",),
    "text": ("no job definition",),
    "source: [": ("no YAML in line 2",),
    "a: !!python/object/apply:os.getcwd []": ("no YAML",),
    "resolution: 128\nkey: k\nresolution: 256": ("line 3", "resolution is there twice"),
    "key: 2024-02-30": ("cannot be read", "day"),
    f"resolution: {'9' * 5000}": ("cannot be read", "digits"),
    f"max_rejected: {'9' * 400}": ("max_rejected is 999", "a number"),
    f"keep: {'[' * 3000}{']' * 3000}": ("cannot be read", "lists in lists"),
}


@pytest.mark.parametrize(("text", "said"), WRONG.items())
def test_read_definition_that_is_wrong_names_file_key_and_what_is_right(tmp_path, text, said):
    path = write(tmp_path, text + "\n")
    with pytest.raises(ConfigError) as caught:
        read_definition(path, Encode)
    for words in (path, *said):
        assert words in caught.value.message


def test_read_definition_of_aliases_that_grow_is_refused_in_few_words(tmp_path):
    lists = "".join(f", &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9))
    path = write(tmp_path, f"keep: [&a0 [x]{lists}]\n")  # a hundred million letters, written out
    with pytest.raises(ConfigError) as caught:
        read_definition(path, Encode)
    assert "keep is [[" in caught.value.message
    assert len(caught.value.message) < 10_000


def test_read_definition_merged_values_give_way_to_those_beside_them(tmp_path):
    path = write(tmp_path, "<<: {key: other, resolution: 128}\nkey: own\n")
    assert read_definition(path, Encode) == {"key": "own", "resolution": 128}


@pytest.mark.parametrize("path", ["/no/such/file.yaml", "/"])
def test_main_file_that_cannot_be_read_exits_4(path, capsys):
    assert cli.main(["encode", *PLACES["encode"], f"--job={path}"]) == 4
    assert "cannot be read" in capsys.readouterr().err


def test_job_without_a_name_is_asked_for_one(capsys):
    assert cli.main(["encode", "--job="]) == 4
    assert "--job is empty: give a YAML file" in capsys.readouterr().err


def test_read_definition_that_is_no_text_says_so(tmp_path):
    (tmp_path / "job.yaml").write_bytes(b"key: \xff\xfe\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_definition(str(tmp_path / "job.yaml"), Encode)


def test_read_definition_number_as_yaml_1_2_has_it(tmp_path):
    assert read_definition(write(tmp_path, "audit: 1e-3\n"), Encode) == {"audit": 0.001}


def test_read_definition_of_comments_alone_says_nothing(tmp_path):
    assert read_definition(write(tmp_path, "# later\n"), Encode) == {}


def test_main_value_out_of_bounds_in_a_file_exits_4(tmp_path, capsys):
    path = write(tmp_path, "resolution: 0\n")
    assert cli.main(["encode", *PLACES["encode"], "--job", path]) == 4
    assert "--resolution is 0" in capsys.readouterr().err


SUBMIT = ("submit", "encode", "--address", "http://head:8265")


def test_submit_file_of_this_machine_travels_as_options(tmp_path):
    path = write(tmp_path, "source: s3://x/a b\nresolution: 128\nkeep: [a, b]\neager: true\n")
    words = ("--sink", "s3://x/y", "--model", "/m", "--no-eager")
    job = cli.parse([*SUBMIT, "--job", path, "--", *words])
    assert not any("--job" in word for word in job.arguments)
    expected = Encode(
        source="s3://x/a b", sink="s3://x/y", model="/m", resolution=128, keep=("a", "b")
    )
    assert cli.parse(["encode", *job.arguments]) == expected


def test_submit_file_of_the_cluster_travels_as_its_path():
    words = ("--job", "/on/the/cluster.yaml", "--resolution", "128", "--no-eager")
    assert cli.parse([*SUBMIT, "--", *words]).arguments == words


def test_submit_file_of_the_cluster_hides_no_mistake_beside_it(capsys):
    assert cli.main([*SUBMIT, "--", "--job", "/on/the/cluster.yaml", "--resolution", "0"]) == 4
    assert "--resolution is 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("source: s3://name:secret@bucket/x\n", "credentials"),
        ("source: ['s3://name:secret@bucket/x']\n", "source is ['s3://...']"),
        ("keep: [-x]\n", "keep is '-x'"),
        ('key: "None"\n', "key is 'None'"),
        ("nonsense: 1\n", "nonsense is no option"),
    ],
)
def test_submit_file_with_what_must_not_or_cannot_travel_exits_4(tmp_path, text, said, capsys):
    places = "source: /a\nsink: /b\nmodel: /c\n"
    rest = "".join(line for line in places.splitlines(keepends=True) if line[:6] != text[:6])
    path = write(tmp_path, rest + text)
    assert cli.main([*SUBMIT, "--job", path, "--"]) == 4
    printed = capsys.readouterr().err.replace("\n", "")
    assert said in printed
    assert "secret" not in printed


def test_print_job_with_an_underscore_prints_and_does_nothing_else(capsys):
    words = ("encode", *PLACES["encode"])
    assert printed(capsys, *words, "--print_job") == printed(capsys, *words, "--print-job")


def test_print_job_prints_no_credentials(capsys):
    places = ("--source", "s3://name:secret@bucket/x", "--sink", "/b", "--model", "/c")
    assert cli.main(["encode", *places, "--print-job"]) == 4
    printed = capsys.readouterr()
    assert "secret" not in printed.out + printed.err


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (("--job", "here.yaml"), ("--job", "there.yaml"), "--job is there twice"),
        ((), ("--print-job",), "--print-job is for vqpipe encode"),
        ((), ("--print_job",), "--print-job is for vqpipe encode"),
    ],
)
def test_submit_what_makes_no_sense_exits_4(before, after, said, capsys):
    assert cli.main([*SUBMIT, *before, "--", *PLACES["encode"], *after]) == 4
    assert said in capsys.readouterr().err


def test_to_arguments_leave_out_what_has_its_default():
    assert to_arguments(Encode(source="/a", sink="/b", model="/c")) == [
        "--source=/a",
        "--sink=/b",
        "--model=/c",
    ]


@pytest.mark.parametrize(
    "said",
    [
        "source: /a\nsink: /b\nrows_per_file: 100\n",
        "source: /a\nsink: s3://b/c\nrows_per_file: 7\nshuffle: -3\nallow_incomplete: true\n",
    ],
)
def test_submit_compact_by_a_file_or_by_words_asks_for_the_same_job(tmp_path, said):
    """What has no name on a command line has one in a file, and loses it on its way."""
    path = write(tmp_path, said)
    head = ("submit", "compact", "--address", "http://head:8265")
    words = cli.parse([*head, "--job", path]).arguments
    job = cli.parse(["compact", *words])
    assert job == cli.parse(["compact", "--job", path])
    assert {name: getattr(job, name) for name in yaml.safe_load(said)} == yaml.safe_load(said)
    assert cli.parse([*head, "--", *words]).arguments == words


def test_submit_compact_of_a_place_that_looks_like_an_option_exits_4(tmp_path, capsys):
    path = write(tmp_path, "source: -a\nsink: /b\nrows_per_file: 1\n")
    head = ("submit", "compact", "--address", "http://head:8265")
    with pytest.raises(ConfigError, match="which no command line can say"):
        cli.parse([*head, "--job", path])
    capsys.readouterr()
