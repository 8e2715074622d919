"""Codes to a trainer: which sample comes when is arithmetic, and rows come from a local cache.

index    which rows of a sink there are, and how many; columns  what comes along, and as what
order    places of an epoch to samples; shares  places to ranks and steps; schedule  both of them
options  what a trainer says, checked
cache    a capped folder; segment  rows of some shards, decoded once, arrays  columns in files
dataset  all of it as torch takes it; loader  that with workers, and what it has given out
pictures what codes decode to

No file here imports Ray, nor anything that a run needs and a trainer does not.
"""
