"""Reading files that may come from anyone, and writing ours whole or not at all.

Nothing here runs code that a file holds, or takes more memory than the file's size calls for:
pickles are read as data (pickles.py), sizes that a file declares are compared with its own, and
archives go through tarfile's `data` filter.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import json
import math
import mmap
import os
import pickle
import secrets
import shutil
import stat
import sys
import tarfile
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from .environment import cleaned_up
from .pickles import Unreadable, unpickle_arrays
from .screen import printable

if TYPE_CHECKING:
    import paddle


# Environment variable: folders that this process, or one that has started it, keeps for itself.
HELD = "ALIGNMENT_FOLDERS_HELD"


class CannotRun(Exception):
    """What the user has to mend before a step can run: one line, without a traceback."""


def shown(path: str | os.PathLike) -> str:
    """`path` in one line, as the user would type it from here, or from a folder in here: ../result.

    What is no visible character in it is escaped.
    """
    try:
        relative = os.path.relpath(path)
    except (OSError, ValueError):  # the folder here is gone; a path that is empty
        relative = str(path)
    return printable(str(path) if relative.startswith("../..") else relative)


def is_utf8(path: str | os.PathLike) -> bool:
    """Whether `path` can be given to a framework's C++ code."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def reason_of(error: BaseException) -> str:
    """Why, in one line: of an error whose message has several, the one that tells.

    A loader's worker sends its traceback as the message: what tells is at its end. Paddle puts
    stacks of C++ before its message, under "Error Message Summary:".
    """
    text = getattr(error, "strerror", None) or str(error)
    lines = [line.strip() for line in _after_stacks(text.splitlines())]
    # Around an error in the backward pass of a PyLayer.
    lines = [line for line in lines if "=== Error message in backward" not in line]
    lines = [line for line in lines if line.strip(" \t-={}") and line != "(External)"]
    if not lines:
        return type(error).__name__
    told = lines[0]
    for line in lines[1:]:  # "Error(s) in loading state_dict for MobileNetV3:" alone tells nothing
        if not told.endswith(":"):
            break
        told = f"{told} {line}"
    return printable(told)


def _after_stacks(lines: list[str]) -> list[str]:
    """The lines of a message without the tracebacks, of Python and of C++, that come first."""
    for number in range(len(lines) - 1, -1, -1):
        line = lines[number].strip()
        if line == "Error Message Summary:":
            return lines[number + 1 :]
        if line.endswith("Traceback (most recent call last):") and not line.startswith("C++"):
            rest = lines[number + 1 :]
            frames = itertools.takewhile(lambda line: line[:1] in ("", " "), rest)
            told = rest[len(list(frames)) :]
            # Without a worker it is not there either: what an OSError says, says enough.
            return [line.removeprefix("OSError: ") for line in told]
    return lines


