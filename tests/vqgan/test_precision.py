"""Switches of the whole process: each case in a process of its own."""

import subprocess
import sys

import pytest
import torch

from vqpipe.vqgan import precision
from vqpipe.vqgan.precision import float32_products

has_switch_a_kind = pytest.mark.skipif(
    not precision.HAS_SWITCH_A_KIND, reason="torch before 2.9 has no switch a kind"
)

SCRIPT = """
import torch
from torch import backends
from vqpipe.vqgan.precision import float32_products

{before}


def ask(what):
    try:
        return what()
    except RuntimeError:  # old switches, of a process that has used the new ones
        return "mixed"


def old():
    return [
        ask(lambda: backends.cuda.matmul.allow_tf32),
        ask(lambda: backends.cudnn.allow_tf32),
        ask(torch.get_float32_matmul_precision),
    ]


def new():
    cuda, cudnn, mkldnn = backends.cuda.matmul, backends.cudnn, backends.mkldnn
    switches = (cuda, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, cudnn, backends)
    return [each.fp32_precision for each in switches]


first = (old(), new())
for precision in ("ieee", "tf32"):
    for outer in ("ieee", "tf32"):
        with float32_products(outer), float32_products(precision):
            *gpu, product, convolution = new()[:5]
            assert {{product, convolution}} <= {{"ieee", "none"}}, new()
            wanted = {{"tf32"}} if precision == "tf32" else {{"ieee", "none"}}
            assert set(gpu) <= wanted, new()
        assert (old(), new()) == first, (old(), new(), first)
"""


@has_switch_a_kind
@pytest.mark.parametrize(
    "before",
    [
        "",
        pytest.param("backends.fp32_precision = 'ieee'", marks=pytest.mark.soak),
        "backends.fp32_precision = 'tf32'",
        "backends.cudnn.fp32_precision = 'ieee'; backends.cudnn.conv.fp32_precision = 'tf32'",
        pytest.param("backends.cuda.matmul.fp32_precision = 'tf32'", marks=pytest.mark.soak),
        "backends.mkldnn.conv.fp32_precision = 'bf16'",
        "backends.cudnn.allow_tf32 = False; backends.cuda.matmul.allow_tf32 = True",
        "torch.set_float32_matmul_precision('medium')",
    ],
)
def test_float32_products_are_what_the_block_says_and_afterwards_what_the_process_said(before):
    script = SCRIPT.format(before=before)
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


@has_switch_a_kind
def test_float32_products_switches_that_follow_another_one_follow_it_again():
    script = """
from torch import backends
from vqpipe.vqgan.precision import float32_products
backends.fp32_precision = "tf32"
with float32_products("ieee"):
    assert backends.cudnn.conv.fp32_precision == "ieee"
assert backends.cudnn.conv.fp32_precision == "tf32"
backends.fp32_precision = "ieee"
assert backends.cudnn.conv.fp32_precision == backends.cuda.matmul.fp32_precision == "ieee"
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("kind", ["ieee", "tf32"])
def test_float32_products_of_an_old_torch_turns_the_old_switches(monkeypatch, kind):
    def said():
        matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        return torch.get_float32_matmul_precision(), matmul, cudnn

    monkeypatch.setattr(precision, "HAS_SWITCH_A_KIND", False)
    before = said()
    with float32_products(kind):
        is_short = kind == "tf32"
        assert said() == ("high" if is_short else "highest", is_short, is_short)
    assert said() == before


def test_float32_products_are_put_back_after_an_error():
    with pytest.raises(ValueError, match="stop"), float32_products("tf32"):
        raise ValueError("stop")
    assert not torch.backends.cuda.matmul.allow_tf32
