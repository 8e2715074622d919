"""Instructions of our kernels as triton compiles them for sm_90, counted without a GPU.

    python -m tests.benchmarks.gpu.instructions [--kernels _apply_kernel ...]

Functions of `vqpipe.vqgan` are called as a run calls them, on tensors of the CPU, and what they
would launch is compiled instead: sizes, warps and what triton makes of an argument's value are
those of a run. The disassembler in triton's package then shows the machine code.

A thread with 32 elements and 640 instructions takes 20 an element. What a loop repeats stands apart
from what is outside it, and of loops in one another the innermost is the loop. `NOP`s, which fill
up the end, do not count. Spills are instructions that move registers to a thread's memory or back.
"""

import argparse
import functools
import math
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from vqpipe.vqgan import group_norm_triton, nearest_triton

TARGET = GPUTarget("cuda", 90, 32)
ELEMENTS = {
    "_measure_kernel": ("an element", ("ROWS", "CHANNELS")),
    "_combine_kernel": ("a mean", ("PARTS", "MEMBERS")),
    "_apply_kernel": ("an element", ("ROWS", "CHANNELS")),
    "_apply_spatially_kernel": ("an element", ("ROWS", "CHANNELS")),
    "_few_kernel": ("a score", ("ROWS", "ENTRIES")),
    "_many_kernel": ("a score", ("ROWS", "ENTRIES")),
    "_settle_kernel": ("a difference", ("ENTRIES", "CHANNELS")),
}
"""What all threads of a program have in hand at once, and the sizes whose product says how many."""
THREADS = 32
"""Of a warp."""
INSTRUCTION = re.compile(r"/\*(?P<at>[0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?(?P<name>[A-Z]\S*)(.*?);")
BRANCH = re.compile(r"0x([0-9a-f]+)\s*$")


@dataclass(frozen=True)
class Launch:
    """What would have been launched."""

    kernel: str
    of: str
    sizes: dict  # constants of the kernel, by name
    compiled: CompiledKernel


@dataclass(frozen=True)
class Code:
    """Machine code of a kernel."""

    names: dict  # of instructions, by address, without NOPs
    loops: list  # first and last address of each
    registers: int  # of a thread

    def innermost(self):
        """Returns the names in the longest loop that has no other in it, none without a loop."""
        inner = [
            (first, last)
            for first, last in self.loops
            if not any(first <= a and b <= last and (a, b) != (first, last) for a, b in self.loops)
        ]
        names = self.names.items()
        bodies = [[name for at, name in names if first <= at <= last] for first, last in inner]
        return max(bodies, key=len, default=[])

    def spills(self):
        """Returns how many instructions move registers to memory of the thread, or back."""
        return sum(name.startswith(("STL", "LDL")) for name in self.names.values())


def catch(work, of, kernels):
    """Returns the launches of some kernels by a function, compiled and not launched."""
    launches, launch = [], JITFunction.run

    def run(self, *arguments, grid, warmup, **sizes):
        assert not warmup
        if self.__name__ in kernels:
            compiled = launch(self, *arguments, grid=grid, warmup=True, **sizes)
            launches.append(Launch(self.__name__, of, sizes, compiled))

    with mock.patch.object(JITFunction, "run", run):
        work()
    return launches


def pretend_a_device():
    """Has triton compile for `TARGET`, whatever the machine has."""
    driver.set_active(
        SimpleNamespace(
            get_current_target=lambda: TARGET,
            get_current_device=lambda: 0,
            get_current_stream=lambda _: 0,
        )
    )


def work():
    """Yields what is done, in words, and the function that does it."""
    for dtype in (torch.bfloat16, torch.float32):
        words = f"128 channels, {str(dtype).removeprefix('torch.')}"
        yield words, functools.partial(normalise, dtype)
        yield words, functools.partial(normalise_spatially, dtype)
    for channels in (4, 8, 64, 256):
        yield f"{channels} channels", functools.partial(search, channels)
    for channels in (4, 64):
        yield f"{channels} channels", functools.partial(settle, channels)


def _grid(side, dtype):
    return torch.empty(1, 128, side, side, dtype=dtype, memory_format=torch.channels_last)


def normalise(dtype):
    weight = torch.empty(128, dtype=dtype)
    group_norm_triton.normalise(_grid(256, dtype), weight, weight, weight, 32, 1e-6, True)


def normalise_spatially(dtype):
    weight, small = torch.empty(128, dtype=dtype), _grid(32, dtype)
    group_norm_triton.normalise_spatially(
        _grid(256, dtype), weight, weight, weight, small, small, 32, 1e-6, True
    )


def search(channels):
    z, weights = torch.zeros(1024, channels), torch.zeros(1024, channels + 1)
    nearest_triton.search(z, weights, torch.zeros(channels), torch.ones(()))


def settle(channels):
    z, doubtful = torch.zeros(1024, channels), torch.zeros(1024, dtype=torch.bool)
    codes = torch.zeros(1024, dtype=torch.int64)
    nearest_triton.settle(z, z, doubtful, codes)


def disassemble(cubin):
    """Returns the code of a kernel, compiled (bytes)."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        code, usage = (_dump(file, what) for what in ("-sass", "-res-usage"))
    names, loops = {}, []
    for line in INSTRUCTION.finditer(code):
        at, name = int(line["at"], 16), line["name"]
        if name != "NOP":
            names[at] = name
        target = BRANCH.search(line[3]) if name.startswith("BRA") else None
        if target and int(target[1], 16) < at:
            loops.append((int(target[1], 16), at))
    return Code(names, loops, int(re.search(r"REG:(\d+)", usage)[1]))


def _dump(file, what):
    command = [triton.knobs.nvidia.cuobjdump.path, what, file]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def describe(launch):
    """Returns a row of the table."""
    code, metadata = disassemble(launch.compiled.asm["cubin"]), launch.compiled.metadata
    unit, sizes = ELEMENTS[launch.kernel]
    elements = math.prod(launch.sizes[name] for name in sizes) / (metadata.num_warps * THREADS)
    inside, all_of_it = len(code.innermost()) / elements, len(code.names) / elements
    words = f"{inside or all_of_it:.1f} {unit}"
    if inside:
        words += f" in the loop, {all_of_it - inside:.1f} outside"
    figures = (words, code.registers, code.spills(), f"{metadata.shared:,}")
    return " | ".join(map(str, (launch.kernel, launch.of, *figures)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kernels", nargs="+", choices=ELEMENTS, default=list(ELEMENTS))
    options = parser.parse_args()
    if triton.knobs.runtime.interpret:
        sys.exit("with TRITON_INTERPRET nothing is compiled")
    pretend_a_device()
    launches = [each for of, do in work() for each in catch(do, of, options.kernels)]
    rows = dict.fromkeys(map(describe, launches))  # both norms measure in the same way
    print(f"triton {triton.__version__}, sm_{TARGET.arch}")
    print("| kernel | of | instructions | registers | spills | bytes on chip |")
    print("\n".join(f"| {row} |" for row in rows))


if __name__ == "__main__":
    main()
