"""The README's table of tokenizers: every command in it, on a small checkpoint of that very model.

A hub on this machine has small checkpoints under the names that the table says, in the files that
they are published in. Encode and decode do all that they do but the graph on Ray (`tests.plain`),
in a process whose client of the hub asks this one, and evaluate does for a third of the rows;
`make soak` has all of them with Ray.
"""

import copy
import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import shell
from tests.codec.models import make_unit
from tests.hub import server as hub_server
from tests.tokenizers.published import (
    chameleon,
    ibq,
    llamagen,
    magvit,
    maskgit,
    movqgan,
    rqvae,
    titok,
    var,
)
from vqpipe import schema
from vqpipe.codec.config import SCALE_SHIFT
from vqpipe.codec.weights import Weights
from vqpipe.images import Preprocess, View, open_image, square

ROOT = Path(__file__).parents[2]
PHOTOS = ROOT / "pipeline" / "vqpipe" / "codec" / "probes"
README = (ROOT / "README.md").read_text()
ROW = re.compile(r"^\| (?P<models>[^|]+) \| `(?P<options>--model [^`]+)` \| (?P<rest>.*) \|$", re.M)
ROWS = {row["options"]: row for row in ROW.finditer(README)}
"""By what is said to `vqpipe encode`."""


class Diffusers:
    """A model as diffusers reads it."""

    def __init__(self, folder):
        import diffusers

        self.model = diffusers.VQModel.from_pretrained(folder, low_cpu_mem_usage=False).eval()

    def double(self):
        """In float64, as a module says it."""
        self.model.double()
        return self

    def encode(self, x):
        latents = self.model.encode(x).latents
        return self.model.quantize(latents)[2][2].view(len(x), *latents.shape[2:])

    def decode(self, codes):
        shape = (*codes.shape, self.model.quantize.vq_embed_dim)
        vectors = self.model.quantize.get_codebook_entry(codes.flatten(), shape)
        return self.model.decode(vectors, force_not_quantize=True).sample


def signed(folder):
    """The demo's checkpoint."""
    shutil.copytree(shell.CHECKPOINT, folder, dirs_exist_ok=True)
    return Diffusers(folder)


def unit(folder):
    """The same, for pixels in [0, 1]."""
    make_unit().save_pretrained(folder)
    return Diffusers(folder)


def movq(folder):
    """A decoder with spatial norms, as diffusers names it."""
    (folder / "published").mkdir()
    weights = Weights.load(movqgan.write(folder / "published", movqgan.make_faithful()))
    shutil.rmtree(folder / "published")
    for name, data in weights.files.items():
        (folder / name).write_bytes(data)
    return movqgan.make_faithful()


def taming(folder):
    """Chameleon's, which computes as taming's do, in the folders of taming-transformers."""
    net, root = chameleon.make_faithful(), folder.parent
    chameleon.write(root, net)
    (root / "configs").mkdir()
    (root / "tokenizer" / "vqgan.ckpt").rename(folder / "last.ckpt")
    (root / "tokenizer" / "vqgan.yaml").rename(root / "configs" / "model.yaml")
    return net


def put(make, write):
    """Returns what writes a net into a folder, and returns it."""

    def write_net(folder):
        net = make()
        write(folder, net)
        return net

    return write_net


def put_ibq(folder):
    """On the hub, a name alone lies beside IBQ's weights."""
    net = ibq.make_faithful()
    ibq.write(folder, net)
    (folder / "imagenet_ibqgan_16384.yaml").unlink()
    (folder / "config.json").write_text('{"Name": ["IBQ"]}')
    return net


def put_chameleon(folder):
    """Chameleon's writer makes the folder of the tokenizer itself."""
    net = chameleon.make_faithful()
    chameleon.write(folder.parent, net)
    return net


