"""The steps: what each is, and how long it may take."""

from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[3]
MODELS = {"movq": "MoVQ f8", "amused": "aMUSEd f16", "ldm": "LDM f4", "taming": "taming f16"}
"""Names of published architectures, by what a step calls them."""
_HERE = "tests.benchmarks"
_PYTEST = ("-q", "-p", "no:cacheprovider", "--timeout", "240", "--tb", "short")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One process."""

    name: str
    call: int
    """Which of the calls it belongs to; steps of a call are in order of worth."""
    module: str
    arguments: tuple[str, ...] = ()
    limit_s: float = 60.0
    """When it is ended."""
    enough_s: float = 20.0
    """With less than this left of the budget it is not begun."""
    needs_ray: bool = False
    needs_gpu: bool = True

    @property
    def is_tests(self) -> bool:
        """Whether it is pytest, which takes no device and nothing tiny."""
        return self.module == "pytest"


def _find_tests(*, on_ray):
    """Returns the files that have tests for a GPU, and need Ray or do not.

    The others need more than a GPU machine has, so they are not even collected.
    """
    texts = {path: path.read_text() for path in sorted((ROOT / "tests").rglob("test_*.py"))}
    marked = [path for path, text in texts.items() if "mark.gpu" in text]
    chosen = [path for path in marked if ("mark.ray" in texts[path]) == on_ray]
    return tuple(str(path.relative_to(ROOT)) for path in chosen)


def _tests(name, call, *selection, limit_s, on_ray=False):
    return Step(
        name=name,
        call=call,
        module="pytest",
        arguments=(*_PYTEST, *_find_tests(on_ray=on_ray), *selection),
        limit_s=limit_s,
        enough_s=30.0,
        needs_ray=on_ray,
    )


def _codec(name):
    words = ("--configs", MODELS[name].split()[0], "--resolutions", "256", "--sides", *_SIDES)
    words = (*words, "--seconds", "2", "--rounds", "2")
    step = Step(name=f"codec {name}", call=2, module=f"{_HERE}.codec", arguments=words)
    return replace(step, limit_s=150.0, enough_s=60.0)


def _whole(cores):
    words = ("--cores", str(cores))
    step = Step(name=f"whole {cores}", call=3, module=f"{_HERE}.gpu.whole", arguments=words)
    return replace(step, limit_s=200.0, enough_s=90.0, needs_ray=True)


_SIDES = ("ours bfloat16", "ours bfloat16 eager", "diffusers float32", "diffusers bfloat16")
NEAREST = ("65536x16384x4", "16384x16384x256", "65536x262144x8")
"""Rows, entries and channels: a batch of 64 at 256 px of MoVQ, of taming, and a huge codebook."""

STEPS = (
    Step(name="facts", call=1, module=f"{_HERE}.gpu.facts", needs_gpu=False),
    Step(name="ceilings", call=1, module=f"{_HERE}.gpu.ceilings"),
    _tests("tests eager", 1, "-m", "gpu and not slow", "-k", "not compiled", limit_s=150.0),
    Step(
        name="model",
        call=1,
        module=f"{_HERE}.gpu.model",
        arguments=("--config", MODELS["movq"]),
        limit_s=180.0,
        enough_s=60.0,
    ),
    Step(name="layers", call=1, module=f"{_HERE}.gpu.layers", limit_s=90.0),
    _tests("tests compiled", 1, "-m", "gpu and not slow", "-k", "compiled", limit_s=240.0),
    *map(_codec, MODELS),
    Step(
        name="nearest",
        call=2,
        module=f"{_HERE}.nearest",
        arguments=("--rounds", "5", "--shapes", *NEAREST),
    ),
    Step(
        name="audit",
        call=2,
        module=f"{_HERE}.audit",
        arguments=("--dtype", "bfloat16", "--side", "256", "--rounds", "3"),
        limit_s=90.0,
    ),
    _tests("tests published", 2, "-m", "gpu and slow", limit_s=300.0),
    *map(_whole, (16, 8, 4)),
    _tests("tests on Ray", 3, "-m", "gpu and ray", limit_s=150.0, on_ray=True),
)
"""All of them, in order."""
