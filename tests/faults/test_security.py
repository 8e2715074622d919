"""What must not leak, what must be refused, and what the pinned packages must not be older than."""

import base64
import io
import os
import re
import tarfile
import tomllib
import uuid
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from packaging.requirements import Requirement

from tests import shell
from tests.makers import jpeg, tar_of
from vqpipe import storage
from vqpipe.commands import cli
from vqpipe.errors import ConfigError

ROOT = Path(__file__).parents[2]
SECRETS = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "MY_PASSWORD",
    "RAY_AUTH_TOKEN",
)
PASSWORD = "hunter2-f1e8"


@pytest.fixture
def secrets(monkeypatch):
    """Values that the environment of all commands holds, and nothing else may."""
    values = {name: f"canary{uuid.uuid4().hex}{uuid.uuid4().hex}" for name in SECRETS}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return values


@pytest.fixture
def store(bucket):
    """A bucket with a tar, one sample of which is bad, a checkpoint, and a broken one."""
    images = {f"{i}.jpg": jpeg(70, 64, seed=i) for i in range(3)} | {"bad.jpg": b"<html>"}
    storage.publish(f"{bucket}/source/0.tar", tar_of(images))
    for file in shell.CHECKPOINT.iterdir():
        if file.is_file():
            storage.publish(f"{bucket}/model/{file.name}", file.read_bytes())
    storage.publish(f"{bucket}/broken/config.json", b"{}")
    return bucket


def holders(data, secrets):
    """Returns the names of the secrets that bytes hold, plainly or in base64 at any offset."""
    found = [name for name, value in secrets.items() if value.encode() in data]
    for name, value in secrets.items():
        for shift in range(3):
            packed = base64.b64encode(b"_" * shift + value.encode())
            if packed[4:-4] in data:
                found.append(name)
    return found


def unpacked(uri):
    """Yields an object of a sink as it is, and for Parquet everything that it says."""
    data = storage.read(uri)
    yield data
    if uri.endswith(".parquet"):
        with pq.ParquetFile(io.BytesIO(data)) as file:
            yield repr(file.read().to_pylist()).encode()
            for value in (file.metadata.metadata or {}).values():
                yield value
                try:
                    plain = base64.b64decode(value, validate=True)
                    yield plain
                    yield zlib.decompress(plain)
                except (ValueError, zlib.error):
                    continue


def files_below(folder):
    return [path for path in Path(folder).rglob("*") if path.is_file() and not path.is_symlink()]


@pytest.mark.ray
@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.fault(32)
def test_secrets_are_in_nothing_that_is_printed_stored_or_logged(store, secrets, capfd):
    sink, source = f"{store}/sink", f"{store}/source"
    model = f"{store}/model"
    printed = {
        "complete": shell.encode(source, sink, "--max-rejected", 5, model=model),
        "stalled": shell.encode(
            source, f"{sink}3", "--device", "cuda", "--stall-timeout-s", 2, model=model, expect=5
        ),
    }
    places = ("--source", source, "--model", model, "--sink")
    here = {
        ("encode", *places, "s3://no-such-bucket/sink"): 4,
        ("encode", "--source", source, "--model", f"{store}/broken", "--sink", f"{sink}2"): 4,
        ("inspect", sink, "--rejected"): 0,
        ("verify", sink): 0,
        ("doctor", f"{store}/broken"): 4,
        ("doctor", "no-such/repository"): 4,
    }
    for arguments, code in here.items():
        assert cli.main(list(arguments)) == code, capfd.readouterr()
        printed[" ".join(arguments)] = "".join(capfd.readouterr())
    for name, text in printed.items():
        assert not holders(text.encode(), secrets), name
    objects = storage.list_files(store)
    assert {file.uri.rpartition("/")[2] for file in objects} >= {"run.json", "plan.parquet"}
    for file in objects:
        assert not any(holders(data, secrets) for data in unpacked(file.uri)), file.uri
    (logs,) = re.findall(r"Ray's logs are in (\S+)", printed["complete"])
    (stalled,) = re.findall(r"Ray's logs are in (\S+)", printed["stalled"])
    found = files_below(Path(logs).parent) + files_below(Path(stalled).parent)
    assert len(found) > 10
    leaks = {str(path): holders(path.read_bytes(), secrets) for path in found}
    assert not {path: names for path, names in leaks.items() if names}


