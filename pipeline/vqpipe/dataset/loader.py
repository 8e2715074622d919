"""Batches made by workers, with a memory of which of them were given out.

Workers are ahead of what was given out, so that only the process that takes their batches knows
where an epoch is. Every pass over the loader is an epoch: the first one goes on where a state was
taken, the next one begins the next epoch, also where a pass was left before its end.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch.utils.data import DataLoader

from vqpipe.errors import ConfigError

Batch = dict[str, Any]
"""Columns by name; of each an array, or a list of what is no number."""
SEEN = "__seen__"
"""Of a batch: how many places of the epoch are behind once all ranks have it."""


class Resumable(Protocol):
    """What batches come from."""

    turn: int
    """Counts how often another position was set."""

    @property
    def epoch(self) -> int:
        """The epoch that comes next, or is under way."""

    @property
    def seen(self) -> int:
        """Places of that epoch that are behind when the next pass begins."""

    @property
    def end(self) -> int:
        """Places that are behind once all ranks are through with the next pass."""

    @property
    def is_over(self) -> bool:
        """Whether an epoch is behind to its end, on all ranks."""

    def check_workers(self, batches: int) -> None:
        """Checks that there is room where workers are so many batches ahead."""

    def set_epoch(self, epoch: int) -> None:
        """Has the next pass be an epoch from its beginning."""

    def state_dict(self, batch: Batch | None = None) -> dict[str, int]:
        """Returns the state behind a batch."""

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Has the next pass go on where a state was taken."""

    def __len__(self) -> int:
        """Returns how many batches are left of the epoch."""


_OURS = ("batch_size", "batch_sampler", "collate_fn", "drop_last", "sampler", "shuffle")
"""Options of a `DataLoader` that say how batches are made."""


class CodesLoader:
    """A `DataLoader` over a `CodesDataset` that can be resumed."""

    def __init__(self, dataset: Resumable, num_workers: int = 0, **options: Any) -> None:  # noqa: ANN401
        """Takes options of `torch.utils.data.DataLoader`; workers stay from epoch to epoch.

        Raises:
            ConfigError: If one of them would make other batches, or in another order.
        """
        _check(options)
        self.dataset = dataset
        how = {"persistent_workers": bool(num_workers), "collate_fn": _as_it_is}
        self._loader: DataLoader[Batch] = DataLoader(
            dataset,  # type: ignore[arg-type]  # an iterable one
            batch_size=None,
            num_workers=num_workers,
            **{**how, **options},
        )
        dataset.check_workers(num_workers * (self._loader.prefetch_factor or 1))
        self._turn = -1  # of the position that the last pass began at
        self._seen = 0  # behind what was given out since

    def __repr__(self) -> str:
        return f"<CodesLoader, {self._loader.num_workers} workers: {self.dataset!r}>"

    def __len__(self) -> int:
        """Returns how many batches the next pass has."""
        return len(self.dataset)

    @property
    def _is_told(self) -> bool:
        """Whether the position has been set since the last pass began."""
        return self._turn != self.dataset.turn

    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches of an epoch, or of what is left of it."""
        if not self._is_told:
            self.dataset.set_epoch(self.dataset.epoch + 1)
        self._turn, self._seen, end = self.dataset.turn, self.dataset.seen, self.dataset.end
        for batch in self._loader:
            self._seen = batch[SEEN]
            yield batch
        self._seen = end

    def set_epoch(self, epoch: int) -> None:
        """Has the next pass be this epoch, from its beginning."""
        self.dataset.set_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        """Returns what a checkpoint has to keep: four numbers, the same on all ranks."""
        return self.dataset.state_dict({SEEN: self.dataset.seen if self._is_told else self._seen})

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Has the next pass go on where a state was taken, whatever the world and the workers are.

        Where it was taken at the end of an epoch, that is the next epoch.

        Raises:
            MismatchError: If it is of other samples, or of another order.
        """
        self.dataset.load_state_dict(state)
        if self.dataset.is_over:
            self.dataset.set_epoch(self.dataset.epoch + 1)


def _check(options: Mapping[str, Any]) -> None:
    for name in _OURS:
        if name in options:
            raise ConfigError(
                f"{name} is none of a loader's options: the data set makes the batches"
            )
    if not options.get("in_order", True):
        raise ConfigError("in_order is False, and a state counts on batches that come in order")


def _as_it_is(batch: Batch) -> Batch:
    """Returns a batch; torch would make tensors of its arrays and lists of its tuples."""
    return batch
