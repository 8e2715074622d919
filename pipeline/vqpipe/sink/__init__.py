"""What a run leaves, and how: one place that holds a run, from its plan to `_SUCCESS`.

run       what the codes were made with, frozen; start  how both that and the plan come to be so
plan      the shards, frozen; growth  what may come to them; plan_file, digest  how they lie there
todo      what is left
commit    finished rows become one object a shard: staging, assembly, publication
writer    what a commit needs to know; product  what a stage's rows become
asides    samples that have no row in data/: rejected, or left out
objects   how each object is written and read: footer, seal
layout    where everything is; ranges, filenames, beside  what names say
totals    all of it added up, from sums of counted objects: losses, success, card
subtotals what workers add up before the end, and coverage, which objects they have
snapshot  which objects there are, for who reads them for months
parcel    what of it goes out to others; hub_card  its README.md there
"""
