import pytest

from vqpipe.engine import capacity
from vqpipe.engine.places import Place

MACHINES = [
    {"Resources": {"CPU": 2.0}},
    {"Resources": {"CPU": 3.0, "GPU": 1.0}, "Labels": {"pool": "codes"}},
    {"Resources": {"GPU": 2.0}, "Labels": {"pool": "codes"}},
]


@pytest.fixture(autouse=True)
def machines(monkeypatch):
    monkeypatch.setattr(capacity, "machines", lambda: MACHINES)


@pytest.mark.parametrize(
    ("place", "cores", "gpus"),
    [
        (Place(), 3, 3),
        (Place(labels={"pool": "codes"}), 3, 3),
        (Place(resources={"GPU": 2}), 0, 2),
        (Place(resources={"CPU": 4}), 0, 0),
    ],
)
def test_most_cores_are_those_of_one_machine_and_gpus_of_all_that_fit(place, cores, gpus):
    assert (capacity.most_cores(place), capacity.count_gpus(place)) == (cores, gpus)
