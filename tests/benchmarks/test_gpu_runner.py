"""The runner of what wants a GPU, without one: every step at a tiny size, and what it does then."""

import importlib
import sys
import zipfile

import pytest

from tests.benchmarks import records
from tests.benchmarks.gpu import __main__ as runner
from tests.benchmarks.gpu import carry, predictions, table
from tests.benchmarks.gpu.model import covered
from tests.benchmarks.gpu.processes import How, run_step
from tests.benchmarks.gpu.steps import STEPS, Step
from vqpipe.stages.audit import Audit

HERE = [step for step in STEPS if not (step.is_tests or step.needs_ray)]


@pytest.fixture
def figures(tmp_path, monkeypatch):
    """File of the figures that are noted in this process."""
    path = tmp_path / "figures.jsonl"
    monkeypatch.setenv(records.FILE, str(path))
    monkeypatch.setenv(records.STEP, "here")
    return path


@pytest.mark.parametrize(
    "step",
    [pytest.param(step, marks=[pytest.mark.soak] * (at % 3 > 0)) for at, step in enumerate(HERE)],
    ids=lambda step: step.name,
)
def test_step_on_a_cpu_at_a_tiny_size_notes_its_figures(step, figures, monkeypatch):
    if step.name == "audit":  # it times these where they are
        for name in ("pick", "look"):
            monkeypatch.setattr(Audit, name, getattr(Audit, name))
    words = [step.module, *step.arguments, "--device", "cpu", "--tiny"]
    monkeypatch.setattr(sys, "argv", words)
    importlib.import_module(step.module).main()
    noted = records.read(figures)
    assert noted
    assert all(isinstance(line["value"], str) or line["value"] >= 0 for line in noted)
    assert "measured" in table.render(noted)
    if step.name == "layers":
        assert expected_layers() <= {line["name"] for line in noted}


def expected_layers():
    """Returns what RESULTS.md calls the layers, but for those that a CPU does not compile."""
    kinds = (
        "GroupNorm",
        "convolution",
        "attention",
        "nearest entry, MoVQ",
        "nearest entry, taming",
    )
    expected = predictions.predict("NVIDIA H200")
    return {name for name in expected if name.startswith(kinds) and "compiled" not in name}


def test_steps_have_names_of_their_own_and_fit_their_calls():
    assert len({step.name for step in STEPS}) == len(STEPS)
    assert {step.call for step in STEPS} == {1, 2, 3}
    assert all(step.enough_s <= step.limit_s for step in STEPS)


def how(tmp_path, device="cpu"):
    return How(device, tiny=True, has_gpu=False, folder=tmp_path, site=None)


def python(code, **more):
    """Returns a step that executes code."""
    return Step(name="a step", call=1, module="timeit", arguments=("-n1", "-r1", code), **more)


def test_step_past_its_limit_is_ended_and_what_it_said_stays(tmp_path):
    ended = run_step(python("import time; print('begun'); time.sleep(600)"), how(tmp_path), 3.0)
    assert (ended.status, ended.last) == ("out of time", ("begun", "exit code -15"))
    assert ended.seconds < 60


def test_step_that_leaves_something_that_hangs_ends_all_the_same(tmp_path):
    hangs = "import atexit, time; atexit.register(time.sleep, 600); print('done')"
    ended = run_step(python(hangs), how(tmp_path), 30.0)
    assert ended.seconds < 20
    assert ended.last[0] == "done"


def test_step_that_fails_shows_its_last_lines(tmp_path):
    ended = run_step(python("raise LookupError('no such thing')"), how(tmp_path), 60.0)
    assert ended.status == "failed"
    assert "LookupError: no such thing" in ended.last
    line = {"kind": "step", "is_tiny": True, "step": "a step", "seconds": 1.0}
    line |= {"status": ended.status, "last": ended.last}
    assert "no such thing" in table.render([line])


