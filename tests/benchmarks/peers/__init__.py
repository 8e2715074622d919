"""The same work by other means: images out of tars, opened, to 256 px, through a stub, to Parquet.

    floor     as many plain processes as cores that only read, open and resize: more cannot be had
    openers   as many plain processes as cores that do what workers of vqpipe do up to the codec
    ours      the graph of `vqpipe encode`
    loader    the script that people write: a torch DataLoader, and pyarrow at the end
    raydata   Ray Data as its documentation shows it
    daft      Daft as its documentation shows it; it reads no tars, and gets the images as files

Each is a program, `python -m tests.benchmarks.peers.NAME SOURCE SINK`, and notes in a file how many
images have come through its stub, and when (`curve`).
"""
