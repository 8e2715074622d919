"""Which machines have what is asked for, by Ray's rules (Kubernetes' for labels)."""

import pytest

from vqpipe.engine.places import Place, describe_missing, is_met
from vqpipe.engine.resources import choose_kind

H100 = {"Resources": {"CPU": 8.0, "GPU": 1.0, "pool": 1.0}, "Labels": {"type": "H100"}}
PLAIN = {"Resources": {"CPU": 8.0}, "Labels": {}}


@pytest.mark.parametrize(
    ("wanted", "met_by"),
    [
        ("H100", {"H100"}),
        ("!H100", {"A100", "L4", None}),
        ("in(H100,A100)", {"H100", "A100"}),
        ("in(H100, A100)", {"H100", "A100"}),
        ("!in(H100, A100)", {"L4", None}),
    ],
)
def test_label_is_met_by_the_values_that_it_names(wanted, met_by):
    assert {value for value in ("H100", "A100", "L4", None) if is_met(value, wanted)} == met_by


def test_place_fits_a_machine_that_has_all_of_it():
    assert Place().fits(PLAIN)
    assert Place({"GPU": 0.5, "pool": 0.001}, {"type": "H100"}).fits(H100)
    assert not Place({"GPU": 0.5}, {"type": "A100"}).fits(H100)
    assert not Place({"pool": 2}).fits(H100)
    assert not Place({"GPU": 1}).fits(PLAIN)


def test_place_asks_ray_for_what_it_says_and_for_nothing_else():
    assert Place().options(num_cpus=0.5) == {"num_cpus": 0.5}
    place = Place({"GPU": 0.5, "CPU": 2, "memory": 1e9, "pool": 1}, {"type": "H100"})
    assert place.options(num_cpus=0, num_gpus=1) == {
        "num_cpus": 2,
        "num_gpus": 0.5,
        "memory": 1e9,
        "resources": {"pool": 1},
        "label_selector": {"type": "H100"},
    }


def test_what_no_machine_has_is_named_with_who_asks_for_it():
    place = Place({"pool": 0.5}, {"type": "A100"})
    said = describe_missing(place, [H100, PLAIN], "codecs")
    for part in ("codecs", "0.5 pool", "type=A100", "none of the cluster's 2 nodes"):
        assert part in said
    assert not describe_missing(place, [H100 | {"Labels": {"type": "A100"}}], "codecs")
    assert not describe_missing(Place(), [], "codecs")


def test_kind_of_device_is_that_of_gpus_where_these_are_there_or_asked_for():
    assert choose_kind("auto", Place(), 0) == "cpu"
    assert choose_kind("auto", Place(), 1) == "cuda"
    assert choose_kind("auto", Place({"GPU": 0.5}), 0) == "cuda"
    assert choose_kind("cuda", Place(), 0) == "cuda"
    assert choose_kind("cpu", Place(), 8) == "cpu"
