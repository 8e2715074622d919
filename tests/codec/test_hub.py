import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load, save

from tests import shell
from tests.hub import server as hub_server
from tests.makers import jpeg
from tests.vqgan import compvis
from vqpipe.codec.weights import Weights
from vqpipe.hub.names import is_repository, parse_hub_file
from vqpipe.vqgan.files import CONFIG_FILE, PICKLE_FILE, WEIGHTS_FILE

DEMO = {name: (shell.CHECKPOINT / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE)}
HALF = save({name: tensor.half() for name, tensor in load(DEMO[WEIGHTS_FILE]).items()})


def make_shards():
    state = load(DEMO[WEIGHTS_FILE])
    names = sorted(state)
    halves = {"first.safetensors": names[::2], "second.safetensors": names[1::2]}
    index = {"metadata": {}, "weight_map": {n: file for file, ns in halves.items() for n in ns}}
    files = {file: save({name: state[name] for name in ns}) for file, ns in halves.items()}
    return files | {f"{WEIGHTS_FILE}.index.json": json.dumps(index).encode()}


OLD = {CONFIG_FILE: DEMO[CONFIG_FILE], PICKLE_FILE: compvis.save(load(DEMO[WEIGHTS_FILE]))}
PIPELINE = {
    "model_index.json": b"{}",
    "README.md": b"# A pipeline",
    "unet/diffusion_pytorch_model.safetensors": b"large",
    **{f"vqvae/{name}": data for name, data in DEMO.items()},
    f"vqvae/{PICKLE_FILE}": b"not wanted",
    "vqvae/diffusion_pytorch_model.fp16.safetensors": HALF,
    **{f"sharded/{name}": data for name, data in make_shards().items()},
    f"sharded/{CONFIG_FILE}": DEMO[CONFIG_FILE],
}
REPOSITORIES = {
    "org/pipeline": {"main": PIPELINE, "old": {f"vqvae/{n}": d for n, d in OLD.items()}},
    "org/gated": "GatedRepo",
    "org/broken": "InternalError",
}
LOAD = """
import json, sys
from vqpipe.errors import VqpipeError
from vqpipe.codec.weights import Weights
for options in json.loads(sys.argv[1]):
    try:
        weights = Weights.load(**options)
        print(json.dumps([weights.where, weights.commit, weights.sha256()]))
    except VqpipeError as error:
        print(json.dumps([type(error).__name__, error.exit_code, error.message]))
"""


