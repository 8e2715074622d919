"""The container image, and what else is the same wherever a run is."""

import re
import shlex
from pathlib import Path

from vqpipe.commands import cli

ROOT = Path(__file__).parents[2]
IMAGE = "registry.example.com/vqpipe:0.1.0"


def pinned(package):
    return re.search(rf"(?m)^{package}==(\S+)$", (ROOT / "constraints.txt").read_text())[1]


def instructions():
    """Returns the Dockerfile's instructions as (name, rest), continuation lines joined."""
    lines = (ROOT / "infra/Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def uses_of(pattern):
    """Returns what a pattern finds in all files of infra/, as `{path: [found, ...]}`."""
    files = [path for path in (ROOT / "infra").rglob("*") if path.suffix in {".yaml", ".md"}]
    found = {path: re.findall(pattern, path.read_text()) for path in files}
    return {path: each for path, each in found.items() if each}


def test_image_is_one_with_a_version_everywhere():
    used = uses_of(r"registry\.example\.com/[\w./:-]+")
    assert len(used) > 5
    assert {image for each in used.values() for image in each} == {IMAGE}
    assert f"-t {IMAGE} " in (ROOT / "infra/Dockerfile").read_text()


def test_ray_version_is_the_same_everywhere():
    used = uses_of(r"rayVersion: (\S+)")
    assert len(used) == 5
    assert {version for each in used.values() for version in each} == {pinned("ray")}
    installs = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    assert sum("--constraint constraints.txt" in rest for rest in installs) == 1
    for rest in installs:  # what is not held by the constraints may bring no dependency
        assert "--constraint constraints.txt" in rest or "--no-deps" in rest
        assert not re.search(r"\b(ray|torch)\b", rest)


def test_dockerfile_base_images_are_pinned():
    bases = [rest for name, rest in instructions() if name == "FROM"]
    assert bases
    for base in bases:
        assert re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+-[\w.-]+( AS \w+)?", base)


def test_dockerfile_ends_as_an_unprivileged_user():
    names = [name for name, _ in instructions()]
    (user,) = (rest for name, rest in instructions() if name == "USER")
    assert user == "1000:1000"
    assert set(names[names.index("USER") + 1 :]) <= {"CMD", "ENTRYPOINT"}


def test_dockerfile_fetches_nothing_unpinned():
    for name, rest in instructions():
        assert name != "ADD"
        assert "://" not in rest
        assert "git+" not in rest


def test_dockerfile_installs_what_a_run_needs_and_carries_no_tests():
    text = " ".join(rest for _, rest in instructions())
    assert ".[" not in text
    assert "tests" not in text
    assert re.findall(r'optional-dependencies"\]\["(\w+)', text) == ["pipeline"]


def test_dockerignore_lets_in_what_the_dockerfile_copies_and_nothing_else():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {path for name, rest in instructions() if name == "COPY" for path in rest.split()[:-1]}
    assert allowed == copied


README = (ROOT / "infra/README.md").read_text()


def test_readme_names_every_file_that_a_user_takes_and_none_that_is_not_there():
    there = {path for kind in ("yaml", "sbatch") for path in (ROOT / "infra").rglob(f"*.{kind}")}
    names = [str(path.relative_to(ROOT / "infra")) for path in there if "demo" not in path.parts]
    assert len(names) == 12
    for name in names:
        assert name in README or f"`{Path(name).name}`" in README, name
    for name in re.findall(r"infra/[\w/.-]+\.(?:yaml|sbatch)|(?<=\]\()[\w/.-]+(?=\))", README):
        assert (ROOT / name).exists() or (ROOT / "infra" / name).exists(), name


def test_readme_commands_are_command_lines_of_ours():
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", README, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").replace("; ", "\n").splitlines()
    ours = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("vqpipe ")]
    assert {words[0] for words in ours} == {"inspect", "submit", "jobs", "logs", "stop"}
    for words in ours:
        cli.parse(words)
