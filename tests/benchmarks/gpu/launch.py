"""Runs a module as `python -m` does, and ends at once when it has ended.

What modules leave for the end of a process may wait for long: torch's compiler for processes of its
own that hang, for one (https://github.com/pytorch/pytorch/issues/162199). Of a few
minutes on a machine that is too much; the runner ends what a step leaves.
"""

import os
import runpy
import sys
import traceback


def main():
    """Runs the module that the first argument names, with the others."""
    sys.argv = sys.argv[1:]
    code = run(sys.argv[0])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(module):
    """Returns the exit code that a module ends with."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 (whatever ends a process)
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main()