@pytest.mark.parametrize("shift", range(3))
def test_holders_finds_what_is_packed(shift):
    secrets = {"A": "canary" + "0123456789abcdef" * 2}
    packed = base64.b64encode(b"x" * shift + secrets["A"].encode() + b"more")
    assert holders(b"around " + packed, secrets) == ["A"]
    assert holders(b"A=" + secrets["A"].encode(), secrets) == ["A"]
    assert not holders(b"canary", secrets)


HERE = {"source": "/nowhere", "sink": "/nowhere-else", "model": str(shell.CHECKPOINT)}


def refusal(capsys, *arguments):
    assert cli.main([str(argument) for argument in arguments]) == 4
    return capsys.readouterr().err


def encode_options(**changed):
    return [part for name, value in (HERE | changed).items() for part in (f"--{name}", value)]


@pytest.mark.fault(32)
@pytest.mark.parametrize("option", ["source", "sink", "model", "model-config"])
def test_url_with_a_password_is_refused_and_not_repeated(capsys, option):
    arguments = encode_options(**{option: f"s3://user:{PASSWORD}@bucket/{{0..3}}.tar"})
    for command in (
        ["encode", *arguments],
        ["submit", "encode", "--address", "http://127.0.0.1:1", "--", *arguments],
    ):
        printed = refusal(capsys, *command)
        assert "credentials" in printed
        assert PASSWORD not in printed


SCHEMES = ["http", "https", "ftp", "sftp", "hf", "memory", "simplecache::s3"]


@pytest.mark.fault(32)
@pytest.mark.parametrize("scheme", [*SCHEMES, "s3", "gs", "az", "abfs", "file", "S3"])
def test_uri_of_another_scheme_or_with_a_password_is_refused_and_not_repeated(scheme):
    with pytest.raises(ConfigError) as caught:
        storage.normalise_uri(f"{scheme}://user:{PASSWORD}@host/x")
    assert PASSWORD not in str(caught.value)
    assert ("s3://" in str(caught.value)) == (scheme in SCHEMES) or scheme.lower() == "s3"


@pytest.mark.fault(32)
@pytest.mark.parametrize("option", ["source", "sink", "model"])
def test_scheme_outside_the_list_is_refused(capsys, option):
    printed = refusal(capsys, "encode", *encode_options(**{option: "https://host/x"}))
    assert "https:// is not supported" in printed


@pytest.mark.fault(32)
def test_submit_address_with_a_password_is_refused_and_not_repeated(capsys):
    address = f"http://user:{PASSWORD}@127.0.0.1:1"
    printed = refusal(capsys, "submit", "encode", "--address", address, "--", *encode_options())
    assert "RAY_AUTH_TOKEN_PATH" in printed
    assert PASSWORD not in printed


STRANGE = [
    "a/b",
    "../../../tmp/escaped",
    "/absolute",
    "..",
    "nul\0in it",
    "line\nand\rreturn\ttab",
    "k" * 4096,
    "emoji 🎉 é",
    "\x1b[31mred",
    "' OR 1=1; --",
]


def strange_tar(images):
    """Returns a tar of strange keys, one not UTF-8, each with text and objects; one key twice."""
    members = [(f"{key}/x.jpg", images[0]) for key in STRANGE if "\0" not in key]
    header = tarfile.TarInfo("short.jpg")  # whose own field would end at the NUL
    header.pax_headers = {"path": "nul\0in it/x.jpg"}
    members.append((b"caf\xe9/x.jpg".decode("utf-8", "surrogateescape"), images[0]))
    members.append(("a/b/x.jpg", images[1]))
    objects = [(f"{name}.{kind}", b"cos\nsystem\n(S'touch ran'\ntR.") for name, _ in members
               for kind in ("pkl", "pt", "npy")]  # fmt: skip
    return tar_of([*members, (header, images[0]), *objects])


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault(25, 26)
@pytest.mark.parametrize("kind", ["tar", pytest.param("parquet", marks=pytest.mark.soak)])
def test_strange_keys_end_up_in_parquet_unharmed(tmp_path, capsys, kind):
    (tmp_path / "source").mkdir()
    images = [jpeg(70, 64, seed=seed) for seed in range(2)]
    keys = [*STRANGE, "a/b"]
    if kind == "tar":
        (tmp_path / "source" / "0.tar").write_bytes(strange_tar(images))
        expected = sorted([*(f"{key}/x" for key in STRANGE), "caf\\xe9/x"])
    else:
        table = pa.table({"id": keys, "jpg": [images[0]] * len(keys)})
        pq.write_table(table, tmp_path / "source" / "0.parquet")
        expected = sorted(STRANGE)
    before = {path: path.read_bytes() for path in files_below(tmp_path / "source")}
    options = ("--key", "id") if kind == "parquet" else ()
    sink = tmp_path / "sink"
    shell.encode(tmp_path / "source", sink, "--max-rejected", 100, *options)
    assert sorted(row["key"] for row in shell.rows(sink, columns="key, row")) == expected
    rejected = shell.rows(sink, "rejected")
    assert "duplicate_key" in {row["reason"] for row in rejected}
    assert {row["reason"] for row in rejected} <= {"duplicate_key", "no_image"}
    assert {path.stem for path in (sink / "data").rglob("*.parquet")} == {"0"}
    assert {path: path.read_bytes() for path in files_below(tmp_path / "source")} == before
    assert {path.name for path in tmp_path.iterdir()} == {"source", "sink"}
    capsys.readouterr()
    assert cli.main(["inspect", str(sink), "--rejected"]) == 0
    assert "\x1b" not in "".join(capsys.readouterr())


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "0.tar").write_bytes(tar_of({"0.jpg": jpeg(70, 64)}))
    return tmp_path / "source"


