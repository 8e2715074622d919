"""What a trainer's machine has to have: torch, numpy, pyarrow, fsspec, and little of ours."""

import subprocess
import sys
import textwrap

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
