import copy
import json
import re
import shlex
from pathlib import Path

import jsonschema
import pytest
import yaml

from vqpipe.commands import cli
from vqpipe.commands.stage_jobs import Encode

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "infra/kuberay/encode.yaml"
RAYJOB = ROOT / "tests/project/kuberay/rayjob.v1.schema.json"


@pytest.fixture
def manifest():
    return yaml.safe_load(MANIFEST.read_text())


@pytest.fixture(scope="module")
def validator():
    schema = json.loads(RAYJOB.read_text())
    # The API server checks these itself; the custom resource's schema leaves them open.
    schema["properties"]["apiVersion"]["const"] = "ray.io/v1"
    schema["properties"]["kind"]["const"] = "RayJob"
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    refuse_unknown_fields(schema)
    return jsonschema.Draft202012Validator(schema)


def refuse_unknown_fields(node):
    """Closes every object that lists its properties, as the API server does."""
    if isinstance(node, list):
        for part in node:
            refuse_unknown_fields(part)
    elif isinstance(node, dict):
        is_object = isinstance(node.get("properties"), dict) and node.get("type") == "object"
        if is_object and not node.get("x-kubernetes-preserve-unknown-fields"):
            node.setdefault("additionalProperties", False)
        for part in node.values():
            refuse_unknown_fields(part)


def pod_specs(manifest):
    """Returns `{place: pod spec}` of everything that the manifest starts."""
    cluster = manifest["spec"]["rayClusterSpec"]
    groups = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    head = cluster["headGroupSpec"]["template"]
    submitter = manifest["spec"]["submitterPodTemplate"]
    return {
        place: template["spec"]
        for place, template in {"submitter": submitter, "head": head, **groups}.items()
    }


def containers(manifest):
    return [
        (place, container)
        for place, spec in pod_specs(manifest).items()
        for container in spec["containers"]
    ]


def parsed(manifest):
    program, *arguments = shlex.split(manifest["spec"]["entrypoint"])
    assert program == "vqpipe"
    job = cli.parse(arguments)
    assert isinstance(job, Encode)
    return job


def group(manifest, name):
    (found,) = (
        group
        for group in manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        if group["groupName"] == name
    )
    return found


def pinned(package):
    return re.search(rf"(?m)^{package}==(\S+)$", (ROOT / "constraints.txt").read_text())[1]


def instructions():
    """Returns the Dockerfile's instructions as (name, rest), continuation lines joined."""
    lines = (ROOT / "infra/Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def test_manifest_against_kuberays_schema_is_valid(manifest, validator):
    assert [error.message for error in validator.iter_errors(manifest)] == []


def unknown_field_of_job(manifest):
    manifest["spec"]["backofLimit"] = 3


def unknown_field_of_container(manifest):
    manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0][
        "resource"
    ] = {}


def wrong_type(manifest):
    manifest["spec"]["backoffLimit"] = "3"


def number_where_a_string_must_be(manifest):
    manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0


def unknown_choice(manifest):
    manifest["spec"]["rayClusterSpec"]["authOptions"]["mode"] = "password"


def missing_group_name(manifest):
    del manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"][1]["groupName"]


def malformed_quantity(manifest):
    manifest["spec"]["submitterPodTemplate"]["spec"]["containers"][0]["resources"]["limits"] = {
        "memory": "1 GB"
    }


def other_kind(manifest):
    manifest["kind"] = "RayCluster"


@pytest.mark.parametrize(
    "damage",
    [
        unknown_field_of_job,
        unknown_field_of_container,
        wrong_type,
        number_where_a_string_must_be,
        unknown_choice,
        missing_group_name,
        malformed_quantity,
        other_kind,
    ],
)
def test_manifest_damaged_against_kuberays_schema_is_refused(manifest, validator, damage):
    damaged = copy.deepcopy(manifest)
    damage(damaged)
    assert damaged != manifest
    assert not validator.is_valid(damaged)


