"""The manifests of infra/kuberay, against the schemas of KubeRay and Kubernetes, and our parser."""

import dataclasses
import json
import re
import shlex
import textwrap
from pathlib import Path

import jsonschema
import pytest
import yaml

from vqpipe.commands import cli
from vqpipe.commands.stage_jobs import Compact, Decode, Encode, Evaluate

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra/kuberay"
SCHEMAS = ROOT / "tests/project"
STAGES = {"encode": Encode, "decode": Decode, "evaluate": Evaluate, "compact": Compact}
WITH_GPUS = ["encode", "decode", "evaluate"]
NIGHTLY = "nightly"


def read(name):
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


def read_run(name):
    """Returns a manifest as a RayJob, also that of which each night makes one."""
    manifest = read(name)
    return {"spec": manifest["spec"]["jobTemplate"]} if name == NIGHTLY else manifest


@pytest.fixture(params=[*STAGES, NIGHTLY])
def manifest(request):
    return read_run(request.param)


@pytest.fixture(params=WITH_GPUS)
def gpu_manifest(request):
    return read(request.param)


def validator_of(kind):
    schema = json.loads((SCHEMAS / f"kuberay/{kind.lower()}.v1.schema.json").read_text())
    if kind == "RayCronJob":
        job = json.loads((SCHEMAS / "kuberay/rayjob.v1.schema.json").read_text())
        fields = schema["properties"]["spec"]["properties"]
        assert fields["jobTemplate"] == {"$ref": "rayjob.v1.schema.json#/properties/spec"}
        fields["jobTemplate"] = job["properties"]["spec"]
    # The API server checks these itself; the custom resource's schema leaves them open.
    schema["properties"]["apiVersion"]["const"] = "ray.io/v1"
    schema["properties"]["kind"]["const"] = kind
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    refuse_unknown_fields(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture(scope="module")
def validator():
    return validator_of("RayJob")


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
    return cli.parse(arguments)


def group(manifest, name):
    (found,) = (
        group
        for group in manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        if group["groupName"] == name
    )
    return found


@pytest.mark.parametrize("name", STAGES)
def test_manifest_against_kuberays_schema_is_valid(name, validator):
    assert [error.message for error in validator.iter_errors(read(name))] == []


def test_nightly_against_kuberays_schema_is_valid():
    assert [error.message for error in validator_of("RayCronJob").iter_errors(read(NIGHTLY))] == []


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
def test_manifest_damaged_against_kuberays_schema_is_refused(validator, damage):
    damaged = read("encode")
    damage(damaged)
    assert damaged != read("encode")
    assert not validator.is_valid(damaged)


@pytest.mark.parametrize(
    "damage",
    [
        lambda spec: spec.pop("schedule"),
        lambda spec: spec.update(timezone="Etc/UTC"),
        lambda spec: spec["jobTemplate"].update(backofLimit=3),
    ],
)
def test_nightly_damaged_against_kuberays_schema_is_refused(damage):
    damaged = read(NIGHTLY)
    damage(damaged["spec"])
    assert not validator_of("RayCronJob").is_valid(damaged)


@pytest.mark.parametrize(("name", "command"), [*STAGES.items(), (NIGHTLY, Encode)])
def test_manifest_entrypoint_is_a_command_line_of_ours(name, command):
    job = parsed(read_run(name))
    assert isinstance(job, command)
    assert job.address == "auto"
    places = [getattr(job, place, None) for place in ("source", "sink", "model")]
    assert all(place.startswith("s3://EDIT-bucket/") for place in places if place)
    if name != "evaluate":  # which writes where it reads
        assert not f"{job.sink}/".startswith(f"{job.source}/")
        assert not f"{job.source}/".startswith(f"{job.sink}/")


def test_manifests_take_each_others_sinks_as_sources():
    encoded = parsed(read("encode")).sink
    assert {parsed(read(name)).source for name in ("decode", "evaluate", "compact")} == {encoded}
    assert len({parsed(read(name)).sink for name in ("encode", "decode", "compact")}) == 3


def test_nightly_is_the_encode_run_that_takes_in_what_is_new():
    assert parsed(read_run(NIGHTLY)) == dataclasses.replace(parsed(read("encode")), extend=True)
    assert len(read(NIGHTLY)["spec"]["schedule"].split()) == 5


def test_manifest_entrypoint_means_the_same_to_a_shell(manifest):
    # KubeRay pastes it into a bash command line: nothing in it may expand.
    assert re.fullmatch(r"[\w ./:=-]+", manifest["spec"]["entrypoint"])


def test_manifest_takes_all_gpus_that_its_group_may_have(gpu_manifest):
    job = parsed(gpu_manifest)
    assert (job.device, job.actors) == ("cuda", None)


def test_manifest_group_replicas_are_within_their_bounds(manifest):
    for found in manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        assert 0 <= found["minReplicas"] <= found["replicas"] <= found["maxReplicas"]


def test_manifest_lost_head_is_submitted_again_on_a_new_cluster(manifest):
    spec = manifest["spec"]
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert "activeDeadlineSeconds" not in spec  # it is never retried, and ends a healthy run


def test_manifest_head_takes_no_work_and_stays_off_spot(manifest):
    head = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]
    spot = group(manifest, "cpu")["template"]["spec"]["nodeSelector"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert head["template"]["spec"]["nodeSelector"] != spot


def test_manifest_every_container_asks_for_and_is_bound_to_cpu_and_memory(manifest):
    autoscaler = manifest["spec"]["rayClusterSpec"]["autoscalerOptions"]
    for place, container in [*containers(manifest), ("autoscaler", autoscaler)]:
        for kind in ("requests", "limits"):
            assert {"cpu", "memory"} <= container["resources"][kind].keys(), (place, kind)


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
    account = read("service-account")["metadata"]["name"]
    assert {spec.get("serviceAccountName") for spec in specs.values()} == {account, None}
    assert "serviceAccountName" not in specs["submitter"]


def test_manifest_object_store_fits_in_shared_memory_and_that_in_the_pod(manifest):
    for place, spec in pod_specs(manifest).items():
        if place == "submitter":
            continue
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


def common_lines(name):
    """Returns what all manifests share, comments too: all but names and numbers of nodes."""
    text = (FOLDER / f"{name}.yaml").read_text()
    first = text.index("# A lost head")
    text = textwrap.dedent(text[text.rindex("\n", 0, first) + 1 :])
    text = re.sub(r"vqpipe-(encode|decode|evaluate|compact|nightly)", "vqpipe-STAGE", text)
    text = re.sub(r" *# Kueue: .*", "", text)
    return re.sub(r"maxReplicas: \d+", "maxReplicas: N", text)


@pytest.mark.parametrize("name", ["decode", "evaluate", NIGHTLY])
def test_manifests_are_alike_from_backoff_limit_on(name):
    assert common_lines(name) == common_lines("encode")


def test_compact_manifest_is_like_the_others_without_the_gpu_group():
    common, _, _ = common_lines("encode").partition("    # The tokenizer")
    assert common_lines("compact").strip() == common.strip()
    assert "nvidia" not in (FOLDER / "compact.yaml").read_text()


@pytest.mark.parametrize("name", STAGES)
def test_manifest_edited_for_kueue_is_as_kueue_wants_it(name, validator):
    text = (FOLDER / f"{name}.yaml").read_text()
    text = text.replace("  # labels: {kueue", "  labels: {kueue")
    text = text.replace("Autoscaling: true # Kueue: false", "Autoscaling: false")
    text = re.sub("replicas: 0 # Kueue: .*", "replicas: 1", text)
    manifest = yaml.safe_load(text)
    assert [error.message for error in validator.iter_errors(manifest)] == []
    assert manifest["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "EDIT-queue"}
    # Its webhook refuses a job with a queue otherwise: kueue, rayjob_webhook.go.
    cluster = manifest["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is False
    assert manifest["spec"]["shutdownAfterJobFinishes"] is True
    assert "clusterSelector" not in manifest["spec"]
    assert all(group["replicas"] > 0 for group in cluster["workerGroupSpecs"])


def kubernetes_validator(kind):
    schema = json.loads((SCHEMAS / f"kubernetes/{kind.lower()}.v1.schema.json").read_text())
    schema["required"] = ["apiVersion", "kind", "metadata"]
    return jsonschema.Draft202012Validator(schema)


def policies():
    return list(yaml.safe_load_all((FOLDER / "network-policy.yaml").read_text()))


def test_kubernetes_own_kinds_against_its_schemas_are_valid():
    account = read("service-account")
    assert [e.message for e in kubernetes_validator("ServiceAccount").iter_errors(account)] == []
    for policy in policies():
        assert [e.message for e in kubernetes_validator("NetworkPolicy").iter_errors(policy)] == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda policy: policy.update(kind="NetPolicy"),
        lambda policy: policy["spec"].update(podselector={}),
        lambda policy: policy["spec"]["ingress"][0].update(form=[]),
        lambda policy: policy["spec"]["ingress"][1]["ports"][0].update(protocol=6),
        lambda policy: policy["spec"].update(policyTypes="Ingress"),
    ],
)
def test_network_policy_damaged_against_kubernetes_schema_is_refused(damage):
    damaged = policies()[0]
    damage(damaged)
    assert not kubernetes_validator("NetworkPolicy").is_valid(damaged)


def test_network_policies_let_pods_of_one_run_reach_each_other_and_nobody_else():
    labels = {}
    for name in [*STAGES, NIGHTLY]:
        cluster = read_run(name)["spec"]["rayClusterSpec"]
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        templates = [read_run(name)["spec"]["submitterPodTemplate"]]
        templates += [group["template"] for group in groups]
        (labels[name],) = {tuple(each["metadata"]["labels"].items()) for each in templates}
    assert len(set(labels.values())) == 5
    for policy in policies():
        spec = policy["spec"]
        assert spec["policyTypes"] == ["Ingress"]
        run, operator, watchers = spec["ingress"]
        assert run == {"from": [{"podSelector": spec["podSelector"]}]}
        assert [port["port"] for port in operator["ports"]] == [8265]
        (peer,) = operator["from"]
        assert peer.keys() == {"namespaceSelector", "podSelector"}  # both at once, not either
        assert [port["port"] for port in watchers["ports"]] == [8080], "figures, and no more"
        assert [each.keys() for each in watchers["from"]] == [{"namespaceSelector"}]
    chosen = [tuple(each["spec"]["podSelector"]["matchLabels"].items()) for each in policies()]
    assert sorted(chosen) == sorted(labels.values())


def test_service_account_leaves_the_head_its_token():
    # The autoscaler beside the head asks the Kubernetes API for nodes.
    assert read("service-account").get("automountServiceAccountToken") is not False
    for name in STAGES:
        assert pod_specs(read(name))["head"].get("automountServiceAccountToken") is not False
