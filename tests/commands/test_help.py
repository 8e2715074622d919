"""What is answered at once, help and mistakes: what is not imported for it, and how it reads."""

import itertools
import json
import re
import subprocess
import sys

import pytest

from vqpipe.commands import cli
from vqpipe.commands.all_jobs import JOBS, STAGES

HEAVY = ("torch", "ray", "pyarrow", "fsspec", "s3fs", "huggingface_hub", "PIL")

ASKED = {
    **{f"help of {name}": (0, name, "--help") for name in JOBS},
    "help": (0, "--help"),
    "no word at all": (0,),
    "version": (0, "--version"),
    "completion": (0, "--completion", "bash"),
    "a shell that is none": (4, "--completion", "x"),
    "a job definition that is none": (4, "encode", "--job", "/no/such/file"),
    "a word that is no command": (4, "encod", "--source", "x"),
    "an option that is none": (4, "encode", "--sorce", "x"),
    "an option that is missing": (4, "encode", "--source", "x"),
    "a value of another type": (4, "encode", "--resolution", "large"),
    "a value that is no choice": (4, "encode", "--dtype", "int4"),
    "a value out of bounds": (
        *(4, "encode", "--source", "x", "--sink", "y", "--model", "z"),
        *("--resolution", "0"),
    ),
    "a value out of bounds of another command": (4, "diff", "a", "b", "--share", "2"),
    "credentials for a cluster": (4, "submit", "encode", "--address", "http://a:b@head", "--"),
}

SCRIPT = """
import json, sys
from vqpipe.commands import cli
try:
    code = cli.main(sys.argv[2:])
except SystemExit as end:
    code = end.code
found = [name for name in json.loads(sys.argv[1]) if name in sys.modules]
print("\\n" + json.dumps([code, found]))
"""


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED.keys())
def test_main_what_starts_no_work_imports_nothing_heavy(asked):
    expected, *arguments = asked
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(HEAVY), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    code, found = json.loads(done.stdout.splitlines()[-1])
    assert (code, found) == (expected, [])


def test_main_python_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "vqpipe", "--version"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert done.stdout.startswith("vqpipe ")


def printed(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.parse(list(words))
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", [80, 100, 160, 400])
@pytest.mark.parametrize("command", ["", *JOBS])
def test_help_fits_the_terminal_and_reads_as_one_text(command, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = printed(capsys, *filter(None, [command]), "--help").splitlines()
    assert max(map(len, lines)) <= columns
    assert not [line for line in lines if "None" in line or "{fixed}" in line]
    widest = min(columns, 120)
    for line, following in itertools.pairwise(lines):
        lead = " " * 24
        if line.startswith(lead) and following.startswith(lead):  # goes on only where it has to
            assert len(f"{line} {following.split()[0]}") > widest


@pytest.mark.parametrize("stage", STAGES)
def test_help_of_a_stage_has_its_groups_in_order_and_every_option_once(stage, capsys):
    text = printed(capsys, stage, "--help")
    groups = re.findall(r"^(\w+):", text.partition("\n\n")[2], re.MULTILINE)
    expected = ["what", "how", "when", "where", "speed", "options"]
    assert [group for group in groups if group in expected] == expected
    flags = re.findall(r"^  --([\w-]+)", text, re.MULTILINE)
    unnamed = re.findall(r"^  ([A-Z]+)  ", text, re.MULTILINE)
    options = [*JOBS[stage].__dataclass_fields__, "job", "print_job"]
    found = [*flags, *map(str.lower, unnamed)]
    assert sorted(found) == sorted(option.replace("_", "-") for option in options)


def test_help_of_encode_begins_with_what_everybody_needs(capsys):
    flags = re.findall(r"^  --([\w-]+)", printed(capsys, "encode", "--help"), re.MULTILINE)
    assert flags[:3] == ["source", "sink", "model"]
    assert flags.index("resolution") < flags.index("resample") < flags.index("max-rejected")


@pytest.mark.parametrize(
    "command", ["convert", "diff", "doctor", "export", "inspect", "submit", "verify"]
)
def test_help_of_a_small_command_begins_with_what_has_no_name(command, capsys):
    lines = printed(capsys, command, "--help").splitlines()
    first = lines[lines.index("options:") + 1]
    assert re.match(r"  [A-Z{]", first)


def test_help_tells_what_may_change_between_runs_on_one_sink(capsys):
    text = " ".join(printed(capsys, "encode", "--help").split())
    parts = re.split(r" (what|how|when|where|speed): ", text)
    said = dict(zip(parts[1::2], parts[2::2], strict=True))
    may = {name for name, part in said.items() if "May change between runs on one sink." in part}
    assert may == {"when", "where", "speed"}


def test_help_has_the_defaults_of_a_job_definition(tmp_path, capsys):
    (tmp_path / "job.yaml").write_text("resolution: 128\n")
    text = printed(capsys, "encode", "--job", str(tmp_path / "job.yaml"), "--help")
    assert "(default: 128)" in text


def test_mistake_shows_the_option_that_was_meant_as_help_has_it(capsys):
    places = ("--source", "a", "--sink", "b", "--model", "c")
    with pytest.raises(SystemExit) as ended:
        cli.parse(["encode", *places, "--subfoldr", "x"])
    assert ended.value.code == 4
    said = capsys.readouterr().err
    assert "--subfolder STR" in said
    assert "None" not in said


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (["enc"], {"encode"}),
        (["encode", "--resol"], {"--resolution"}),
        (["encode", "--pri"], {"--print-job"}),
        (["decode", "--layout", "p"], {"parquet"}),
    ],
)
def test_completion_in_bash_completes_commands_options_and_choices(typed, found, tmp_path, capsys):
    script = tmp_path / "vqpipe"
    script.write_text(printed(capsys, "--completion", "bash"))
    words = " ".join(["vqpipe", *typed])
    asked = (
        f"source {script}; COMP_WORDS=({words}); COMP_CWORD={len(typed)}; "
        "$(complete -p vqpipe | sed 's/.*-F \\([^ ]*\\) .*/\\1/') vqpipe "
        f'"{typed[-1]}" "{[*typed, "vqpipe"][-3] if len(typed) > 1 else "vqpipe"}"; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == found


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_in_other_shells_names_all_commands(shell, capsys):
    text = printed(capsys, "--completion", shell)
    assert all(command in text for command in JOBS)
