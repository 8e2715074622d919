"""A process that ends while threads of its still ask a store."""

import subprocess
import sys

import pytest

from vqpipe import storage

ASKS_BEHIND_THE_END = """
import concurrent.futures.thread, sys, time
from vqpipe import errors, storage

uri, before = sys.argv[1:]
if before == "asked":
    storage.stat(uri)

def ask():
    while not concurrent.futures.thread._shutdown:  # the end has begun
        time.sleep(0.01)
    try:
        print(storage.stat(uri).size)
    except errors.StorageError as error:
        print(error)

concurrent.futures.ThreadPoolExecutor(1).submit(ask)
"""


@pytest.mark.s3
@pytest.mark.fault(11)
@pytest.mark.parametrize("before", ["asked", "not asked"])
def test_process_that_ends_does_not_ask_for_minutes_for_what_it_cannot_have(bucket, before):
    """No thread begins any more at the end of a process, and S3's client wants some."""
    storage.publish(f"{bucket}/a", b"content")
    script = [sys.executable, "-c", ASKS_BEHIND_THE_END, f"{bucket}/a", before]
    said = subprocess.run(script, timeout=60, capture_output=True, text=True, check=True).stdout
    assert said.strip() == "7" or "interpreter shutdown" in said
