"""Runs steps one after the other within a budget of seconds, and shows all figures at the end."""

import argparse
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks import records
from tests.benchmarks.gpu import carry, table
from tests.benchmarks.gpu.processes import Ended, How, run_step
from tests.benchmarks.gpu.steps import ROOT, STEPS

_LEAST_S = 5.0
"""Left of the budget for the table."""


def main():
    options = parse_options()
    if options.what == "carry":
        return carry.main(options.python)
    started = time.monotonic()
    chosen = choose_steps(options)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    how = How(options.device, options.tiny, find_gpu(), folder, carry.unpack())
    done = {line["step"] for line in records.read(how.figures) if line.get("status") == "ok"}
    for step in chosen:
        if step.name in done and not options.again:
            print(f"{step.name}: done before", flush=True)
            continue
        left = options.budget_s - _LEAST_S - (time.monotonic() - started)
        ended = run_within(step, how, options, left)
        records.write(how.figures, {"kind": "step", **asdict(ended), "is_tiny": options.tiny})
        print(f"{ended.step}: {ended.status}, {ended.seconds:.0f} s", flush=True)
    lines = records.read(how.figures)
    print(table.render(lines), flush=True)
    return 0 if all_is_well(lines, chosen) else 1


def run_within(step, how, options, left_s):
    """Runs a step if enough is left of the budget."""
    if left_s < min(step.enough_s, options.limit or step.enough_s):
        return Ended(
            step.name, "skipped", last=(f"{max(0.0, left_s):.0f} s are left of the budget",)
        )
    return run_step(step, how, min(left_s, options.limit or step.limit_s))


def choose_steps(options):
    names = [step.name for step in STEPS]
    if unknown := set(options.steps or ()) - set(names):
        sys.exit(f"no step is called {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
    if options.steps:
        return [step for step in STEPS if step.name in options.steps]
    return [step for step in STEPS if step.call in options.call]


def find_gpu():
    """Tells whether torch sees a GPU; in a process of its own, so that this one holds none."""
    asked = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", asked], capture_output=True).returncode == 0


def all_is_well(lines, chosen):
    last = {line["step"]: line["status"] for line in lines if line["kind"] == "step"}
    return all(last.get(step.name) == "ok" for step in chosen)


def parse_options():
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.gpu",
        description=sys.modules["tests.benchmarks.gpu"].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="?", choices=["run", "carry"], default="run")
    parser.add_argument("--call", type=int, nargs="+", choices=[1, 2, 3], default=[1, 2, 3])
    parser.add_argument("--steps", nargs="+", help="by name, instead of whole calls")
    parser.add_argument("--limit", type=float, help="seconds of any step, instead of its own limit")
    parser.add_argument("--budget-s", type=float, default=540.0, help="seconds in all")
    parser.add_argument("--out", default=str(ROOT / "build" / "gpu"), help="folder of the figures")
    parser.add_argument("--again", action="store_true", help="steps, too, that are done there")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--python", default="3.12", help="of that machine, for carry")
    parser.add_argument("--tiny", action="store_true", help="sizes that say nothing of speed")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
