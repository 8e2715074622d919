import os
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import plain, shell
from tests.makers import jpeg, tar_of
from tests.vqgan import compvis
from vqpipe.commands import cli
from vqpipe.commands.cluster_jobs import Submit
from vqpipe.rejections import Reason

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line]


@pytest.fixture(scope="module")
def home(tmp_path_factory, s3_server):
    """A folder and a bucket as the README's reader may have them."""
    import boto3

    home = tmp_path_factory.mktemp("home")
    (home / "photos").mkdir()
    (home / "tars").mkdir()
    for i in range(3):
        (home / "photos" / f"{i}.jpg").write_bytes(jpeg(70, 60, seed=i))
    for i in range(2):
        members = {f"{i}.jpg": jpeg(60, 60, seed=i), f"{i}.txt": b"a caption"}
        (home / "tars" / f"{i:03d}.tar").write_bytes(tar_of(members))
    (home / "laion").mkdir()
    columns = {"image": [jpeg(300, 280, seed=i) for i in range(3)], "punsafe": [0.0, None, 0.4]}
    pq.write_table(pa.table(columns), home / "laion" / "00000.parquet")
    shutil.copytree(shell.CHECKPOINT, home / "vqgan")
    compvis.write_taming(home / "taming")
    s3 = boto3.client("s3", endpoint_url=s3_server)
    s3.create_bucket(Bucket=home_bucket())
    for path in [*(home / "tars").iterdir(), *(home / "vqgan").iterdir()]:
        s3.upload_file(str(path), home_bucket(), f"{path.parent.name}/{path.name}")
    return home


_BUCKET = f"my-bucket-{uuid.uuid4().hex[:8]}"


def home_bucket():
    return _BUCKET


def in_shell(command, home):
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_ADDRESS": "",
    }
    command = command.replace("s3://my-bucket/", f"s3://{home_bucket()}/")
    return subprocess.run(
        ["bash", "-c", command], cwd=home, env=environment, capture_output=True, text=True
    )


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.s3
@pytest.mark.slow
def test_readme_commands_and_snippets_run_in_order(home, monkeypatch):
    monkeypatch.setenv("VQPIPE_CACHE", str(home / "cache"))
    for command in COMMANDS:
        if command.startswith(("vqpipe submit", "vqpipe push")):
            continue  # goes to what is not ours; test_submit.py and test_push.py have their own
        done = in_shell(command, home)
        assert done.returncode == 0, done.stdout + done.stderr
    for snippet in blocks("python"):
        done = subprocess.run(
            [sys.executable, "-c", snippet],
            cwd=home,
            env=shell.environment_of_a_person(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_readme_snippets_read_the_codes_of_its_first_command(home, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.setenv("VQPIPE_CACHE", str(home / "cache"))
    first = next(command for command in COMMANDS if command.startswith("vqpipe encode "))
    if not Path("codes").exists():  # made with Ray by the test of all commands, if that has run
        assert plain.run([shlex.split(first)[1:]]) == [0]
    needles = "codes/run.json", "CodesDataset"  # tests/project/test_readers.py runs the others
    readers = [each for each in blocks("python") if any(needle in each for needle in needles)]
    assert len(readers) == 2
    for snippet in readers:
        done = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_readme_commands_are_understood():
    commands = [shlex.split(command)[1:] for command in COMMANDS if command.startswith("vqpipe ")]
    assert len(commands) > 15
    for command in commands:
        cli.parse(command)  # ends the process where it is not


def test_readme_submit_command_is_understood():
    found = [command for command in COMMANDS if command.startswith("vqpipe submit")]
    assert len(found) == 1
    job = cli.parse(shlex.split(found[0])[1:])
    assert isinstance(job, Submit)
    assert job.command == "encode"


def test_readme_make_targets_exist():
    targets = set(re.findall(r"^make (\w+)|`make (\w+)`", README, re.MULTILINE))
    assert len(targets) >= 4
    for target in map("".join, targets):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, (target, done.stderr)


def test_readme_explains_every_reason_for_a_rejection_in_its_words():
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", README, re.MULTILINE)
    assert rows == [(reason.value, reason.meaning) for reason in Reason]


def test_readme_names_only_files_that_exist():
    names = re.findall(r"`((?:pipeline|jobs|infra|tests)/[\w/.]*)`", README)
    names += re.findall(r"\]\(([\w/.]+)\)", README)
    assert len(names) > 15
    missing = [name for name in names if not (ROOT / name).exists()]
    assert not missing
