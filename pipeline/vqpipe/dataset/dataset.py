"""Codes as a trainer takes them: an iterable of batches, in an order that is a function.

    (seed, epoch, places behind)  ->  the same samples in the same order, in any world of ranks and
                                      workers, which may change in the middle of an epoch

What happened is four numbers, the same on all ranks, and all that a checkpoint has to keep.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.utils.data import IterableDataset, get_worker_info

from vqpipe.dataset.cache import Cache, default_folder
from vqpipe.dataset.columns import Shape, default_names, find_columns
from vqpipe.dataset.index import Views, make_index, make_sorter
from vqpipe.dataset.loader import SEEN, Batch, CodesLoader
from vqpipe.dataset.options import (
    SHAPE,
    DType,
    check_columns,
    check_whole,
    check_word,
    find_rank,
    find_seed,
    find_snapshot,
    names_of,
    ordering_of,
)
from vqpipe.dataset.order import Drawn, Order
from vqpipe.dataset.pictures import PIXELS, Pictures
from vqpipe.dataset.reader import REPEAT, Reader, Source, lot_of
from vqpipe.dataset.schedule import draw, is_behind_end
from vqpipe.dataset.shares import Block, Shares, Tail
from vqpipe.errors import ConfigError, MismatchError
from vqpipe.sink.objects import CODES
from vqpipe.sink.parts import column_bytes, data_types

Position = tuple[int, int, int]
"""Seed, epoch, places behind."""
_ORDER = "1"
"""Version of what the order is a function of."""
_CACHE_BYTES = 200 * 10**9


class CodesDataset(IterableDataset[Batch]):
    """Codes of a sink of `vqpipe encode`, in batches.

        data = vqpipe.CodesDataset("codes/", batch_size=256, seed=1)
        for batch in data.loader(num_workers=4):
            batch["codes"]  # (256, n) int64

    A batch has an entry for each column, and `__sample__`, (B,): which samples these are, the same
    numbers in every epoch; `__repeat__`, (B,): which of them fill up the epoch and were there
    before; `__seen__`: how many places of the epoch are behind once all ranks have this batch; and
    `__shape__`, that of an image's codes, such as (h, w).

    Each pass of `loader` is an epoch: one that is left early is not gone on with, but by
    `load_state_dict`. In a `DataLoader` of your own, batches are made here: it wants
    `batch_size=None`, and `set_epoch` before each pass.
    """

    def __init__(  # noqa: PLR0913 (what a trainer may say)
        self,
        sink: str | os.PathLike[str],
        *,
        batch_size: int = 256,
        columns: Sequence[str] | str | None = None,
        filter: str | None = None,  # noqa: A002 (the word that readers of tables have)
        views: Views = "one",
        seed: int = 0,
        shuffle: bool = True,
        tail: Tail = "pad",
        rank: int | None = None,
        world: int | None = None,
        window: int | None = None,
        dtype: DType = "int64",
        as_numpy: bool = False,
        decode: bool = False,
        model: str | None = None,
        device: str = "cpu",
        cache: str | os.PathLike[str] | None = None,
        cache_bytes: int = _CACHE_BYTES,
        threads: int = 4,
        generation: int | None = None,
        allow_incomplete: bool = False,
        snapshot: str | os.PathLike[str] | None = None,
    ) -> None:
        """Opens a sink: reads its plan and a footer of each object.

        Args:
            sink: Folder or s3://bucket/prefix.
            batch_size: Samples of a batch, on each rank.
            columns: Which columns come along, one or several; None is codes and all that was kept.
            filter: Which samples there are, an expression in the words of `--where`, such as
                `label < 10 and width >= 256`; None is all.
            views: Of images with several views, `one`, drawn by seed, epoch and key, or `all`, each
                a sample of its own.
            seed: Of all that is drawn.
            shuffle: Whether samples come in an order drawn by lot, or as they lie.
            tail: What becomes of samples at the end of an epoch that do not fill a batch on all
                ranks: `pad` fills it with samples of the beginning, marked in `__repeat__`; `drop`
                leaves them out; `uneven` shares them out, so that some batches are smaller and,
                where there are fewer samples than ranks, some ranks have one batch less.
            rank: This process's place among those that share the batches; None is that of
                torch.distributed, or of the environment of torchrun, or 0.
            world: How many they are.
            window: Draw the order in windows of about so many samples, of shards drawn by lot,
                three of which are on the disk at a time; None has all samples there.
            dtype: Of codes; `stored` is that of the sink.
            as_numpy: Give arrays of numpy instead of tensors.
            decode: Decode codes, into `pixels`, (B, 3, H, W) uint8.
            model: For that, and for `decode_codes`, where the model is now, if not where the run
                had it.
            device: For both, where it runs, as torch calls it.
            cache: Folder for decoded rows, on a disk of this machine; None is `VQPIPE_CACHE`, or
                vqpipe/codes in the user's folder of caches.
            cache_bytes: Most bytes of all that is in it.
            threads: That decode shards, in each process.
            generation: Leave out what was planned later (`vqpipe encode --extend`).
            allow_incomplete: Read what is committed of a run that is not complete.
            snapshot: File that says which objects are read: made of what is there now unless it is
                there, so that every rank, and every later start, reads the same.

        Raises:
            ConfigError: If an option is not possible; names it.
            MismatchError: If `sink` is none of `vqpipe encode`.
            IncompleteError: If it is not complete.
            StorageError: If it has objects of another run, or the store does not answer.
        """
        super().__init__()
        check_whole(batch_size=batch_size, window=window, threads=threads, cache_bytes=cache_bytes)
        check_word("views", views, Views)
        check_word("tail", tail, Tail)
        check_word("dtype", dtype, DType)
        self.batch_size, self.tail = batch_size, tail
        self.rank, self.world = find_rank(rank, world)
        self._dtype, self._as_numpy = dtype, as_numpy
        found = find_snapshot(sink, snapshot, generation, allow_incomplete=allow_incomplete)
        types = data_types(found)
        names = default_names(types, found.run) if columns is None else names_of(columns)
        sorter = make_sorter(found, types, views, filter)
        read = find_columns(types, names, found.run.facts.vectors)
        place = Cache(Path(cache) if cache is not None else default_folder(), cache_bytes)
        index = make_index(found, views, sorter, place)
        heaps = column_bytes(found) if any(each.kind != "numbers" for each in read) else {}
        self._source = Source(index, read, place, threads, heaps)
        self._source.check_room(window)
        self._ordering = ordering_of(index, batch_size, window, tail, is_shuffled=shuffle)
        check_columns(read, decodes=decode)
        self._decodes, self._pictures = decode, Pictures.of(found, model, device)
        self._now = _shared(3)  # seed, epoch, places behind: of the next pass, in all processes
        self._now[0] = find_seed(seed)
        self._own: Position | None = None  # the same, as a worker was told that goes on
        self._pass: Position | None = None  # where the pass is that has begun in this process
        self.turn = 0
        """Counts how often another position was set."""
        self._check_batches(filter)

    def _check_batches(self, condition: str | None) -> None:
        """Refuses to leave all samples out."""
        step, images = self.batch_size * self.world, self._source.index.snapshot.samples
        if condition and images and not self.samples:
            raise ConfigError(f"filter {condition!r} leaves none of {images:,} images")
        if self.tail == "drop" and self.samples and not len(self):
            raise ConfigError(
                f"{self.samples:,} samples are fewer than the {step:,} that a step takes on all "
                'ranks, so that tail="drop" leaves none: take smaller batches, or tail="pad"'
            )

    def __repr__(self) -> str:
        shapes = " or ".join(" x ".join(map(str, shape)) for shape in self.shapes[:3])
        more = f" (of {len(self.shapes)})" if len(self.shapes) > 1 else ""
        return (
            f"<CodesDataset {self._source.index.snapshot.uri}: {self.samples:,} samples of {shapes}"
            f"{more} codes, batches of {self.batch_size}, rank {self.rank} of {self.world}>"
        )

    @property
    def samples(self) -> int:
        """How many samples an epoch has."""
        return self._source.index.samples

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes that codes of an image may have: one, unless images differ."""
        return self._source.index.sorter.shapes

    @property
    def codebook_size(self) -> int:
        """Entries of the largest codebook: codes are from 0 to below it."""
        return self._source.index.snapshot.run.facts.codes.codebook_size

    @property
    def digest(self) -> int:
        """63 bits that tell which samples there are and what their order is a function of."""
        ordering = self._ordering
        said = [_ORDER, self._source.index.digest, ordering.is_shuffled, ordering.window]
        if len(self.shapes) > 1:
            said += [ordering.unit, ordering.drops_short]
        data = hashlib.sha256(json.dumps(said).encode()).digest()
        return int.from_bytes(data[:8], "big") >> 1

    @property
    def seed(self) -> int:
        """Of all that is drawn."""
        return int(self._now[0])

    @property
    def epoch(self) -> int:
        """The epoch that comes next, or is under way."""
        return int(self._now[1])

    @property
    def seen(self) -> int:
        """Places of that epoch that are behind when the next pass begins."""
        return int(self._now[2])

    @property
    def is_over(self) -> bool:
        """Whether an epoch is behind to its end, on all ranks."""
        return self.seen > 0 and not self._shares(self._order(), self.seen).steps(0)

    @property
    def end(self) -> int:
        """Places that are behind once all ranks are through with the next pass."""
        return self._shares(self._order(), self.seen).end

    def set_epoch(self, epoch: int) -> None:
        """Has the next pass be an epoch from its beginning, each in an order of its own.

        Workers that are already there are told as well.
        """
        self._set(self.seed, epoch, 0)

    def _set(self, *position: int) -> None:
        self._now[0], self._now[1], self._now[2] = position
        self._pass, self.turn = None, self.turn + 1

    def state_dict(self, batch: Batch | None = None) -> dict[str, int]:
        """Returns what a checkpoint has to keep: four numbers, the same on all ranks.

        With workers, `loader.state_dict()` is what is wanted: it knows the last batch.

        Args:
            batch: The last one that was used, where workers make them, who are ahead of that; None
                is the last one that was made in this process.
        """
        seed, epoch, seen = self._pass or (self.seed, self.epoch, self.seen)
        seen = seen if batch is None else batch[SEEN]
        state = {"seed": seed, "epoch": epoch, "seen": seen, "digest": self.digest}
        worker = get_worker_info()
        return state if worker is None else {**state, "worker": worker.id}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Has the next pass go on where a state was taken, whatever the world and the workers are.

        Raises:
            ConfigError: If it is no state.
            MismatchError: If it is of other samples, or of another order.
        """
        missing = {"seed", "epoch", "seen", "digest"} - state.keys()
        if missing:
            raise ConfigError(f"the state lacks {', '.join(sorted(missing))}: it is none of ours")
        if state["digest"] != self.digest:
            raise MismatchError(
                "the state is of another order of samples: "
                f"{self._source.index.snapshot.uri} had other rows when it was taken, or filter, "
                "views, shuffle or window were others (or, where codes differ in their shapes, "
                "batch_size or tail)"
            )
        position = find_seed(state["seed"]), state["epoch"], state["seen"]
        if state["seen"] < 0 or state["seen"] % self._ordering.unit:
            raise MismatchError(f"seen is {state['seen']}, which are no whole batches")
        if get_worker_info() is None:
            self._set(*position)
        else:  # each worker has a state of its own, and none tells another
            self._own = position

    def __len__(self) -> int:
        """Returns how many batches this rank gets in what is left of the epoch."""
        return self._shares(self._order(), self.seen).steps(self.rank)

    def _order(self) -> Order:
        return self._ordering.epoch(self.seed, self.epoch)

    def _shares(self, order: Order, seen: int) -> Shares:
        unit = self._ordering.unit
        return Shares(order.size, seen, self.batch_size, self.world, self.tail, unit)

    def __getitem__(self, index: object) -> NoReturn:
        """Refuses what asks for one sample.

        Raises:
            TypeError: Always; says how samples are had.
        """
        raise TypeError(
            f"{self!r} has no sample {index!r}: it gives batches, in the order of its epoch, to "
            "`for batch in data`. Rows by number are in what vqpipe export --to npy writes"
        )

    def __iter__(self) -> Iterator[Batch]:
        """Returns the batches of this rank, and of this worker among those of a DataLoader."""
        worker, own = get_worker_info(), self._own
        seed, epoch, seen = own or (self.seed, self.epoch, self.seen)
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        first = first if own is None else 0  # a worker's own is where its next batch begins
        order = self._ordering.epoch(seed, epoch)
        shares = self._shares(order, seen)
        self._pass, self._own = (seed, epoch, shares.behind(first - 1)), None
        batches = self._batches(
            Reader(self._source, order, lot_of(seed, epoch)),
            shares,
            range(first, shares.steps(self.rank), stride),
        )
        return self._followed(batches, shares, (seed, epoch), stride)

    def _batches(self, reader: Reader, shares: Shares, steps: range) -> Iterator[Batch]:
        with reader:
            for step, block, drawn in draw(reader.order, shares, self.rank, steps):
                batch = self._batch(reader, block, drawn)
                batch[SEEN] = shares.behind(step)
                yield batch

    def _followed(
        self, batches: Iterator[Batch], shares: Shares, of: tuple[int, int], stride: int
    ) -> Iterator[Batch]:
        """Yields batches, and keeps in mind where the pass is, unless another one was asked for."""
        turn, ahead = self.turn, (stride - 1) * self.batch_size * self.world
        for batch in batches:
            if self.turn == turn:  # before the next one of this worker
                self._pass = *of, min(batch[SEEN] + ahead, shares.size)
            yield batch
        if self.turn == turn:
            self._pass = *of, shares.end

    def _batch(self, reader: Reader, block: Block, drawn: Drawn) -> Batch:
        order = reader.order
        picked = list(order.pick_drawn(drawn, fills=self.tail == "pad"))
        found = reader.take(picked)
        shape = self.shapes[picked[0].pool]
        if self._decodes:
            found[PIXELS] = self._pictures.decode(found[CODES], shape)
        if block.last > order.size:
            found[REPEAT] |= is_behind_end(order, block, len(found[REPEAT]))
        if CODES in found and self._dtype != "stored":
            found[CODES] = found[CODES].astype(self._dtype)
        if not self._as_numpy:
            found = {name: self._tensor(name, value) for name, value in found.items()}
        return {**found, SHAPE: shape}

    def _tensor(self, name: str, value: Any) -> Any:  # noqa: ANN401 (arrays, or lists)
        if isinstance(value, list):
            return value
        tensor = torch.from_numpy(value)
        is_bits = any(each.name == name and each.is_bfloat16 for each in self._source.columns)
        return tensor.view(torch.bfloat16) if is_bits else tensor

    def decode_codes(self, codes: torch.Tensor, shape: Shape | None = None) -> torch.Tensor:
        """Returns the images of codes, such as a trained model makes: (B, 3, H, W) uint8 RGB.

        Args:
            codes: (B, n) or (B, *shape), whole numbers, on any device; from 0 to below
                `codebook_size`.
            shape: Of an image's codes; None is that of all images.

        Raises:
            ConfigError: If codes are out of range, or none of an image; or if images differ in
                their shapes and none is given.
            CheckpointError: If the model is not there, or damaged.
            MismatchError: If its codebook is another one.
        """
        if shape is None and len(self.shapes) > 1:
            raise ConfigError("images differ in the shape of their codes: say which by shape")
        flat, shape = codes.detach().flatten(1).cpu().numpy(), shape or self.shapes[0]
        if flat.shape[1] != math.prod(shape):
            raise ConfigError(
                f"codes has {flat.shape[1]} codes an image; a shape of {shape} has "
                f"{math.prod(shape)}"
            )
        try:
            return torch.from_numpy(self._pictures.decode(flat, shape))
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def check_workers(self, batches: int) -> None:
        """Checks that windows fit into the cache where workers are so many batches ahead.

        Raises:
            ConfigError: If they do not.
        """
        self._source.check_room(self._ordering.window, batches * self.batch_size * self.world)

    def loader(self, num_workers: int = 0, **options: Any) -> CodesLoader:  # noqa: ANN401
        """Returns these batches made by workers, and knows which of them were given out.

        Args:
            num_workers: Processes that make them; 0 is this one.
            **options: Of `torch.utils.data.DataLoader`, such as `pin_memory`.
        """
        return CodesLoader(self, num_workers, **options)


def _shared(size: int) -> torch.Tensor:
    """Returns whole numbers that workers see as they are now; in memory without a name."""
    numbers = torch.zeros(size, dtype=torch.int64)
    numbers.share_memory_()  # type: ignore[no-untyped-call]
    return numbers
