"""Batches made by workers, with a memory of which of them were given out.

Workers are ahead of what was given out, so that only the process that takes their batches knows
where an epoch is. Every pass over the loader is an epoch: the first one goes on where a state was
taken, the next one begins the next epoch, also where a pass was left before its end.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch.utils.data import DataLoader

Batch = dict[str, Any]
"""Columns by name; of each an array, or a list of what is no number."""
SEEN = "__seen__"
"""Of a batch: how many places of the epoch are behind once all ranks have it."""


class Resumable(Protocol):
    """What batches come from."""

    @property
    def epoch(self) -> int:
        """The epoch that comes next, or is under way."""

    @property
    def is_over(self) -> bool:
        """Whether an epoch is behind to its end, on all ranks."""

    def set_epoch(self, epoch: int) -> None:
        """Has the next pass be an epoch from its beginning."""

    def state_dict(self, batch: Batch | None = None) -> dict[str, int]:
        """Returns the state behind a batch."""

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Has the next pass go on where a state was taken."""

    def __len__(self) -> int:
        """Returns how many batches are left of the epoch."""


class CodesLoader:
    """A `DataLoader` over a `CodesDataset` that can be resumed."""

    def __init__(self, dataset: Resumable, num_workers: int = 0, **options: Any) -> None:  # noqa: ANN401
        """Takes options of `torch.utils.data.DataLoader`; workers stay from epoch to epoch."""
        self.dataset = dataset
        how = {"persistent_workers": bool(num_workers), "collate_fn": _as_it_is}
        self._loader: DataLoader[Batch] = DataLoader(
            dataset,  # type: ignore[arg-type]  # an iterable one
            batch_size=None,
            num_workers=num_workers,
            **{**how, **options},
        )
        self._last: Batch | None = None  # as far as it says where the epoch is
        self._is_fresh = True

    def __repr__(self) -> str:
        return f"<CodesLoader, {self._loader.num_workers} workers: {self.dataset!r}>"

    def __len__(self) -> int:
        """Returns how many batches the next pass has."""
        return len(self.dataset)

    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches of an epoch, or of what is left of it."""
        if not self._is_fresh:
            self.set_epoch(self.dataset.epoch + 1)
        self._is_fresh = False
        for batch in self._loader:
            self._last = {SEEN: batch[SEEN]}
            yield batch

    def set_epoch(self, epoch: int) -> None:
        """Has the next pass be this epoch, from its beginning."""
        self.dataset.set_epoch(epoch)
        self._last, self._is_fresh = None, True

    def state_dict(self) -> dict[str, int]:
        """Returns what a checkpoint has to keep: four numbers, the same on all ranks."""
        return self.dataset.state_dict(self._last)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Has the next pass go on where a state was taken, whatever the world and the workers are.

        Where it was taken at the end of an epoch, that is the next epoch.

        Raises:
            MismatchError: If it is of other samples, or of another order.
        """
        self.dataset.load_state_dict(state)
        self._last, self._is_fresh = None, True
        if self.dataset.is_over:
            self.dataset.set_epoch(self.dataset.epoch + 1)


def _as_it_is(batch: Batch) -> Batch:
    """Returns a batch; torch would make tensors of its arrays and lists of its tuples."""
    return batch
