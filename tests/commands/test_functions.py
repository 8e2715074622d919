"""`import vqpipe`, and its commands as functions where nothing is left to do; no Ray is started."""

import dataclasses
import inspect
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import vqpipe
from tests import shell
from tests.makers import jpeg, tar_of
from tests.sink.runs import encoded_rows
from vqpipe.commands import encode as work
from vqpipe.commands.all_jobs import JOBS, STAGES
from vqpipe.commands.stage_jobs import Encode
from vqpipe.errors import (
    ConfigError,
    IncompleteError,
    MismatchError,
    TooManyRejectionsError,
)
from vqpipe.sink.commit import commit_rows

SHARDS, IMAGES = 2, 4


@pytest.fixture
def places(tmp_path):
    (tmp_path / "source").mkdir()
    for shard in range(SHARDS):
        members = {f"{shard}-{i}.jpg": jpeg(40, 40, seed=i) for i in range(IMAGES)}
        (tmp_path / "source" / f"{shard}.tar").write_bytes(tar_of(members))
    options = {"resolution": 32, "pixel_range": "signed", "skip_doctor": True}
    where = {"source": str(tmp_path / "source"), "sink": str(tmp_path / "codes")}
    return where | {"model": str(shell.CHECKPOINT)} | options


def commit_all(places, rejected=()):
    """Commits every shard of a run, as workers would."""
    writer = work._prepare(Encode(**places)).work.writer
    for index in range(SHARDS):
        rows = encoded_rows(writer, index, IMAGES, rejected=rejected)
        commit_rows(rows, writer)


def test_encode_of_what_is_done_returns_totals_and_where_and_prints_nothing(places, capfd):
    commit_all(places)
    capfd.readouterr()
    result = vqpipe.encode(**places)
    assert capfd.readouterr() == ("", "")
    sink = Path(places["sink"])
    assert (result.exit_code, result.error, result.sink) == (0, None, str(sink))
    assert (sink / "_SUCCESS").exists()
    assert result.totals == json.loads((sink / "summary.json").read_bytes())
    assert result.totals["encoded"] == SHARDS * IMAGES
    assert result.fingerprint == json.loads((sink / "run.json").read_bytes())["fingerprint"]
    assert result.evaluation is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.sink = "elsewhere"


def test_encode_verbose_prints_what_the_command_prints(places, capfd):
    commit_all(places)
    vqpipe.encode(**places, verbose=True)
    printed = capfd.readouterr()
    assert "summary" in printed.out
    assert "left to do" in printed.err


def test_encode_takes_paths_and_lists_as_programs_have_them(places):
    commit_all(places)
    where = {name: Path(places[name]) for name in ("source", "sink", "model")}
    assert vqpipe.encode(**places | where, background=[255, 255, 255]).exit_code == 0


def test_encode_that_is_not_complete_returns_why(places):
    commit_all(places, rejected=(1,))
    result = vqpipe.encode(**places)
    assert isinstance(result.error, TooManyRejectionsError)
    assert result.exit_code == 2
    assert result.totals["rejected"] == SHARDS
    assert not Path(places["sink"], "_SUCCESS").exists()
    with pytest.raises(IncompleteError):
        result.check()
    assert vqpipe.encode(**places, max_rejected=0.5).exit_code == 0


def test_encode_in_a_thread_works_and_leaves_signals_alone(places):
    commit_all(places)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    found = []
    thread = threading.Thread(target=lambda: found.append(vqpipe.encode(**places)))
    thread.start()
    thread.join()
    assert found[0].exit_code == 0
    vqpipe.encode(**places)
    assert before == {number: signal.getsignal(number) for number in before}


def test_encode_that_a_sink_refuses_raises_what_the_command_ends_with(places):
    commit_all(places)
    with pytest.raises(MismatchError, match="resolution"):
        vqpipe.encode(**places | {"resolution": 64})


WRONG = {
    "out of bounds": ({"resolution": 0}, "--resolution is 0"),
    "no choice": ({"dtype": "int4"}, "dtype is 'int4'; it must be one of float32"),
    "another type": ({"resolution": "256"}, "resolution is '256'; it must be a whole number"),
    "one of a list": ({"keep": "txt"}, "keep is 'txt'; it must be a list"),
    "nothing": ({"source": None}, "source is empty; it must be text"),
    "a password": ({"source": "s3://name:secret@bucket/x"}, "credentials"),
    "another scheme": ({"sink": "ftp://x/y"}, "ftp:// is not supported"),
}


@pytest.mark.parametrize(("options", "said"), WRONG.values(), ids=WRONG.keys())
def test_encode_bad_option_is_a_config_error(places, options, said):
    with pytest.raises(ConfigError) as caught:
        vqpipe.encode(**places | options)
    assert said in caught.value.message
    assert "secret" not in caught.value.message
    assert not Path(places["sink"]).exists()


@pytest.mark.parametrize("stage", STAGES)
def test_function_unknown_missing_or_positional_option_is_a_type_error(stage):
    function = getattr(vqpipe, stage)
    with pytest.raises(TypeError, match="did you mean source"):
        function(sorce="x")
    with pytest.raises(TypeError, match=f"vqpipe.{stage} needs source"):
        function()
    with pytest.raises(TypeError, match="by name"):
        function("x")


@pytest.mark.parametrize("stage", STAGES)
def test_function_says_what_it_takes(stage):
    function = getattr(vqpipe, stage)
    taken = inspect.signature(function).parameters
    fields = {field.name: field for field in dataclasses.fields(JOBS[stage])}
    assert taken.keys() == fields.keys() | {"verbose", "on_progress"}
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in taken.values())
    assert taken["address"].default == fields["address"].default
    assert taken["source"].annotation is str  # as help prints it, without what the command's needs
    assert (function.__name__, function.__doc__.splitlines()[0]) == (
        stage,
        JOBS[stage].__doc__.splitlines()[0],
    )


def test_vqpipe_has_what_it_says_and_no_more():
    assert set(vqpipe.__all__) <= set(dir(vqpipe))
    for name in vqpipe.__all__:
        assert getattr(vqpipe, name) is not None
    assert vqpipe.VQModel.__module__.startswith("vqpipe.vqgan")
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(vqpipe, "no_such_name")  # noqa: B009 (it is no name that anything has)


@pytest.mark.parametrize(
    ("code", "loaded"),
    [
        ("import vqpipe; vqpipe.__version__; dir(vqpipe)", set()),
        ("from vqpipe import encode, decode, evaluate, Result; help(encode)", set()),
        ("from vqpipe import VQModel", {"torch"}),
    ],
)
def test_vqpipe_imports_nothing_heavy_before_it_is_asked_for(code, loaded):
    heavy = {"torch", "ray", "pyarrow", "fsspec", "huggingface_hub", "PIL"}
    code += f"; import sys; print(*({heavy} & sys.modules.keys()), sep=',', end='')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    last = done.stdout.rsplit("\n", 1)[-1]
    assert set(filter(None, last.split(","))) == loaded