@pytest.mark.fault(31)
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"source": ""}, "empty"),
        ({"sink": " "}, "empty"),
        ({"source": "{}/none"}, "holds nothing to read"),
        ({"source": "{}/empty"}, "no files at all"),
        ({"source": "{}/source/*.parquet"}, "holds nothing to read"),
        ({"source": "{}/source/[!0].tar"}, "holds nothing to read"),
        ({"source": "{}/source/{{0,1}}.tar"}, "restore them"),
        ({"source": "{}/texts"}, "2 .txt"),
        ({"sink": "{}/source"}, "beside"),
        ({"sink": "{}/source/codes"}, "beside"),
        ({"sink": "{}/source/../source/codes"}, "beside"),
        ({"sink": "{}/source/0.tar/codes"}, "0.tar"),
        ({"sink": "/dev/null/codes"}, "/dev/null"),
    ],
)
def test_source_or_sink_that_cannot_work_exits_4_before_ray_starts(
    source, tmp_path, capsys, given, words
):
    for name in ("empty", "texts"):
        (tmp_path / name).mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "texts" / name).touch()
    before = {path: path.read_bytes() for path in files_below(source)}
    places = {"source": str(source), "sink": str(tmp_path / "sink")}
    places |= {name: place.format(tmp_path) for name, place in given.items()}
    printed = refusal(capsys, "encode", *encode_options(**places), "--resolution", 64)
    assert words in printed
    assert "Ray" not in printed
    assert {path: path.read_bytes() for path in files_below(source)} == before


@pytest.mark.fault(31)
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_sink_in_a_folder_that_may_not_be_written_exits_4_before_ray_starts(
    source, tmp_path, capsys
):
    (tmp_path / "closed").mkdir(mode=0o500)
    places = {"source": str(source), "sink": str(tmp_path / "closed" / "sink")}
    printed = refusal(capsys, "encode", *encode_options(**places), "--resolution", 64)
    assert "closed" in printed
    assert "Ray" not in printed


def requirements(lines):
    return {each.name.lower(): each for each in map(Requirement, lines)}


def test_pins_are_at_or_above_all_floors_and_pyproject_asks_for_no_older_ones():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = requirements(line for line in lines if line and not line.startswith("#"))
    found = [re.match(r"# (\S+>=\S+): (?=.*(CVE|PYSEC|GHSA)-)", line) for line in lines]
    floors = requirements(match[1] for match in found if match)
    assert floors.keys() >= {"ray", "torch", "pyarrow", "pillow", "aiohttp"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = requirements([*project["dependencies"], *project["optional-dependencies"]["test"]])
    for name, pin in pins.items():
        (version,) = (each.version for each in pin.specifier)
        for wanted in (floors.get(name), asked.get(name)):
            assert wanted is None or wanted.specifier.contains(version), f"{pin} but {wanted}"
    for name in floors.keys() & asked.keys() - {"torch"}:  # CUDA users bring theirs; see tensors.py
        (floor,) = floors[name].specifier
        lowest = min(each.version for each in asked[name].specifier if each.operator == ">=")
        assert floors[name].specifier.contains(lowest), f"{asked[name]}, but {floor} is needed"
    assert floors.keys() <= pins.keys()
