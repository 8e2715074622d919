"""Clusters of `ray up` against Ray's own checks, and SkyPilot's task against its schema."""

import copy
import json
import re
import shlex
from pathlib import Path

import botocore.loaders
import botocore.model
import botocore.validate
import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from vqpipe.commands import cli
from vqpipe.commands.all_jobs import Submit
from vqpipe.commands.stage_jobs import Encode

ROOT = Path(__file__).parents[2]
CLOUDS = {"aws": "s3://", "gcp": "gs://"}


def text_of(name):
    return (ROOT / f"infra/{name}.yaml").read_text()


@pytest.fixture(params=CLOUDS)
def cloud(request):
    return request.param


@pytest.fixture
def cluster(cloud):
    return yaml.safe_load(text_of(f"{cloud}/cluster"))


def check(cluster):
    """Does what `ray up` does first."""
    validate_config(prepare_config(copy.deepcopy(cluster)))


def workers(cluster):
    types = cluster["available_node_types"]
    return {name: types[name] for name in types.keys() - {cluster["head_node_type"]}}


def test_cluster_by_rays_own_checks_is_valid(cluster):
    check(cluster)


@pytest.mark.parametrize(
    "damage",
    [
        lambda cluster: cluster.update(max_worker=3),
        lambda cluster: cluster.update(head_node_type="master"),
        lambda cluster: cluster["provider"].pop("type"),
        lambda cluster: cluster["available_node_types"]["gpu"].update(max_workers="8"),
        lambda cluster: cluster["available_node_types"]["cpu"].update(min_workers=99),
        lambda cluster: cluster.update(idle_timeout_minutes="5 minutes"),
    ],
)
def test_cluster_damaged_is_refused_by_rays_own_checks(cluster, damage):
    damage(cluster)
    with pytest.raises((jsonschema.ValidationError, KeyError, ValueError)):
        check(cluster)


def errors_of_run_instances(node_config):
    """Returns what EC2's own description says against a call with these parameters."""
    service = botocore.loaders.Loader().load_service_model("ec2", "service-2")
    shape = botocore.model.ServiceModel(service).operation_model("RunInstances").input_shape
    given = {"MinCount": 1, "MaxCount": 1, **node_config}
    return botocore.validate.ParamValidator().validate(given, shape).generate_report()


def test_aws_nodes_by_ec2s_own_description_are_valid():
    cluster = yaml.safe_load(text_of("aws/cluster"))
    for kind in cluster["available_node_types"].values():
        assert errors_of_run_instances(kind["node_config"]) == ""
    node = cluster["available_node_types"]["gpu"]["node_config"]
    assert errors_of_run_instances({**node, "IamInstanceProfile": "a-role"}) != ""
    assert errors_of_run_instances({**node, "InstanceMarketOption": {}}) != ""


def is_spot(cloud, node):
    if cloud == "aws":
        return node.get("InstanceMarketOptions") == {"MarketType": "spot"}
    return node.get("scheduling", {}).get("provisioningModel") == "SPOT"


def test_cluster_workers_are_spot_and_the_head_is_not(cloud, cluster):
    for kind in workers(cluster).values():
        assert is_spot(cloud, kind["node_config"])
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert not is_spot(cloud, head["node_config"])


def test_cluster_gpus_come_from_zero_and_the_head_takes_no_work(cluster):
    gpu = workers(cluster)["gpu"]
    assert gpu["min_workers"] == 0
    assert gpu["resources"]["GPU"] == 1
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert "--num-cpus=0" in cluster["head_start_ray_commands"][-1]
    assert sum(kind["max_workers"] for kind in workers(cluster).values()) <= cluster["max_workers"]


def test_cluster_asks_for_a_token_and_shows_its_dashboard_to_itself(cluster):
    for role in ("head", "worker"):
        start = cluster[f"{role}_start_ray_commands"][-1]
        assert start.startswith("export RAY_AUTH_MODE=token;")
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_cluster_nodes_have_roles_and_no_keys(cloud, cluster):
    role = {"aws": "IamInstanceProfile", "gcp": "serviceAccounts"}[cloud]
    head = cluster["available_node_types"][cluster["head_node_type"]]["node_config"][role]
    for kind in workers(cluster).values():
        assert kind["node_config"][role] != head  # workers may start no machines
    assert not re.search(r"(?i)AKIA|access_key|secret|password", text_of(f"{cloud}/cluster"))