FAITHFUL = {
    "Alpha-VLLM/Lumina-DiMOO": (unit, "unit"),
    "amused/amused-256": (unit, "unit"),
    "MeissonFlow/Meissonic": (unit, "unit"),
    "kandinsky-community/kandinsky-2-1": (movq, "signed"),
    "vqgan_imagenet_f16_16384": (taming, "signed"),
    "CompVis/ldm-celebahq-256": (signed, "signed"),
    "FoundationVision/LlamaGen": (put(llamagen.make_faithful, llamagen.write), "signed"),
    "deepseek-ai/Janus-Pro-1B": (put(llamagen.make_faithful, llamagen.write_janus), "signed"),
    "GAIR/Anole-7b-v0.1": (put_chameleon, "signed"),
    "TencentARC/IBQ-Tokenizer-16384": (put_ibq, "signed"),
    "BAAI/Emu3.5-VisionTokenizer": (put(ibq.make_faithful, ibq.write_emu), "signed"),
    "fun-research/TiTok": (put(maskgit.make_faithful, maskgit.write), "unit"),
    "showlab/magvitv2": (put(magvit.make_faithful, magvit.write_safetensors), "signed"),
    "ai-forever/MoVQGAN": (put(movqgan.make_faithful, movqgan.write), "signed"),
    "yucornetto/tokenizer_titok_l32_imagenet": (
        put(functools.partial(titok.make_faithful, True), titok.write),
        "unit",
    ),
    "FoundationVision/var": (put(var.make_faithful, var.write), "signed"),
    "imagenet_rqvae": (put(rqvae.make_faithful, rqvae.write), "signed"),
}
"""Of each model in the table, what writes a small one, and the range of its pixels."""
SIDE = {"yucornetto/tokenizer_titok_l32_imagenet": 64, "FoundationVision/var": 256}
"""Of the pictures where the network has one of its own; else 64 pixels."""

CLOSE = {"imagenet_rqvae": 0.005}
"""Share of codes that may differ where what is left for the last is nearly nothing, so that
distances in float32 are rounded to ties; `tests.tokenizers` has exact ones of others."""


def name_of(options):
    """Returns the repository or the folder that a row's model is in."""
    model = shlex.split(options)[1].removeprefix("hf://")
    return model if model in FAITHFUL else next(name for name in FAITHFUL if model.startswith(name))


def place_of(options, root):
    """Returns the folder in which the files of a row's model are to be, and the file it names."""
    words = shlex.split(options)
    model = words[1].removeprefix("hf://")
    rest = model.removeprefix(name_of(options)).strip("/")
    inside = words[words.index("--subfolder") + 1] if "--subfolder" in words else ""
    file = root / name_of(options) / inside / rest
    return (file.parent, file) if rest else (file, None)


class Made:
    """All models of the table as small ones: in a hub, or in the folder where commands run."""

    def __init__(self, root):
        self.root, self.nets = root, {}
        for options in ROWS:
            folder, file = place_of(options, root)
            folder.mkdir(parents=True)
            self.nets[options] = FAITHFUL[name_of(options)][0](folder)
            assert file is None or file.is_file(), f"{file} is not how it is published"

    def repositories(self):
        """Returns what the hub has."""
        return {name: {"main": files_of(self.root / name)} for name in FAITHFUL if "/" in name}

    def hide_repositories(self):
        """Takes them away from where commands run: a folder there would come before the hub."""
        for organisation in {name.split("/")[0] for name in FAITHFUL if "/" in name}:
            shutil.rmtree(self.root / organisation)


def files_of(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def commands_of(options, folder):
    """Returns the three commands of a row; resolution aside, the first is the README's."""
    words = shlex.split(options)
    if "--resolution" in words:
        at = words.index("--resolution")
        del words[at : at + 2]
    side = str(SIDE.get(name_of(options), 64))
    codes, images = f"{folder}/codes", f"{folder}/images"
    places = ["--source", "photos", "--sink", codes]
    decode = ["decode", "--source", codes, "--sink", images, "--format", "png"]
    return [
        ["encode", *places, *words, "--resolution", side],
        [*decode, "--layout", "folder"],
        ["evaluate", "--source", codes],
    ]


def run_plain(commands, environment, home):
    """Runs commands in one process, without Ray."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.plain"],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        env=environment,
        cwd=home,
    )
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stdout.splitlines()[-1])
    assert codes == [0] * len(commands), (commands[len(codes) - 1], done.stdout + done.stderr)


def run_on_ray(commands, environment, home):
    """Runs commands as a user does."""
    for command in commands:
        shell.finish(shell.start(*command, cwd=home, environment=environment))


def environment_of(endpoint, home):
    """Returns the variables of a process that knows of no hub but ours."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home / "cache"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'pipeline'}",
    }


