"""Where the work runs. The only room that knows Ray.

graph       the Ray Data graph and its resources; tasks  what its workers run
committer   finished rows on their way to the sink; outlet, blocks, pace  how they get there
counter     what workers have done; watchdog  whether anything moves; failures  what went wrong
resources   where a run is to be; places, gpus  what of it was asked for; coder  the codec's actor
laggards    shards that are late; abandon  reads that others have done; adding  sums on the way
stopwatch   what workers spend time on; timesheet  what there was of it; metrics  for Prometheus
cluster     the Ray that a command joins or starts; reaper  what ends what is left of it
submission  a command as a job of a cluster
"""
