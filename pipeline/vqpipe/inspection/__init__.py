"""Everything that looks at a sink, finished or not.

survey      what it holds, with few requests; readiness  whether that is fit to train on
verify      all of it read back and checked; gallery  images; reencode  codes made again
difference  how two runs differ; drift  how shards differ from the whole
evaluation  what decoded images are worth, added up
"""
