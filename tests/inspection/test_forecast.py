"""A forecast is arithmetic: what follows from figures that are easy to work with by hand."""

from dataclasses import replace

import pytest

from vqpipe.inspection.forecast import OVERHEAD, Prices, Work, foresee
from vqpipe.stages.census import Census
from vqpipe.stages.measured import Coding, Measured, Opening, Reading, StartUp, Writing

GPU = Coding(
    device="a GPU",
    kind="cuda",
    devices=1,
    views=1000,
    view_s=0.001,
    audit_s=0.0,
    audit_share=0.0,
    warm_up_s=60.0,
    batch_size=64,
)
CPU = replace(GPU, device="cpu x2", kind="cpu", view_s=0.1, batch_size=1)
MEASURED = Measured(
    reading=Reading(images=100, size=10**7, shards=4, seconds=0.1, core_s=0.0),
    opening=Opening(images=100, good=90, left_out=0, opened=500, core_s=0.01, cores=2),
    coding=GPU,
    writing=Writing(rows=90, row_bytes=500.0, object_bytes=10_000.0, row_s=0.0, object_s=0.0),
    start_up=StartUp(ready_s=20.0, work_s=0.0, end_s=2.0, images=0, shards=0),
    views=1,
    cores=2,
    command_s=5.0,
)
MILLION = Work(Census(10**6, 0.0, 100, 100, 10**11), "webdataset", 100)
NOWHERE = (Prices(), (False, False))


def forecast(measured=MEASURED, work=MILLION, gpus=(1,), cores=None, paid=NOWHERE):
    return foresee(work, measured, gpus, cores, paid)


def only_run(found):
    (option,) = found.options
    return option.run


def test_forecast_rows_are_the_images_that_open_times_views():
    amounts = forecast(replace(MEASURED, views=10)).amounts
    assert (amounts.good, amounts.rows) == (900_000, 9_000_000)


def test_forecast_gpu_hours_are_rows_by_speed_however_many_gpus_there_are():
    found = forecast(gpus=(1, 8))
    assert found.amounts.device_s == pytest.approx(900)
    assert [each.run.work_s for each in found.options] == pytest.approx([900, 900 / 8])


def test_forecast_cores_that_keep_a_gpu_busy_open_as_fast_as_it_encodes():
    found = forecast()
    assert found.amounts.cores_s == pytest.approx(OVERHEAD * 10_000)
    assert found.amounts.cores_per_device == pytest.approx(OVERHEAD * 10_000 / 900)
    run = only_run(found)
    assert run.cores == 14
    assert run.bound_by == "codec"


def test_forecast_with_fewer_cores_is_bound_by_opening():
    run = only_run(forecast(cores=4))
    assert run.bound_by == "opening"
    assert run.work_s == pytest.approx(OVERHEAD * 10_000 / 4)


def test_forecast_of_many_tiny_shards_is_bound_by_scheduling():
    census = replace(MILLION.census, shards=10**6)
    work = replace(MILLION, census=census, files=10**6)
    run = only_run(forecast(replace(MEASURED, driver_shard_s=0.01), work))
    assert run.bound_by == "scheduling"
    assert run.work_s == pytest.approx(10**4)
    assert "scheduling" not in only_run(forecast(work=work)).limits


def test_forecast_of_a_slow_store_is_bound_by_it():
    slow = replace(MEASURED, reading=replace(MEASURED.reading, seconds=100.0))
    run = only_run(forecast(slow))
    assert run.bound_by == "storage"
    assert run.work_s == pytest.approx(10**6 / run.cores)


def test_forecast_on_a_cpu_has_codec_and_opening_take_turns_on_its_cores():
    run = only_run(forecast(replace(MEASURED, coding=CPU), gpus=()))
    assert run.kind == "cpu"
    assert run.work_s == pytest.approx(90_000 + OVERHEAD * 10_000 / 2)


def test_forecast_of_gpus_that_were_not_there_to_measure_on_says_nothing_of_them():
    found = forecast(replace(MEASURED, coding=CPU), gpus=(8, 64))
    assert found.unmeasured_gpus == (8, 64)
    assert {option.run.kind for option in found.options} == {"cpu"}


def test_forecast_start_is_the_command_the_rehearsal_and_what_its_images_took_beyond_their_time():
    start = StartUp(ready_s=20.0, work_s=3.0, end_s=2.0, images=8, shards=4)
    run = only_run(forecast(replace(MEASURED, start_up=start)))
    image_s = 900 / 10**6
    assert run.start_s == pytest.approx(5 + 20 + (3 - 8 * image_s) + 2)
    assert run.wall_s == pytest.approx(run.start_s + 900)


def test_forecast_audits_take_their_share_and_one_a_shard():
    coding = replace(GPU, audit_s=0.01, audit_share=0.001)
    found = forecast(replace(MEASURED, coding=coding))
    assert found.amounts.device_s == pytest.approx(900 + 0.01 * (900 + 100))


def test_forecast_bytes_are_those_of_rows_and_of_objects():
    assert forecast().amounts.bytes_written == 900_000 * 500 + 100 * 10_000
    assert forecast().amounts.bytes_read == 10**11


def test_forecast_cost_is_told_of_what_has_a_price_and_of_nothing_else():
    start = replace(MEASURED.start_up, ready_s=2693.0)  # so that it takes an hour
    measured = replace(MEASURED, start_up=start)
    prices = Prices(gpu_hour=2.0, gb_month=0.02)
    (option,) = forecast(measured, gpus=(1,), paid=(prices, (False, False))).options
    assert option.run.wall_s == pytest.approx(3600)
    assert option.cost == pytest.approx({"gpu": 2.0, "storage_month": 0.451 * 0.02})
    (option,) = forecast(measured, gpus=(1,)).options
    assert option.cost == {}


def test_forecast_cost_of_cores_and_requests():
    prices = Prices(core_hour=0.1, reads=0.4, writes=5.0)
    start = replace(MEASURED.start_up, ready_s=2693.0)
    measured = replace(MEASURED, start_up=start)
    (option,) = forecast(measured, paid=(prices, (True, True))).options
    assert option.cost["cpu"] == pytest.approx(14 * 0.1)
    assert option.cost["get"] == pytest.approx(option.requests.reads / 1000 * 0.4)
    assert option.cost["put"] == pytest.approx(option.requests.writes / 1000 * 5.0)
    assert option.requests.put > 100


def test_forecast_of_local_folders_has_no_requests():
    (option,) = forecast().options
    assert option.requests.reads == option.requests.writes == 0


def test_forecast_shards_that_take_long_are_staged_and_short_ones_are_not():
    prices = (Prices(), (False, True))
    (long,) = forecast(paid=prices).options  # 9 s of work a shard, 14 at a time
    (short,) = forecast(
        work=replace(MILLION, census=replace(MILLION.census, images=10**4)), paid=prices
    ).options
    assert long.requests.put > 100 * 20
    assert short.requests.put < 100 * 3


def test_forecast_without_a_start_that_was_measured_says_so():
    run = only_run(forecast(replace(MEASURED, start_up=None)))
    assert run.start_s is None
    assert run.wall_s == pytest.approx(900)