def load_all(endpoint, cache, asked, offline=False):
    """Loads in a process of its own: the client reads the environment once, when it is imported."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    asked = [{"model": "org/pipeline", **options} for options in asked]
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(asked)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=cache,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def load_elsewhere(endpoint, cache, offline=False, **options):
    return load_all(endpoint, cache, [options], offline)[0]


@pytest.fixture(scope="module")
def server():
    with hub_server.serve(REPOSITORIES) as (endpoint, _):
        yield endpoint


@pytest.fixture(scope="module")
def sha256():
    return Weights.load(str(shell.CHECKPOINT)).sha256()


@pytest.mark.soak
def test_hub_checkpoint_is_fetched_once_and_then_served_by_the_cache(tmp_path, sha256):
    commit = hub_server.commit_of(PIPELINE)
    expected = ["org/pipeline/vqvae", commit, sha256]
    with hub_server.serve(REPOSITORIES) as (endpoint, fetched):
        assert load_elsewhere(endpoint, tmp_path, subfolder="vqvae") == expected
        names = {path.rpartition(commit)[2] for path in fetched}
        assert names == {f"/vqvae/{CONFIG_FILE}", f"/vqvae/{WEIGHTS_FILE}"}
        fetched.clear()
        assert load_elsewhere(endpoint, tmp_path, subfolder="vqvae", revision=commit) == expected
        assert not fetched
    for offline in (False, True):  # the server is gone
        assert load_elsewhere(endpoint, tmp_path, offline, subfolder="vqvae") == expected
    kind, code, message = load_elsewhere(
        endpoint, tmp_path, True, subfolder="vqvae", variant="fp16"
    )
    assert (kind, code) == ("CheckpointError", 4)
    assert "org/pipeline" in message


def test_hub_shards_variant_and_pickle_of_a_branch_are_fetched(server, tmp_path, sha256):
    shards, half, pickle = load_all(
        server,
        tmp_path,
        [
            {"subfolder": "sharded"},
            {"subfolder": "vqvae/", "variant": "fp16"},
            {"subfolder": "vqvae", "revision": "old"},
        ],
    )
    commit = hub_server.commit_of(PIPELINE)
    assert shards == ["org/pipeline/sharded", commit, sha256]
    half_files = {CONFIG_FILE: DEMO[CONFIG_FILE], WEIGHTS_FILE: HALF}
    assert half == ["org/pipeline/vqvae", commit, Weights(half_files, "here").sha256()]
    old = hub_server.commit_of(REPOSITORIES["org/pipeline"]["old"])
    assert pickle == ["org/pipeline/vqvae", old, sha256]


REFUSED = [
    ({"model": "org/gated"}, "HF_TOKEN"),
    ({"model": "org/missing"}, "org/missing"),
    ({"revision": "nowhere"}, "'nowhere'"),
    ({"model": "org/broken"}, "org/broken"),
    ({"model": "org/bad..name"}, "org/bad..name"),
    ({"subfolder": "vqvae", "variant": "bf16"}, "diffusion_pytorch_model.bf16.safetensors"),
    ({"subfolder": "unet"}, f"org/pipeline/unet/{CONFIG_FILE}"),
    ({"subfolder": "nowhere"}, "org/pipeline/nowhere"),
    ({"subfolder": "../vqvae"}, "org/pipeline/../vqvae"),
]


@pytest.fixture(scope="module")
def refusals(server, tmp_path_factory):
    return load_all(server, tmp_path_factory.mktemp("hub"), [options for options, _ in REFUSED])


@pytest.mark.parametrize("case", range(len(REFUSED)), ids=[str(case[0]) for case in REFUSED])
def test_hub_that_does_not_give_it_is_one_checkpoint_error(case, refusals):
    kind, code, message = refusals[case]
    assert (kind, code) == ("CheckpointError", 4)
    assert REFUSED[case][1] in message
    assert "\n" not in message


@pytest.mark.parametrize("offline", [False, True])
def test_hub_out_of_reach_and_nothing_cached_is_one_checkpoint_error(offline, tmp_path):
    kind, code, message = load_elsewhere("http://127.0.0.1:9", tmp_path, offline)
    assert (kind, code) == ("CheckpointError", 4)
    assert "org/pipeline" in message


def test_hub_folder_of_that_name_here_comes_first(tmp_path, sha256):
    folder = tmp_path / "org" / "pipeline"
    folder.mkdir(parents=True)
    for name, data in DEMO.items():
        (folder / name).write_bytes(data)
    assert load_elsewhere("http://127.0.0.1:9", tmp_path) == [str(folder), None, sha256]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/name", True),
        ("CompVis/ldm-celebahq_1.0", True),
        ("name", False),
        ("./org/name", False),
        ("/org/name", False),
        ("~/name", False),
        ("org/name/", False),
        ("a/b/c", False),
        ("s3://bucket/name", False),
    ],
)
def test_hub_is_repository_tells_names_from_paths(name, expected):
    assert is_repository(name) == expected


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("hf://org/judge/a.pth", True),
        ("hf://org/judge@v1/nets/a@2.pth", True),
        ("hf://judge/a.pth", False),
        ("hf://org/judge", False),
        ("hf://user:word@org/judge/a.pth", False),
        ("hf://user:word/judge/a.pth", False),
        ("hf://org/judge@user:word/a.pth", False),
        ("hf://org/judge@user:word@hub/a.pth", False),
        ("hf:///judge/a.pth", False),
    ],
)
def test_parse_hub_file_takes_a_file_of_a_repository_and_nothing_else(where, expected):
    assert (parse_hub_file(where) is not None) is expected


def test_hub_client_is_not_imported_before_it_is_needed():
    code = "import sys, vqpipe.commands.encode; sys.exit('huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.slow
def test_encode_with_a_model_of_the_hub_records_its_commit(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(jpeg(70, 60))
    sink, options = tmp_path / "sink", ("--subfolder", "vqvae")
    shell.encode(tmp_path / "photos", sink, *options, model="org/pipeline")
    run = json.loads((sink / "run.json").read_bytes())
    assert run["model"] == "org/pipeline/vqvae"
    assert run["model_commit"] == hub_server.commit_of(PIPELINE)
