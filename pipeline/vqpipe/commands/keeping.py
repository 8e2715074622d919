"""What of a source is to be kept, settled when a run begins, and what to say of it."""

from collections import Counter
from dataclasses import replace

from vqpipe.commands.console import Fields, Prose, printable
from vqpipe.schema import Selection
from vqpipe.sink.run import EncodeRun, Run
from vqpipe.sources import about_images, kept_names
from vqpipe.sources.everything import find_everything
from vqpipe.sources.listing import Listing
from vqpipe.stages.quarantine import read_quarantined

_NAMED = 10


def settle_kept(
    begun: Run | None, listing: Listing, selection: Selection, *, is_all: bool
) -> tuple[Selection, Fields]:
    """Returns a selection that names all that is to be kept, and what to say of the rest.

    Args:
        begun: The run that this goes on with: where it keeps all, it has settled what that is.
        listing: The source.
        selection: What is asked for by name.
        is_all: Whether all that there is is to be kept as well.

    Raises:
        ConfigError: If what is asked for does not go together.
    """
    kept_names(listing, selection)
    if not is_all:
        return selection, []
    if isinstance(begun, EncodeRun) and begun.facts.keep_all:
        return replace(selection, keep=begun.identity.keep), []
    found = find_everything(listing, selection, read_quarantined)
    keep = tuple(dict.fromkeys([*selection.keep, *found.names]))
    fields: Fields = [("kept", Prose(printable(", ".join(keep) or "nothing: there is nothing")))]
    over = {name: why for name, why in found.passed_over.items() if name not in keep}
    if over:
        fields.append(("not kept", Prose(printable(_describe_over(over), 500))))
    return replace(selection, keep=keep), fields


def _describe_over(over: dict[str, str]) -> str:
    """Returns what is passed over, by the reasons for it."""
    said = []
    for why in Counter(over.values()):
        names = [name for name, each in over.items() if each == why]
        more = f" and {len(names) - _NAMED:,} more" if names[_NAMED:] else ""
        said.append(f"{', '.join(names[:_NAMED])}{more} ({why})")
    return "; ".join(said)


def describe_about(listing: Listing, selection: Selection) -> Fields:
    """Returns what to say of files about images: rows of no image, or that nothing is kept."""
    if not listing.about:
        return []
    count, first = len(listing.about), listing.about[0].uri
    if not selection.keep:
        said = f"{count:,} file(s) say more of the images, such as {first}; --keep names columns"
        return [("not kept", Prose(printable(f"{said} of them, --keep-all takes all", 500)))]
    found = about_images.find_unmatched(listing.shards, selection.keep)
    fields: Fields = []
    if found.rows:
        said = f"{found.rows:,} row(s) speak of no image that is read, such as {found.first}"
        fields.append(("take care", Prose(printable(said, 500))))
    if found.images:
        said = f"of {found.images:,} image(s) no metadata file says anything: kept as null"
        fields.append(("take care", said))
    if found.twice:
        said = f"of {found.twice:,} image(s) several rows speak: these are rejected"
        fields.append(("take care", said))
    return fields
