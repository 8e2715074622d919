"""Make a data set on the Hugging Face hub of a finished sink."""

from vqpipe import storage
from vqpipe.commands.console import (
    Fields,
    Prose,
    describe_bytes,
    print_fields,
    stderr,
    stdout,
)
from vqpipe.commands.shipment import Shipment
from vqpipe.commands.sink_jobs import Push
from vqpipe.errors import ConfigError, IncompleteError, MismatchError
from vqpipe.hub.names import parse_data_set
from vqpipe.hub.repository import MOST_FILE_BYTES, MOST_IN_FOLDER, Digests, Entry, Repository
from vqpipe.sink import layout
from vqpipe.sink.hub_card import Cards, HubPlace, Rows, has_licence, set_licence, write_hub_card
from vqpipe.sink.parcel import CARD, PLAN, RUN, Parcel, find_card, find_parcel, folder_sizes
from vqpipe.sink.parts import data_types
from vqpipe.sink.plan import Plan
from vqpipe.sink.plan_file import load_plan, parse_plan
from vqpipe.sink.run import open_sink, parse_run
from vqpipe.sink.totals import read_totals


def run(job: Push) -> None:
    """Sends what is missing and prints where it is.

    Raises:
        VqpipeError: If something of it could not be sent; the same command goes on from there.
    """
    place = _find_place(job)
    parcel = find_parcel(job.sink, allow_incomplete=job.allow_incomplete)
    check_limits(parcel)
    repository = Repository(place.name, place.branch)
    head = repository.open(create=job.create, private=job.private)
    there = repository.list_files(head)
    _check_same_run(parcel, repository, head, there)
    card = _write_card(job, parcel, place, repository.read(CARD, head) if CARD in there else None)
    shipment = Shipment(repository, parcel, head, there)
    try:
        shipment.send(card, _say)
    except KeyboardInterrupt:
        raise IncompleteError(
            "stopped; what has been committed stays there: run the same command again to finish"
        ) from None
    _print(shipment, place, card)


def _find_place(job: Push) -> HubPlace:
    found = parse_data_set(job.to)
    assert found, "the job has been checked"
    name, branch = found
    return HubPlace(name, job.revision or branch or "main")


def check_limits(parcel: Parcel) -> None:
    """Checks that the hub takes it.

    Raises:
        ConfigError: If a folder has too many objects, or one is too large.
    """
    for folder, entries in folder_sizes(parcel).items():
        if entries >= MOST_IN_FOLDER:
            raise ConfigError(
                f"{parcel.uri}/{folder} has {entries:,} entries, and the hub takes less than "
                f"{MOST_IN_FOLDER:,} in a folder: put its rows into fewer, larger objects first "
                "(vqpipe compact)"
            )
    for item in parcel.items:
        if item.file.size > MOST_FILE_BYTES:
            raise ConfigError(
                f"{item.file.uri} is {describe_bytes(item.file.size)} large, and the hub takes "
                f"{describe_bytes(MOST_FILE_BYTES)} at most: encode it in smaller shards"
            )


def _check_same_run(
    parcel: Parcel, repository: Repository, head: str, there: dict[str, Entry]
) -> None:
    """Refuses a repository that holds something else, or later codes of the same run.

    Raises:
        MismatchError: If it does.
    """
    if RUN not in there:
        _check_empty(repository, there)
        return
    if not there[RUN].holds(Digests.of(storage.read(layout.run_uri(parcel.uri)))):
        raise MismatchError(
            f"{repository.url} holds another run: {_name_run(repository, head)}, and "
            f"{parcel.uri} is run {parcel.snapshot.run.fingerprint}. Runs are never mixed: give "
            "another name, or another --revision"
        )
    _check_not_older(parcel, repository, head, there)


def _check_empty(repository: Repository, there: dict[str, Entry]) -> None:
    others = [path for path in there if not _is_of_owner(path)]
    if others:
        raise MismatchError(
            f"{repository.url} holds {len(others):,} files that are of no run of vqpipe, such as "
            f"{others[0]}: give another name, or another --revision, or remove them there"
        )


def _is_of_owner(path: str) -> bool:
    """Tells whether a file is one that every data set may have."""
    name = path.upper()
    return name.startswith((".GIT", "LICENSE", "LICENCE")) or path == CARD


def _name_run(repository: Repository, head: str) -> str:
    try:
        return f"run {parse_run(repository.read(RUN, head), repository.url).fingerprint}"
    except MismatchError:
        return f"its {RUN} is none that this version of vqpipe reads"


def _check_not_older(
    parcel: Parcel, repository: Repository, head: str, there: dict[str, Entry]
) -> None:
    ours, newer = _generations(load_plan(parcel.uri)), []
    if PLAN in there:
        data = repository.read(PLAN, head)
        theirs = _generations(parse_plan(f"{repository.url}: {PLAN}", data))
        newer = [name for name, at in theirs.items() if at > ours.get(name, -1)]
    paths = {item.path for item in parcel.items}
    newer += [path for path in there if path.startswith("data/") and path not in paths]
    if newer:
        raise MismatchError(
            f"{repository.url} has shards that {parcel.uri} has not, or has older ones of "
            f"({newer[0]}): this is an earlier state of the same run, or one that is not complete. "
            "Push the sink that they came from"
        )


def _generations(plan: Plan) -> dict[str, int]:
    return dict(zip(plan.names, plan.table["generation"].to_pylist(), strict=True))


def _write_card(job: Push, parcel: Parcel, place: HubPlace, theirs: bytes | None) -> bytes:
    run = parcel.snapshot.run
    sink, cards = open_sink(parcel.uri, run), Cards(find_card(parcel.uri), theirs)
    rows = Rows(data_types(parcel.snapshot), run.facts.codes, run.facts.kept)
    card = write_hub_card(sink, read_totals(sink), rows, place, cards)
    return set_licence(card, job.license) if job.license else card


def _say(shipment: Shipment) -> None:
    total = len(shipment.parcel.items) + 1
    done = shipment.sent_files + shipment.kept_files
    said = f"  {done:,} of {total:,} files are there, {describe_bytes(shipment.sent_bytes)} sent"
    stderr().print(said, style="dim")


def _print(shipment: Shipment, place: HubPlace, card: bytes) -> None:
    parcel, repository = shipment.parcel, shipment.repository
    everything = f"{len(parcel.items) + 1:,}, {describe_bytes(parcel.total_bytes + len(card))}"
    sent = f"{shipment.sent_files:,} files, {describe_bytes(shipment.sent_bytes)}"
    fields: Fields = [
        ("data set", repository.url),
        ("commit", shipment.head),
        ("run", parcel.snapshot.run.fingerprint),
        ("files", everything),
        ("sent", f"{sent}; {shipment.kept_files:,} were there already"),
        ("read it", place.load_line),
    ]
    if not has_licence(card):
        said = "README.md names none: add --license, or write it into the card"
        fields.append(("licence", Prose(said)))
    print_fields(stdout(), f"push {parcel.uri}", fields)
