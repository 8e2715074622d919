"""Pixels to codes and back on a device, and the checkpoints that this takes.

config    how pixels become codes, without torch
codec     batches in, codes or pixels out; device  what it runs on
weights   a checkpoint from anywhere: hub  which files of a repository make one
doctor    what a checkpoint is and what it bears, by showing it `probes/`
"""
