"""The one door for files that a user brings: looked at before they are opened, so that nothing waits and nothing is read for ever.

A FIFO, a device, a socket, a folder, a file that may not be read, a circle of symbolic links, a file beyond its limit: each is
one error of the caller's kind that names the file.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from kdsearch.errors import DataError, UserError, nearest

_KINDS = {
    stat.S_IFDIR: "is a folder",
    stat.S_IFIFO: "is a FIFO",
    stat.S_IFCHR: "is a device",
    stat.S_IFBLK: "is a device",
    stat.S_IFSOCK: "is a socket",
}
_FAULTS = {
    errno.EACCES: "may not be read (permission denied)",
    errno.EPERM: "may not be read (permission denied)",
    errno.ELOOP: "is a symbolic link that leads back to itself",
    errno.ENAMETOOLONG: "has a name that is too long",
}


def regular(path: Path, expected: str, *, most: int | None = None, error: type[UserError] = DataError) -> Path:
    """The path of a regular file that can be opened: for libraries that take a path.

    Args:
        expected: in words, for the message.
        most: bytes.

    Raises:
        error: anything else, or a larger file.
    """
    opened(path, expected, most=most, error=error).close()
    return path


def opened(path: Path, expected: str, *, most: int | None = None, error: type[UserError] = DataError) -> BufferedReader:
    """A regular file, open for reading. Arguments and errors as of `regular`."""
    try:
        found = os.stat(path)  # before opening: an open FIFO waits, and some devices do something when they are opened
        _check(found, path, expected, most, error)
        stream = os.fdopen(
            os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)), "rb"
        )
    except (OSError, ValueError) as fault:
        raise _told(fault, path, expected, error) from None
    try:
        _check(
            os.fstat(stream.fileno()), path, expected, most, error
        )  # what was opened, whatever the name meant before
    except BaseException:
        stream.close()
        raise
    return stream


def content(path: Path, expected: str, *, most: int, error: type[UserError] = DataError) -> bytes:
    """The bytes of a regular file. Arguments and errors as of `regular`; never more than `most` bytes are read."""
    with opened(path, expected, most=most, error=error) as stream:
        try:
            data = stream.read(most + 1)
        except OSError as fault:
            raise _told(fault, path, expected, error) from None
    if data is not None and len(data) <= most:
        return data
    raise error(f"more than {most:,} bytes" if data else "cannot be read", file=path, expected=expected)


def lines(path: Path, expected: str, *, most: int, error: type[UserError] = DataError) -> Iterator[bytes]:
    """The lines of a regular file, with their ends, one at a time: a file may be larger than memory.

    Arguments and errors as of `regular`, but that `most` is of each line.
    """
    with opened(path, expected, error=error) as stream:
        number = 0
        while True:
            number += 1
            try:
                line = stream.readline(most + 1)
            except OSError as fault:
                raise _told(fault, path, expected, error) from None
            if not line:
                return
            if len(line) > most:
                raise error(f"more than {most:,} bytes", file=path, line=number, expected=expected)
            yield line


def entries(folder: Path, expected: str = "a folder", *, error: type[UserError] = DataError) -> list[Path]:
    """What is in a folder, sorted. Raise `error` where it is none, may not be read, or holds a name that is no UTF-8."""
    try:
        found = sorted(folder.iterdir(), key=lambda each: each.name)
    except (OSError, ValueError) as fault:
        raise _told(fault, folder, expected, error) from None
    for each in found:
        if not is_text(each.name):
            raise error(f"has an entry {os.fsencode(each.name)!r}", file=folder, expected="names in UTF-8")
    return found


def below(folder: Path, *, error: type[UserError] = DataError) -> Iterator[Path]:
    """Every file below a folder, by folder and name; symbolic links to folders are not followed. Errors as of `entries`."""
    for each in entries(folder, error=error):
        if each.is_dir() and not each.is_symlink():
            yield from below(each, error=error)
        else:
            yield each


def there(path: Path, asked: str = "", *, error: type[UserError] = DataError) -> Path:
    """The path of a file or folder that exists. Raise `error` for FIFOs, devices, sockets, and what cannot be looked at."""
    expected = "a file or folder"
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise error(
            f"'{asked or path}' does not exist", nearest=similar(path), fix=f"Looked for {path.absolute()}."
        ) from None
    except (OSError, ValueError) as fault:
        raise _told(fault, path, expected, error) from None
    if not stat.S_ISDIR(found.st_mode):
        _check(found, path, expected, None, error)
    return path


def no_folder(path: Path) -> str:
    """Why nothing can be kept in a folder of that path, which need not be there yet; "" where something can."""
    for each in (path, *path.parents):
        try:
            found = os.stat(each)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as fault:
            return _FAULTS.get(getattr(fault, "errno", None) or 0, f"cannot be looked at: {fault}")
        if not stat.S_ISDIR(found.st_mode):
            return (
                f"{_KINDS.get(stat.S_IFMT(found.st_mode), 'is a file')}" if each == path else f"is below a file, {each}"
            )
        return ""
    return ""


def lies(path: Path, *, error: type[UserError] = DataError) -> bool:
    """Whether anything has that name. Raise `error` where it cannot be looked for: no permission, or no name at all."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as fault:
        raise _told(fault, path, "", error) from None
    return True


def is_text(name: str) -> bool:
    """Whether a name, as the system gave it, is UTF-8 (others have surrogates in place of their bytes)."""
    return not any("\ud800" <= c <= "\udfff" for c in name)


def names(folder: Path) -> list[str]:
    """What is in a folder, for suggestions; nothing where it cannot be read."""
    try:
        return [each.name for each in folder.iterdir() if is_text(each.name)]
    except OSError:
        return []


def similar(path: Path) -> str:
    """The name in its folder that a path was most likely meant to have, or ""."""
    there = names(path.parent)
    return "" if path.name in there or not is_text(path.name) else nearest(path.name, there)


def _check(found: os.stat_result, path: Path, expected: str, most: int | None, error: type[UserError]) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "is no regular file")
        raise error(kind, file=path, expected=expected)
    if most is not None and found.st_size > most:
        raise error(f"{found.st_size:,} bytes", file=path, expected=f"{expected} of at most {most:,} bytes")


def _told(fault: Exception, path: Path, expected: str, error: type[UserError]) -> UserError:
    if isinstance(fault, FileNotFoundError | NotADirectoryError):
        problem = "no such file" if not (isinstance(fault, NotADirectoryError) and path.exists()) else "is a file"
        return error(problem, file=path, nearest=similar(path), expected=expected)
    number = getattr(fault, "errno", None)
    said = str(getattr(fault, "strerror", None) or fault)
    return error(_FAULTS.get(number or 0, f"cannot be read: {said}"), file=path, expected=expected)
