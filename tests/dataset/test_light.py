"""What a trainer's machine has to have: torch, numpy, pyarrow, fsspec, and little of ours."""

import subprocess
import sys
import textwrap

import pytest

from tests.dataset.sinks import make

ABSENT = (
    *("PIL", "aiohttp", "boto3", "bracex", "docstring_parser", "huggingface_hub", "pandas", "ray"),
    *("requests", "rich", "s3fs", "safetensors", "tyro", "yaml"),
)
"""What a run needs, and a trainer does not."""
READ = """
    import sys
    import torch

    class Nothing:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in sys.argv[3].split(","):
                raise ModuleNotFoundError(f"no {name} here", name=name)

    sys.meta_path.insert(0, Nothing())
    import vqpipe
    data = vqpipe.CodesDataset(sys.argv[1], cache=sys.argv[2], filter="label < 5", batch_size=8)
    batches = [batch["codes"].shape for batch in data.loader(2)]
    print(len(batches))
"""


def test_dataset_needs_torch_numpy_pyarrow_and_fsspec_alone(tmp_path):
    make(tmp_path / "codes", [20, 30], views=2)
    words = [sys.executable, "-c", textwrap.dedent(READ)]

    done = subprocess.run(
        [*words, str(tmp_path / "codes"), str(tmp_path / "cache"), ",".join(ABSENT)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == "4\n"


COMMAND = """
    import sys

    class Nothing:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in sys.argv[1].split(","):
                raise ModuleNotFoundError(f"no {name} here", name=name)

    sys.meta_path.insert(0, Nothing())
    if sys.argv[2] == "command":
        from vqpipe.__main__ import main
        main()
    import vqpipe
    vqpipe.encode
"""


@pytest.mark.parametrize(("kind", "code"), [("command", 4), ("function", 1)])
def test_commands_without_their_packages_say_what_to_install(kind, code):
    words = [sys.executable, "-c", textwrap.dedent(COMMAND), ",".join(ABSENT), kind]

    done = subprocess.run(words, capture_output=True, text=True, check=False)

    assert done.returncode == code
    assert "pip install 'vqpipe[pipeline]'" in done.stderr
    assert kind == "function" or "Traceback" not in done.stderr


def test_dataset_that_decodes_without_the_packages_for_it_says_what_to_install(tmp_path):
    make(tmp_path / "codes", [20])
    said = textwrap.dedent(READ).replace("batch_size=8", "batch_size=8, decode=True")
    words = [sys.executable, "-c", said, str(tmp_path / "codes"), str(tmp_path / "cache")]

    done = subprocess.run([*words, ",".join(ABSENT)], capture_output=True, text=True, check=False)

    assert "decoding codes needs safetensors" in done.stderr
    assert "pip install 'vqpipe[pipeline]'" in done.stderr


def test_dataset_of_a_bucket_without_its_package_says_what_to_install(tmp_path):
    words = [sys.executable, "-c", textwrap.dedent(READ), "s3://bucket/codes", str(tmp_path)]

    done = subprocess.run([*words, "s3fs"], capture_output=True, text=True, check=False)

    assert "pip install s3fs" in done.stderr