def described(error: OSError) -> str:
    """An error in one line, with the file that it is about, if it says so."""
    filename = getattr(error, "filename", None)
    reason = reason_of(error)
    if isinstance(filename, (str, os.PathLike)) and filename != "":  # not a number, of a pipe
        return f"{shown(filename)}: {reason}"
    return reason


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`; moves it there at the end, removes it on an error.

    Raises:
        CannotRun: the file cannot be written; `path` is then as it was.
    """
    path = Path(path)
    # Another process, of another container too, or another thread may be writing the same file.
    token = f"{os.getpid()}.{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.stem}.{token}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # torch.save reports a full disk as a RuntimeError about positions in the file.
        reason = reason_of(error) if isinstance(error, OSError) else "no space left, or no access"
        raise CannotRun(_cannot_write(path, reason)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def missing(path: Path) -> bool:
    """Whether there is nothing at `path`, so that it may be made.

    `Path.exists` denies a link that leads nowhere, or to itself, and what is made would replace it.
    """
    return not os.path.lexists(path)


def _cannot_write(path: str | os.PathLike, reason: str) -> str:
    return (
        f"cannot write {shown(path)}: {reason}. Make room or make it writable, "
        "or choose another folder"
    )


def require_writable(folder: Path) -> None:
    """Makes `folder`, and tries it out before any time is spent. Raises: CannotRun."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise CannotRun(_cannot_write(folder, reason_of(error))) from error


@contextlib.contextmanager
def only_user(folder: Path, option: str) -> Iterator[None]:
    """Makes `folder`, and within keeps other runs out of it, not the programs that are started.

    The lock is the system's (flock): it goes with the process that holds it, however that ends.
    Where the file system has none, nobody is kept out.

    Args:
        option: of the command line, that names another folder.

    Raises:
        CannotRun: another run writes into the folder, or nobody can.
    """
    folder = Path(folder)
    held, name = _held(), os.path.realpath(folder)
    if name in held:
        yield
        return
    require_writable(folder)
    path = folder / ".lock"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(
                FileLock(
                    path,
                    timeout=0.2,  # one that ends just now takes its file away: try once more
                    fallback_to_soft=False,  # such a lock would outlast a `kill -9`
                    on_acquired=lambda file: os.write(file, str(os.getpid()).encode()),
                )
            )
            stack.enter_context(cleaned_up(lambda: path.unlink(missing_ok=True)))
        except Timeout:
            raise CannotRun(
                f"another run{_holder(path)} is writing into {shown(folder)}: wait for it, or give "
                f"another {option}"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK):
                raise CannotRun(_cannot_write(path, reason_of(error))) from error
        os.environ[HELD] = json.dumps([*held, name])
        stack.callback(os.environ.__setitem__, HELD, json.dumps(held))
        yield


def _held() -> list[str]:
    """[folder] that a process which started this one keeps; [] if that is not told rightly."""
    try:
        held = json.loads(os.environ.get(HELD, "[]"))
    except (ValueError, RecursionError):
        return []
    return held if isinstance(held, list) else []


def _holder(lock: Path) -> str:
    """ " (process N)", if a lock's file says so."""
    with contextlib.suppress(OSError, ValueError):
        return f" (process {int(lock.read_bytes()[:20])})"
    return ""


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def require_file(path: str | os.PathLike, most: int | None = None) -> None:
    """Raises CannotRun unless `path` is a regular file that can be opened.

    To open a pipe waits for a writer, and a device may have no end.

    Args:
        most: bytes that it may have, or None.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
            raise CannotRun(f"cannot read {shown(path)}: it is {kind}, not a file")
        with open(path, "rb"):
            pass
    except FileNotFoundError as error:
        reason = reason_of(error)
        if os.path.islink(path):
            reason = f"it links to {os.readlink(os.fspath(path))}, which is not there"
        raise CannotRun(f"cannot read {shown(path)}: {reason}") from error
    except OSError as error:
        raise CannotRun(f"cannot read {shown(path)}: {reason_of(error)}") from error
    except ValueError as error:  # a zero byte in the name
        raise CannotRun(f"cannot read {os.fspath(path)!a}: {reason_of(error)}") from error
    if most is not None and status.st_size > most:
        raise CannotRun(
            f"cannot read {shown(path)}: it has {status.st_size:,} bytes, more than the {most:,} "
            "that such a file may have"
        )


def mapped(path: str | os.PathLike) -> mmap.mmap | bytes:
    """The bytes of a file, mapped rather than read: what is not looked at takes no memory.

    Raises:
        CannotRun: it is no regular file, or cannot be read.
    """
    require_file(path)
    with open(path, "rb") as file:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            return b""  # of no length
        except OSError as error:
            raise CannotRun(f"cannot read {shown(path)}: {reason_of(error)}") from error


# The longest lists of names, those of ImageNet-21k, have 800 KB.
MAX_TEXT = 4 * 2**20


def read_text(path: str | os.PathLike, most: int = MAX_TEXT) -> str:
    """A text file in UTF-8, of at most `most` bytes. Raises: CannotRun."""
    require_file(path, most)
    try:
        with open(path, "rb") as file:
            text = file.read(most + 1).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CannotRun(
            f"cannot read {shown(path)}: it is no text in UTF-8, at byte {error.start:,}"
        ) from error
    except OSError as error:
        raise CannotRun(f"cannot read {shown(path)}: {reason_of(error)}") from error
    if "\0" in text:
        raise CannotRun(f"cannot read {shown(path)}: it is no text, there are zero bytes in it")
    return text


def read_json(path: str | os.PathLike, most: int = MAX_TEXT) -> Any:
    """What a JSON file holds. A key that is given twice is an error, as one of them would be lost.

    Args:
        most: bytes that it may have.

    Raises:
        CannotRun: it cannot be read, or is no JSON.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in entries if names.count(name) > 1)
            raise ValueError(f"{twice!a:.80} is given twice")
        return entries

    text = read_text(path, most)
    try:
        return json.loads(text, object_pairs_hook=once)
    except RecursionError as error:
        raise CannotRun(f"cannot read {shown(path)}: it is nested too deeply") from error
    except ValueError as error:
        raise CannotRun(f"cannot read {shown(path)}: {reason_of(error)}") from error


def _named_arrays(path: str | os.PathLike, entries: Any, kind: str) -> dict[str, np.ndarray]:
    """`entries` if they are {name: array}; CannotRun if not."""
    if not isinstance(entries, dict):
        raise CannotRun(f"{shown(path)} is not {kind}: no dictionary in it")
    for key, value in entries.items():
        if not isinstance(key, str) or not isinstance(value, np.ndarray):
            raise CannotRun(f"{shown(path)} is not {kind}: entry {key!a:.80} is no named array")
    return entries


def _read_header(
    path: str | os.PathLike, data: Any, kind: str
) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """(shape, whether Fortran's order, dtype, where the data begins) of a .npy file's bytes.

    Raises:
        CannotRun: it is none, or damaged.
    """
    if data[:4] == b"PK\3\4":
        raise CannotRun(
            f"{shown(path)} is not {kind}: it is an archive of arrays (.npz). Give "
            "an array of it, saved by numpy.save"
        )
    file = io.BytesIO(data[:65_536])
    try:
        version = np.lib.format.read_magic(file)
        read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
        return *read_header(file), file.tell()
    except Exception as error:  # what a damaged header, which is Python, can raise is open
        raise CannotRun(f"{shown(path)} is not {kind}: {reason_of(error)}") from error


def unpickled(path: str | os.PathLike, data: Any, kind: str, begin: int = 0) -> Any:
    """What a pickle of plain values and arrays holds.

    Args:
        data: the bytes of the file `path`; the pickle stands at `begin`.

    Raises:
        CannotRun: the pickle is damaged, hostile, or holds anything else; `path` is not `kind`.
    """
    try:
        return unpickle_arrays(data, begin)
    except Unreadable as error:
        raise CannotRun(f"{shown(path)} is not {kind}: {error}") from error


def load_record(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """What `ReprodLogger.save` wrote: {key: array}.

    Raises:
        CannotRun: the file is missing, damaged, or holds anything but named arrays.
    """
    kind = "a record of reprod_log"
    data = mapped(path)
    shape, _, dtype, begin = _read_header(path, data, kind)
    if shape != () or not dtype.hasobject:
        raise CannotRun(f"{shown(path)} is not {kind}: it holds one array, {dtype} {shape}")
    return _named_arrays(path, unpickled(path, data, kind, begin), kind)


def load_array(path: str | os.PathLike) -> np.ndarray:
    """The one array of a .npy file, in the machine's byte order and C's.

    Raises:
        CannotRun: the file is missing, damaged, not as long as it says, or holds no numbers.
    """
    kind = "an array as numpy.save writes it"
    path = Path(path)
    data = mapped(path)
    shape, fortran, dtype, begin = _read_header(path, data, kind)
    if dtype.kind not in "biufc":
        raise CannotRun(f"{shown(path)} is not {kind}: it holds {dtype!s:.80}, no numbers")
    count = math.prod(shape)
    if count * dtype.itemsize != len(data) - begin or len(shape) > 32:
        raise CannotRun(
            f"{shown(path)} is damaged or cut short: it declares {dtype} {shape}, which is "
            f"{count * dtype.itemsize:,} bytes, and has {len(data) - begin:,}"
        )
    flat = np.frombuffer(data, dtype, count, begin) if count else np.empty(0, dtype)
    array = flat.reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="), order="C")


def load_pdparams(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """A Paddle state_dict as `paddle.save` wrote it: {name: array}.

    Raises:
        CannotRun: the file is missing, damaged, or holds anything but named arrays.
    """
    kind = "a Paddle state_dict"
    state = unpickled(path, mapped(path), kind)
    if isinstance(state, dict):
        state.pop("StructuredToParameterName@@", None)
        # paddle.save keeps a tensor as (its own name, array).
        state = {
            name: value[1] if isinstance(value, tuple) and len(value) == 2 else value
            for name, value in state.items()
        }
    return _named_arrays(path, state, kind)


def save_pdparams(state: Mapping[str, paddle.Tensor], path: str | os.PathLike) -> None:
    """Writes {name: paddle.Tensor} in the format of `paddle.save`, whole or not at all.

    `paddle.save` itself remembers each array and its bytes until the end: three times the memory.
    """
    with whole_file(path) as temporary:
        write_pdparams(state, temporary)


def write_pdparams(state: Mapping[str, paddle.Tensor], path: str | os.PathLike) -> None:
    """`save_pdparams`, not whole if it breaks off."""
    with open(path, "wb") as file:
        pickler = pickle.Pickler(file, protocol=4)
        pickler.fast = True  # remembers nothing; there are no references between entries
        pickler.dump({name: (name, tensor.numpy()) for name, tensor in state.items()})


def unpack(archive: Path, folder: str | os.PathLike) -> None:
    """Unpacks the tar file `archive`, which holds one folder, as `folder`; whole or not at all.

    Raises:
        CannotRun: the archive is missing, damaged, compressed or larger unpacked than packed, an
            entry would land outside of the folder, or the folder cannot be written.
    """
    folder = Path(folder)
    require_file(archive)
    if not hasattr(tarfile, "data_filter"):
        raise CannotRun(
            f"Python {sys.version.split()[0]} cannot unpack archives safely "
            "(tarfile has no data filter): update it to 3.10.12, 3.11.4 or later"
        )
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise CannotRun(
            f"cannot unpack {shown(archive)} into {shown(folder.parent)}: {reason_of(error)}. "
            "Unpack it where you can write, and give --image-dir"
        ) from error
    try:
        with tarfile.open(archive, "r:") as tar:
            _check_entries(tar, folder.name, os.path.getsize(archive))
            tar.extractall(temporary, filter="data")
        if not (temporary / folder.name).is_dir():
            raise tarfile.TarError(f"there is no folder {folder.name} in it")
        os.replace(temporary / folder.name, folder)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        # Two steps started at once: the other one was first.
        if not folder.is_dir():
            raise CannotRun(f"cannot unpack {shown(archive)}: {reason_of(error)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_entries(tar: tarfile.TarFile, name: str, size: int) -> None:
    """That an archive of `size` bytes holds the files of one folder, `name`, and no more bytes."""
    total = 0
    for entry in tar:
        if entry.name != name and not entry.name.startswith(f"{name}/"):
            raise tarfile.TarError(f"its entry {entry.name!a:.80} is not in {name}")
        if not entry.isfile() and not entry.isdir():
            raise tarfile.TarError(f"its entry {entry.name!a:.80} is neither a file nor a folder")
        total += entry.size
        if total > size:
            raise tarfile.TarError("it declares more bytes than it has")


def unpack_once(archive: Path, folder: str | os.PathLike) -> bool:
    """Unpacks `archive` as `folder` if there is nothing; a folder must hold all of its files.

    What is in the files does not matter: they may be changed on purpose.

    Returns:
        bool, whether it was unpacked.

    Raises:
        CannotRun: see `unpack`; or files are missing in the folder, as somebody took them away.
    """
    folder = Path(folder)
    if missing(folder):
        unpack(archive, folder)
        return True
    lacking = []
    if not missing(archive):
        require_file(archive)
        try:
            with tarfile.open(archive, "r:") as tar:
                names = [entry.name for entry in tar if entry.isfile()]
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise CannotRun(f"cannot read {shown(archive)}: {reason_of(error)}") from error
        lacking = [name for name in names if not (folder.parent / name).is_file()]
    if lacking or not folder.is_dir():
        reason = "it is no folder"
        if lacking:
            reason = f"it lacks {len(lacking)} files, {lacking[0]!a:.80} the first"
        raise CannotRun(
            f"{shown(folder)} is not what {shown(archive)} holds: {reason}. Delete it, and it is "
            "unpacked again; for images of your own there is --image-dir or --data-path"
        )
    return False


def write_json(value: Any, path: str | os.PathLike, indent: int | None = 2) -> None:
    """Writes plain values as JSON, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=indent) + "\n", encoding="utf-8")


def place_of(error: BaseException) -> str:
    """Where in the user's own code an exception was raised, " (FILE, line N)": the innermost line.

    "" if there is none.
    """
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename
        and not frame.filename.startswith("<")
        and HERE not in Path(frame.filename).resolve().parents
    ]
    return f" ({shown(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""


HERE = Path(__file__).resolve().parent
