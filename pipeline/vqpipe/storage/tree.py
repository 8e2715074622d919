"""A folder of a file system as a source is listed: links followed, each real folder once.

fsspec's own walk takes a link to a folder for a file, so that all that lies behind it is passed
over. Here it is walked as what it leads to, under the path that it has in the source. Folders that
are links' are told apart by device and inode: a loop ends where it began, and of several ways to
one folder the one without links counts, else the first in order of paths.
"""

import errno
import os
import stat
from collections import deque
from dataclasses import dataclass, field

State = os.stat_result | str
"""What stands at a path: the state of a file, or words for what is none."""

_FOLDER = "a folder"
_LEADS_NOWHERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


@dataclass
class Tree:
    """What is below a folder; paths are relative to it."""

    files: dict[str, State] = field(default_factory=dict)
    """All but folders, links to folders, and hidden ones (`.name`)."""
    hidden: list[str] = field(default_factory=list)
    """Hidden files, but for those that macOS puts beside each file (`._name`)."""
    unsearched: list[str] = field(default_factory=list)
    """Hidden folders and links to such; they are not walked."""
    followed: list[str] = field(default_factory=list)
    """Links to folders that were walked."""
    repeated: list[str] = field(default_factory=list)
    """Links to folders, and folders behind links, that another path had led to."""


def walk(root: str, depth: int | None = None) -> Tree:
    """Returns what is below a folder.

    Args:
        root: The folder, which may be a link.
        depth: Levels to walk, 1 for the folder alone; all of them under every path that leads
            there. None walks to any depth, and each folder once.

    Raises:
        FileNotFoundError: If there is no such folder.
        OSError: If it, or one below it, may not be listed.
    """
    walker = _Walker(root, depth)
    try:
        found = os.stat(root)
    except NotADirectoryError as error:
        raise FileNotFoundError(root) from error
    if not stat.S_ISDIR(found.st_mode):
        raise FileNotFoundError(root)
    walker.enter("", found, level=1)
    while walker.links:
        path, level = walker.links.popleft()
        walker.follow(path, level)
    return walker.tree


class _Walker:
    def __init__(self, root: str, depth: int | None) -> None:
        self.tree = Tree()
        self.links: deque[tuple[str, int]] = deque()
        """Links to folders that wait to be followed, and the level that they lead to."""
        self._root, self._depth = root, depth
        self._known: set[object] = set()

    def follow(self, path: str, level: int) -> None:
        """Takes in what a link leads to, unless it has been taken in."""
        found = self._state(path)
        if found is None:
            return
        if self._is_known(path, found):
            self.tree.repeated.append(path)
        else:
            self.tree.followed.append(path)
            self.enter(path, found, level)

    def enter(self, start: str, found: os.stat_result, level: int) -> None:
        """Takes in a folder and the real ones below it; links have to wait."""
        self._known.add(self._identity(start, found))
        stack = [(start, level)]
        while stack:
            folder, level = stack.pop()
            deeper, links = self._scan(folder)
            if self._depth is None or level < self._depth:
                stack += [(path, level + 1) for path in reversed(deeper) if self._is_new(path)]
                self.links += [(path, level + 1) for path in links]

    def _is_new(self, path: str) -> bool:
        """Tells whether a real folder is to be taken in, and notes that it has been.

        One that no link leads to always is: it may be mounted in two places on purpose.
        """
        found = self._state(path)
        if found is None:
            return False
        if self.tree.followed and self._is_known(path, found):
            self.tree.repeated.append(path)
            return False
        self._known.add(self._identity(path, found))
        return True

    def _is_known(self, path: str, found: os.stat_result) -> bool:
        return self._depth is None and self._identity(path, found) in self._known

    def _identity(self, path: str, found: os.stat_result) -> object:
        """Returns what tells folders apart; some network file systems number nothing."""
        if found.st_ino:
            return found.st_dev, found.st_ino
        return os.path.realpath(os.path.join(self._root, path))

    def _state(self, path: str) -> os.stat_result | None:
        """Returns the state of a folder; None if it went while its neighbours were looked at."""
        try:
            return os.stat(os.path.join(self._root, path))
        except FileNotFoundError:
            return None

    def _scan(self, folder: str) -> tuple[list[str], list[str]]:
        """Takes in the files of one folder; returns the folders and the links to folders in it."""
        deeper, links = [], []
        for entry in self._entries(folder):
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name[0] == ".":
                self._note_hidden(entry, path)
            elif entry.is_dir(follow_symlinks=False):
                deeper.append(path)
            elif (state := _look_at(entry)) == _FOLDER:
                links.append(path)
            elif state is not None:
                self.tree.files[path] = state
        return deeper, links

    def _note_hidden(self, entry: os.DirEntry[str], path: str) -> None:
        if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
            self.tree.unsearched.append(path)
        elif not entry.name.startswith("._"):
            self.tree.hidden.append(path)

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(os.path.join(self._root, folder)) as found:
                return sorted(found, key=lambda entry: entry.name)
        except FileNotFoundError:
            if not folder:
                raise
            return []  # it went while its neighbours were looked at


def _look_at(entry: os.DirEntry[str]) -> State | None:
    """Returns what stands at a path, or where its link leads; None if it went meanwhile."""
    try:
        found = entry.stat()
    except OSError as error:
        if error.errno not in _LEADS_NOWHERE:
            raise
        is_link = entry.is_symlink()
        return f"a link to {os.readlink(entry.path)!r}, which is not there" if is_link else None
    if stat.S_ISDIR(found.st_mode):
        return _FOLDER
    return found if stat.S_ISREG(found.st_mode) else "a pipe, a socket or a device"