def commands_in_comments(name):
    lines = re.findall(r"^#     (.+)$", text_of(name), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def test_cluster_command_is_a_command_line_of_ours(cloud):
    (words,) = (each for each in commands_in_comments(f"{cloud}/cluster") if each[0] == "vqpipe")
    assert isinstance(cli.parse(words[1:]), Submit)
    job = cli.parse(["encode", *words[words.index("--") + 1 :]])
    assert job.source.startswith(CLOUDS[cloud])
    assert (job.device, job.actors) == ("cuda", None)


def test_cluster_setup_takes_what_the_repository_pins(cluster):
    (install,) = (line for line in cluster["setup_commands"] if ".[pipeline]" in line)
    assert "--constraint constraints.txt" in install


@pytest.fixture
def task():
    return yaml.safe_load(text_of("sky/encode"))


def sky_errors(task):
    schema = json.loads((ROOT / "tests/project/sky/task.schema.json").read_text())
    return [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(task)]


def test_sky_task_by_skypilots_schema_is_valid(task):
    assert sky_errors(task) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda task: task.update(runs="vqpipe"),
        lambda task: task["resources"].update(spot=True),
        lambda task: task["resources"].update(use_spot="yes"),
        lambda task: task["resources"]["job_recovery"].update(max_restarts_on_errors="3"),
    ],
)
def test_sky_task_damaged_is_refused_by_skypilots_schema(task, damage):
    damage(task)
    assert sky_errors(task)


def test_sky_task_runs_on_spot_and_its_retries_have_an_end(task):
    assert task["resources"]["use_spot"] is True
    assert task["resources"]["job_recovery"].keys() == {"max_restarts_on_errors"}


def test_sky_task_command_is_a_command_line_of_ours(task):
    command = task["run"].replace("\\\n", " ").replace("$PART", task["envs"]["PART"])
    exec_, program, *words = shlex.split(command)
    assert (exec_, program) == ("exec", "~/venv/bin/vqpipe")  # SIGTERM reaches it
    job = cli.parse(words)
    assert isinstance(job, Encode)
    assert (job.part, job.device) == ("0/1", "cuda")


def test_sky_commands_in_comments_name_the_task_and_its_variable():
    launch = next(each for each in commands_in_comments("sky/encode") if "launch" in each)
    assert "infra/sky/encode.yaml;" in launch
    assert "PART=$part/4" in launch


@pytest.mark.soak
@pytest.mark.s3
def test_aws_cluster_against_an_emulator_of_aws_starts_its_nodes(s3_server, tmp_path, monkeypatch):
    import boto3
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    monkeypatch.setenv("HOME", str(tmp_path))  # Ray keeps the key there that it makes
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    ec2 = boto3.client("ec2", endpoint_url=s3_server)
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    text = text_of("aws/cluster").replace("ami-EDIT", image).replace("EDIT-account", "123456789012")
    iam = boto3.client("iam", endpoint_url=s3_server)
    for name in ("EDIT-head", "EDIT-workers"):
        iam.create_instance_profile(InstanceProfileName=name)
    cluster = bootstrap_aws(prepare_config(yaml.safe_load(text)))
    provider = AWSNodeProvider(cluster["provider"], "vqpipe")
    for name, kind in cluster["available_node_types"].items():
        provider.create_node(dict(kind["node_config"]), {"ray-user-node-type": name}, 1)
    found = [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
    started = {
        (
            node["InstanceType"],
            node.get("InstanceLifecycle"),
            node["IamInstanceProfile"]["Arn"].rpartition("/")[2],
        )
        for node in found
    }
    assert started == {
        ("m7i.xlarge", None, "EDIT-head"),
        ("m7i.4xlarge", "spot", "EDIT-workers"),
        ("g6.2xlarge", "spot", "EDIT-workers"),
    }