def test_step_without_what_it_needs_says_so(tmp_path):
    assert run_step(python("1"), how(tmp_path, "cuda"), 60.0).status == "needs a GPU"


def test_figures_noted_before_an_end_in_the_middle_stay(figures):
    records.note("one", 1.5, "ms")
    with figures.open("a") as file:
        file.write('{"kind": "figure", "na')
    assert [line["name"] for line in records.read(figures)] == ["one"]


def run_main(tmp_path, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path), *words])
    monkeypatch.setattr(runner, "find_gpu", lambda: False)
    return runner.main()


def test_main_without_a_gpu_says_of_each_step_that_it_needs_one(tmp_path, monkeypatch, capsys):
    assert run_main(tmp_path, monkeypatch, "--call", "2") == 1
    steps = [step.name for step in STEPS if step.call == 2]
    statuses = {line["step"]: line["status"] for line in records.read(tmp_path / "figures.jsonl")}
    assert statuses == dict.fromkeys(steps, "needs a GPU")
    assert "codec movq: needs a GPU" in capsys.readouterr().out


def test_main_leaves_out_what_no_longer_fits_and_what_is_done(tmp_path, monkeypatch, capsys):
    words = ("--steps", "facts", "--device", "cpu", "--tiny")
    assert run_main(tmp_path, monkeypatch, *words, "--budget-s", "6") == 1
    assert "facts: skipped" in capsys.readouterr().out
    records.write(tmp_path / "figures.jsonl", done("facts"))
    assert run_main(tmp_path, monkeypatch, *words) == 0
    assert "facts: done before" in capsys.readouterr().out


def done(step):
    return {
        "kind": "step",
        "step": step,
        "status": "ok",
        "seconds": 1.0,
        "last": [],
        "is_tiny": True,
    }


def test_main_unknown_step_names_those_there_are(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"no step is called nothing.*ceilings"):
        run_main(tmp_path, monkeypatch, "--steps", "nothing")


def test_table_has_predictions_beside_figures():
    lines = [
        {"kind": "figure", "step": "facts", "name": "GPU", "value": "NVIDIA H200", "unit": ""},
        {
            "kind": "figure",
            "step": "codec movq",
            "name": "MoVQ f8 encode 256 compiled",
            "value": 1300.0,
            "unit": "images/s",
        },
    ]
    (row,) = (line for line in table.render(lines).splitlines() if line.startswith("MoVQ"))
    assert row.split("  ")[-1] == "1,231, then 1,612"
    assert "1,300" in row
    lines[0]["value"] = "NVIDIA A100"
    assert "1,231" not in table.render(lines)


def test_covered_time_counts_what_overlaps_once():
    spans = [("a", 0.0, 4.0), ("b", 2.0, 3.0), ("c", 6.0, 8.0), ("d", 7.0, 9.0)]
    assert covered(spans) == 7.0


def test_carry_versions_are_those_of_the_constraints():
    assert set(carry.versions()) == set(carry.NAMES)


def test_carry_strip_leaves_a_wheel_that_installs(tmp_path):
    wheel = tmp_path / "ray-1-py3-none-any.whl"
    kept = {"ray/core/raylet": b"binary", "ray/data/__init__.py": b""}
    gone = {"ray/jars/ray.jar": b"java" * 99, "ray/dashboard/client/build/page.js": b"page"}
    listed = "".join(f"{name},,\n" for name in kept | gone)
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in (kept | gone | {"ray-1.dist-info/RECORD": listed.encode()}).items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o755 << 16
            archive.writestr(entry, data)
    carry.strip(wheel)
    with zipfile.ZipFile(wheel) as archive:
        assert set(archive.namelist()) == {*kept, "ray-1.dist-info/RECORD"}
        assert archive.read("ray-1.dist-info/RECORD").decode().split() == [f"{n},," for n in kept]
        assert archive.getinfo("ray/core/raylet").external_attr >> 16 == 0o755
