"""What files of codes say of themselves: `meta.json`, beside what a format adds there."""

import json
from typing import Any

from vqpipe import storage
from vqpipe.export.format import Made
from vqpipe.export.subject import Subject


def write_meta(subject: Subject, out: str, more: dict[str, Any]) -> Made:
    """Writes what the codes are and where they come from.

    Args:
        subject: What is exported.
        out: Where to.
        more: What only this format says.
    """
    document = json.dumps({**more, **_describe(subject)}, indent=2).encode() + b"\n"
    storage.publish(storage.join_uri(out, "meta.json"), document)
    return Made(files=1, bytes=len(document))


def on_disk(line: str, out: str) -> str:
    """Returns how a reader of folders reads an export.

    Args:
        line: That, with `{}` for where the export is.
        out: Where it is, maybe in a store.
    """
    if storage.is_on_disk(out):
        return line.replace("{}", out)
    return f"once {out}/ is copied to a folder, " + line.replace("{}", "FOLDER")


def _describe(subject: Subject) -> dict[str, Any]:
    run = subject.snapshot.run
    return {
        "samples": subject.samples,
        "views": subject.views,
        "layout": subject.layout.document(),
        "codebook_size": run.facts.codebook_size,
        "codebook_sha256": run.facts.codebook_sha256,
        "model": run.facts.model,
        "model_sha256": run.identity.model_sha256,
        "classes": run.facts.classes,
        "fingerprint": run.fingerprint,
        "snapshot": subject.snapshot.digest,
    }
