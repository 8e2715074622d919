"""Codes in the formats of trainers: from any store to any other, shard by shard, each done once.

subject  what is exported; format  what a format does, and the table of them; work  all of it
place    what stands where; pieces  of files that are joined
npy, webdataset, litdata, mds, array_record, megatron      for loaders of any data
llamagen, rar, halton, emu3, lumina, lumina_mgpt           what these train on
codes, columns, records, sequences, words, arrays, files   what formats share
"""