def test_manifest_entrypoint_is_a_command_line_of_ours(manifest):
    job = parsed(manifest)
    assert job.address == "auto"
    assert job.device == "cuda"
    for place in (job.source, job.sink, job.model):
        assert place.startswith("s3://")
    assert not f"{job.sink}/".startswith(f"{job.source}/")
    assert not f"{job.source}/".startswith(f"{job.sink}/")


def test_manifest_entrypoint_means_the_same_to_a_shell(manifest):
    # KubeRay pastes it into a bash command line: nothing in it may expand.
    assert re.fullmatch(r"[\w ./:=-]+", manifest["spec"]["entrypoint"])


def test_manifest_takes_all_gpus_that_its_group_may_have(manifest):
    job = parsed(manifest)
    assert (job.device, job.actors) == ("cuda", None)


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_manifest_group_replicas_are_within_their_bounds(manifest, name):
    found = group(manifest, name)
    assert 0 <= found["minReplicas"] <= found["replicas"] <= found["maxReplicas"]


def test_manifest_lost_head_is_submitted_again_on_a_new_cluster(manifest):
    spec = manifest["spec"]
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert "activeDeadlineSeconds" not in spec  # it is never retried, and ends a healthy run


def test_manifest_head_takes_no_work_and_stays_off_spot(manifest):
    head = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]
    spot = group(manifest, "gpu")["template"]["spec"]["nodeSelector"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert head["template"]["spec"]["nodeSelector"] != spot


def test_manifest_every_container_asks_for_and_is_bound_to_cpu_and_memory(manifest):
    autoscaler = manifest["spec"]["rayClusterSpec"]["autoscalerOptions"]
    for place, container in [*containers(manifest), ("autoscaler", autoscaler)]:
        for kind in ("requests", "limits"):
            assert {"cpu", "memory"} <= container["resources"][kind].keys(), (place, kind)


def test_manifest_images_are_one_with_a_version(manifest):
    (image,) = {container["image"] for _, container in containers(manifest)}
    _, _, tag = image.rpartition(":")
    assert re.fullmatch(r"\d+\.\d+\.\d+", tag)
    assert f"-t {image} " in (ROOT / "infra/Dockerfile").read_text()
    assert image in (ROOT / "infra/README.md").read_text()


def test_manifest_pods_run_without_privileges(manifest):
    for place, spec in pod_specs(manifest).items():
        assert spec["securityContext"]["runAsNonRoot"] is True, place
        assert spec["securityContext"]["runAsUser"] == 1000, place
    autoscaler = manifest["spec"]["rayClusterSpec"]["autoscalerOptions"]
    for place, container in [*containers(manifest), ("autoscaler", autoscaler)]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False, place
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, place


def test_manifest_holds_no_credentials(manifest):
    for place, container in containers(manifest):
        assert "env" not in container, place
        assert "envFrom" not in container, place
    specs = pod_specs(manifest)
    assert {specs[place]["serviceAccountName"] for place in ("head", "cpu", "gpu")} == {"vqpipe"}


def test_manifest_object_store_fits_in_shared_memory_and_that_in_the_pod(manifest):
    for place in ("head", "cpu", "gpu"):
        spec = pod_specs(manifest)[place]
        (container,) = spec["containers"]
        (mount,) = (m for m in container["volumeMounts"] if m["mountPath"] == "/dev/shm")
        (volume,) = (v["emptyDir"] for v in spec["volumes"] if v["name"] == mount["name"])
        assert volume["medium"] == "Memory"
        memory = gibibytes(container["resources"]["limits"]["memory"])
        # Ray takes 3/10 of a node's memory for its object store, or all of /dev/shm if that is
        # smaller: https://docs.ray.io/en/latest/ray-core/scheduling/memory-management.html
        assert memory * 0.25 <= gibibytes(volume["sizeLimit"]) <= memory * 0.5


def gibibytes(quantity):
    number = re.fullmatch(r"(\d+)Gi", quantity)
    return int(number[1])


def test_ray_version_is_the_same_everywhere(manifest):
    version = pinned("ray")
    assert manifest["spec"]["rayClusterSpec"]["rayVersion"] == version
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
