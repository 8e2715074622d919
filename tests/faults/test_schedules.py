import pytest

from tests.faults.schedules import Habits, find_problems

pytestmark = pytest.mark.fault(2, 6, 7, 16)


def test_schedules_of_commands_kills_and_changes_keep_what_is_promised():
    assert list(find_problems(range(50))) == []


@pytest.mark.parametrize(
    "habits",
    [
        pytest.param(Habits(), marks=pytest.mark.soak),
        Habits(names_by_content=True),
        pytest.param(Habits(is_careless=True), marks=pytest.mark.soak),
        Habits(lists_late=0.3),
    ],
    ids=["disk", "bucket", "careless", "late_lists"],
)
def test_schedules_on_each_kind_of_store_keep_what_is_promised(habits):
    assert list(find_problems(range(1000, 1010), habits)) == []


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", range(10_000, 15_000, 1000))
def test_thousands_of_schedules_keep_what_is_promised(first):
    assert list(find_problems(range(first, first + 1000))) == []
