"""Which machines and GPUs a command is told to use, as options say it."""

import pytest
from ray._private.label_utils import validate_label_selector

from tests import plain
from vqpipe.commands.machines import parse_gpus, parse_labels, parse_resources
from vqpipe.commands.stage_jobs import Encode

PLACES = {"source": "photos", "sink": "codes", "model": "vqgan"}
VALUES = ("H100", "!H100", "in(H100,A100)", "!in(H100, A100)", "a.b-c_d", "7")
NO_VALUES = ("-H100", "in()", "in(H100,)", "!!H100", "H 100", "in(H100", "H100;", "a" * 64)


@pytest.mark.parametrize("value", VALUES)
def test_labels_that_ray_takes_are_taken(value):
    found = parse_labels("--codec-labels", [f"ray.io/accelerator-type={value}"])
    assert found == {"ray.io/accelerator-type": value}
    assert validate_label_selector(found) is None


@pytest.mark.parametrize("value", NO_VALUES)
def test_labels_that_ray_does_not_take_are_refused(value):
    assert validate_label_selector({"pool": value})
    with pytest.raises(ValueError, match="--codec-labels"):
        parse_labels("--codec-labels", [f"pool={value}"])


def test_resources_are_amounts_by_name_even_with_signs_in_the_name():
    said = ("accelerator_type:H100=0.001", "GPU=0.5", "a=b=2")
    found = parse_resources("--codec-resources", said, ("GPU",))
    assert found == {"accelerator_type:H100": 0.001, "GPU": 0.5, "a=b": 2.0}


@pytest.mark.parametrize(
    "said",
    [
        "GPU",
        "=1",
        "pool=",
        "pool=0",
        "pool=-1",
        "pool=1.5",
        "pool=nan",
        "pool=inf",
        "GPU=2",
        "CPU=1",
    ],
)
def test_resources_that_no_worker_can_have_are_refused(said):
    with pytest.raises(ValueError, match="--codec-resources"):
        parse_resources("--codec-resources", [said], ("GPU",))


def test_names_twice_are_refused():
    with pytest.raises(ValueError, match="pool twice"):
        parse_labels("--worker-labels", ["pool=a", "pool=b"])
    with pytest.raises(ValueError, match="pool twice"):
        parse_resources("--worker-resources", ["pool=1", "pool=2"], ())


@pytest.mark.parametrize("said", ["", "0,", "a", "-1", "0,0", "0;1", "0-3"])
def test_gpus_that_are_no_names_are_refused(said):
    with pytest.raises(ValueError, match="--gpus"):
        parse_gpus(said)


def test_gpus_keep_their_order():
    assert parse_gpus("2, 0") == ("2", "0")
    assert parse_gpus("GPU-8d1f,MIG-41b3") == ("GPU-8d1f", "MIG-41b3")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gpus": "0", "address": "head:6379"}, "--codec-labels"),
        ({"gpus": "0", "device": "cpu"}, "--device cpu"),
        ({"codec_resources": ("GPU=1",), "device": "cpu"}, "--device cpu"),
        ({"worker_resources": ("GPU=1",)}, "--worker-resources"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        Encode(**PLACES, **options)


def test_gpus_where_a_cluster_is_joined_ends_with_4_before_anything_is_read(monkeypatch, capsys):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    places = ("--source", "nowhere", "--sink", "nowhere-else", "--model", "no-model")
    assert plain.run([["encode", *places, "--gpus", "0,2"]]) == [4]
    printed = capsys.readouterr().err
    assert "RAY_ADDRESS" in printed
    assert "--codec-labels" in printed
