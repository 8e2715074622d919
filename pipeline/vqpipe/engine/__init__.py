"""Where the work runs. The only room that knows Ray.

graph       the Ray Data graph and its resources; tasks  what its workers run
committer   finished rows on their way to the sink; outlet, blocks, pace  how they get there
counter     what workers have done; watchdog  whether anything moves; failures  what went wrong
resources   where a run is to be; places, gpus  what of it was asked for; coder  the codec's actor
laggards    shards that are late; abandon  reads that others have done; adding  sums on the way
stopwatch   what workers spend time on; timesheet  what there was of it; metrics  for Prometheus
cluster     the Ray that a command joins or starts; surroundings  what that finds on this machine
reaper      what ends what is left of it; report, ledger  what workers tell the counter
submission  a command as a job of a cluster
"""

import os

# Before anything imports Ray.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# A command that stops early shuts Ray down under a thread that still waits for results, whose next
# call would have Ray start again, on every interface.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray warns unless it is set
# Ray's C++ side prints its errors to the driver's terminal, one of them for every actor pool
# (ray-project/ray#53727); what goes wrong reaches us as exceptions all the same.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
