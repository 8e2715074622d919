"""What the names in some tars settle before the first one is read, and what to say of them."""

from collections import Counter
from dataclasses import replace

from vqpipe.commands.console import Fields, Prose, printable
from vqpipe.commands.stage_jobs import AskedKeys
from vqpipe.errors import ConfigError
from vqpipe.schema import Selection
from vqpipe.sink.run import EncodeRun, Run
from vqpipe.sources import members
from vqpipe.sources.listing import Listing


def settle_members(
    asked: AskedKeys, begun: Run | None, listing: Listing, selection: Selection
) -> tuple[Selection, Fields]:
    """Returns a selection that says where keys of tars end, and what to say of their members.

    Args:
        asked: What the operator asks for.
        begun: The run that this goes on with, which has settled it.
        listing: The source.
        selection: What to read of each sample.

    Raises:
        ConfigError: If names can be read either way, or what is to be kept is not there.
    """
    if listing.format != "webdataset":
        if asked != "auto":
            raise ConfigError("--key-until is about members of tars: leave it out")
        return selection, []
    seen = members.look(listing.shards, selection)
    known = begun.identity.key_until if isinstance(begun, EncodeRun) else None
    settled = (known or members.judge_keys(seen, selection)) if asked == "auto" else asked
    selection = replace(selection, key_until=settled)
    if settled == "last-dot" and any("." in name for name in selection.images):
        raise ConfigError(
            f"--image {' '.join(selection.images)} has a dot, and keys end at the last dot of a "
            "name: give --key-until first-dot, or an image without one"
        )
    missing = members.check_kept(seen, selection)
    over = members.count_passed_over(seen, selection)
    return selection, _describe(selection, missing, over)


def _describe(selection: Selection, missing: list[str], over: Counter[str]) -> Fields:
    fields: Fields = []
    if selection.key_until == "last-dot":
        fields.append(("keys", "end at the last dot of a name"))
    if over:
        named = ", ".join(f"{count:,} .{name}" for name, count in over.most_common(5))
        said = f"in the tars looked at, {named}: another image of the sample is taken"
        which = "--image says which, or names several, each of which becomes a row"
        fields.append(("passed over", Prose(printable(f"{said}; {which}"))))
    if missing:
        said = f"none of the samples looked at has {', '.join(missing)}: it is kept as null"
        fields.append(("take care", Prose(printable(said))))
    return fields
