"""What `--where` says of an image, and whether it is so.

expression  Python's own words, taken apart and never run
judge       columns held against them
"""