RAY = pytest.param((run_on_ray, 1), marks=[pytest.mark.soak, pytest.mark.ray])


@pytest.fixture(scope="module", params=[(run_plain, 3), RAY], ids=["plain", "ray"])
def made(request, tmp_path_factory):
    """The models, the photos, and what the commands of all rows have made of these."""
    run, step = request.param
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(PHOTOS, home / "photos", ignore=shutil.ignore_patterns("*.md"))
    made = Made(home)
    made.evaluated = range(0, len(ROWS), step)
    with hub_server.serve(made.repositories()) as (endpoint, _):
        made.hide_repositories()
        commands = [
            each
            for i, row in enumerate(ROWS)
            for each in commands_of(row, f"run{i}")[: 3 if i in made.evaluated else 2]
        ]
        run(commands, environment_of(endpoint, home), home)
    return made


def views_of(side, resample):
    """Returns the photos as encode sees them, by key: (1, 3, side, side) float64 in 0..1."""
    views = {}
    for path in PHOTOS.glob("*.jpg"):
        view = open_image(path.read_bytes(), Preprocess(square(side), resample))
        assert isinstance(view, View)
        views[path.name] = torch.tensor(view.pixels).permute(2, 0, 1)[None].double() / 255
    return views


def test_table_names_models_that_are_tried():
    assert len(ROWS) == len(FAITHFUL)
    assert {name_of(options) for options in ROWS} == set(FAITHFUL)


@pytest.mark.slow
@pytest.mark.parametrize("options", ROWS)
@torch.no_grad()
def test_row_of_the_table_encodes_and_decodes_as_its_model_does(options, made):
    net, (_, pixel_range) = made.nets[options], FAITHFUL[name_of(options)]
    home, place = made.root, list(ROWS).index(options)
    said = json.loads((home / f"run{place}/codes/run.json").read_bytes())
    assert said["identity"]["pixel_range"] == pixel_range
    scale, shift = SCALE_SHIFT[pixel_range]
    found = shell.rows(home / f"run{place}/codes")
    resample = "lanczos" if "--resample lanczos" in options else "bicubic"
    views = views_of(SIDE.get(name_of(options), 64), resample)
    assert {row["key"] for row in found} == views.keys()
    exactly = copy.deepcopy(net).double()  # where two entries are as near, float32 would decide
    for row in found:
        expected = exactly.encode(views[row["key"]] * scale + shift)
        codes = torch.tensor(row["codes"]).view(expected.shape)
        wrong = codes != expected
        if wrong.any():  # how float32 rounds is a matter of the processor
            wrong &= ~find_ties(exactly, views[row["key"]] * scale + shift, expected)
        assert wrong.double().mean() <= CLOSE.get(name_of(options), 0)
        pixels = (net.decode(codes)[0] - shift) / scale
        image = np.asarray(Image.open(picture_of(home / f"run{place}/images", row["key"])))
        exact = pixels.clamp(0, 1).permute(1, 2, 0).numpy() * 255
        assert np.abs(image - exact).max() < 0.5 + 255e-5 / scale
    column = schema.pa.list_(schema.code_type(said["codebook_size"]), len(found[0]["codes"]))
    card = (home / f"run{place}/codes/README.md").read_text()
    assert f"entries of the codebook, {said['layout']['order']};" in card
    assert {str(column)} == types_of(home / f"run{place}/codes")
    if place in made.evaluated:
        said = json.loads((home / f"run{place}/codes/evaluation.json").read_bytes())
        assert said["samples"] == 4


NOISE, DRAWS = 1e-5, 8


def find_ties(net, pixels, expected):
    """Returns where two entries are as near: as much noise as float32 rounds by decides there."""
    noisy = (net.encode(pixels + NOISE * torch.randn_like(pixels)) for _ in range(DRAWS))
    ties = torch.stack([each != expected for each in noisy]).any(0)
    assert ties.double().mean() < 0.02
    return ties


def picture_of(folder, key):
    (path,) = folder.rglob(f"{Path(key).stem}.png")
    return path


def types_of(sink):
    """Returns the types of the column of codes in all objects, as Arrow reads them."""
    import pyarrow.parquet as pq

    schemas = [pq.read_schema(path) for path in (sink / "data").rglob("*.parquet")]
    return {str(each.field("codes").type).replace("<element:", "<item:") for each in schemas}
