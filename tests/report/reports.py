"""Reports to make pages of: a plain one, and what may be changed about it."""

from dataclasses import replace

import numpy as np

from tests.makers import jpeg
from vqpipe.code_layout import CodeLayout
from vqpipe.report import (
    Counts,
    Drift,
    Example,
    Metric,
    Picture,
    Pictures,
    Quality,
    Rejected,
    Report,
    Throughput,
)


def make_metric(name, mean, **changes):
    plain = Metric(name=name, mean=mean, std=2.5, minimum=1, p05=2, median=3, p95=4, maximum=5)
    return replace(plain, **changes)


def make_picture(key="cat", side=64, **changes):
    plain = Picture(
        key=key,
        shard="photos/0003",
        original=jpeg(side, side, seed=1),
        decoded=jpeg(side, side, seed=2),
        width=side,
        height=side,
        psnr_db=23.456,
        ssim=0.7891,
    )
    return replace(plain, **changes)


def make_quality(**changes):
    plain = Quality(
        metrics=[
            make_metric("psnr_db", 24.678),
            make_metric("ssim", 0.78125),
            make_metric("l1", 0.0409),
        ],
        samples=2048,
        shards=64,
        picked="Every tenth shard was taken.",
        psnr_db=np.random.default_rng(0).normal(24, 3, 2048).tolist(),
        flip_rate=0.0021,
        rfid=12.34,
        notes=["LPIPS: no weights were given."],
    )
    return replace(plain, **changes)


def make_rejected(**changes):
    example = Example(key="dog", shard="photos/0001", row=1234, message="ends after 12 bytes")
    plain = Rejected(
        reason="truncated", meaning="The image data ends early.", count=60, examples=[example]
    )
    return replace(plain, **changes)


def make_counts(**changes):
    plain = Counts(
        samples=120_060,
        encoded=120_000,
        rejected=60,
        shards_done=120,
        shards_planned=120,
        is_complete=True,
        bytes_per_image=451.3,
        layout=CodeLayout.grid(16, 16, 1024),
    )
    return replace(plain, **changes)


def make_report(**changes):
    rng = np.random.default_rng(0)
    plain = Report(
        title="s3://bucket/codes",
        counts=make_counts(),
        identity=[
            ("source", "s3://bucket/tars/{000..119}.tar"),
            ("sha256", "0123456789abcdef" * 4),
        ],
        quality=make_quality(),
        pictures=Pictures(
            random=[make_picture(f"random-{i}", 64) for i in range(4)],
            best=[make_picture("best", 48)],
            worst=[make_picture("a/very/long/name/of/a/folder/" * 4 + "worst.jpg", 96)],
        ),
        code_counts=rng.zipf(1.3, 16384) % 5000,
        drift=[
            Drift(shard=f"photos/{i:04}", distance=float(distance), samples=1000, psnr_db=24.5)
            for i, distance in enumerate(rng.uniform(0.02, 0.3, 120))
        ],
        throughput=Throughput(
            points=[(10.0 * i, 2500 * i) for i in range(49)],
            bound_by="The GPU was busy.",
            busy=[("reading", 0.12), ("opening", 0.58), ("codec", 0.97), ("committing", 0.0)],
            gpu=0.93,
            gpu_memory=(22 * 2**30, 140 * 2**30),
        ),
        rejections=[make_rejected()],
    )
    return replace(plain, **changes)
