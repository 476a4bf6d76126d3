"""Reading files that may come from anyone, and writing ours whole or not at all.

Nothing here runs code that a file holds: weights are read with `weights_only=True`, pickles with
an unpickler that knows NumPy arrays only, archives through tarfile's `data` filter.
"""

import contextlib
import itertools
import os
import pickle
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from .screen import printable


class CannotRun(Exception):
    """What the user has to mend before a step can run: one line, without a traceback."""


def shown(path):
    """`path` in one line, as the user would type it from here, or from a folder in here: ../result.

    What is no visible character in it is escaped.
    """
    try:
        relative = os.path.relpath(path)
    except (OSError, ValueError):  # the folder here is gone; a path that is empty
        relative = str(path)
    return printable(str(path) if relative.startswith("../..") else relative)


def is_utf8(path):
    """Whether `path` can be given to a framework's C++ code."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def first_line(error):
    """Why, in one line: of an error whose message has several, the one that tells.

    A loader's worker sends its traceback as the message: what tells is at its end. Paddle puts
    stacks of C++ before its message, under "Error Message Summary:".
    """
    text = getattr(error, "strerror", None) or str(error)
    lines = [line.strip() for line in _after_stacks(text.splitlines()) if line.strip(" \t-=")]
    if not lines:
        return type(error).__name__
    told = lines[0]
    for line in lines[1:]:  # "Error(s) in loading state_dict for MobileNetV3:" alone tells nothing
        if not told.endswith(":"):
            break
        told = f"{told} {line}"
    return printable(told)


def _after_stacks(lines):
    """The lines of a message without the tracebacks, of Python and of C++, that come first."""
    for number in range(len(lines) - 1, -1, -1):
        line = lines[number].strip()
        if line == "Error Message Summary:":
            return lines[number + 1 :]
        if line.endswith("Traceback (most recent call last):") and not line.startswith("C++"):
            rest = lines[number + 1 :]
            frames = itertools.takewhile(lambda line: line[:1] in ("", " "), rest)
            return rest[len(list(frames)) :]
    return lines


def described(error):
    """An error in one line, with the file that it is about, if it says so."""
    filename = getattr(error, "filename", None)
    reason = first_line(error)
    named = isinstance(filename, (str, os.PathLike)) and filename != ""  # not a number, of a pipe
    return f"{shown(filename)}: {reason}" if named else reason


@contextlib.contextmanager
def whole_file(path):
    """Yields a temporary path beside `path`; moves it there at the end, removes it on an error.

    Raises:
        CannotRun: the file cannot be written; `path` is then as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # torch.save reports a full disk as a RuntimeError about positions in the file.
        reason = first_line(error) if isinstance(error, OSError) else "no space left, or no access"
        raise CannotRun(
            f"cannot write {shown(path)}: {reason}. Make room or make it writable, "
            "or choose another folder"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def require_file(path):
    """Raises CannotRun unless `path` is a file that can be opened."""
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise CannotRun(f"cannot read {shown(path)}: {first_line(error)}") from error


# All that a pickle of named arrays needs, from NumPy 1 or 2 and from paddle.save.
_ARRAY_GLOBALS = {
    ("builtins", "tuple"),  # paddle.save wraps each tensor as tuple((name, array))
    ("_codecs", "encode"),  # the bytes of an array in protocol 2
    ("collections", "OrderedDict"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
}


class _ArrayUnpickler(pickle.Unpickler):
    """Builds dicts, lists, tuples, strings, numbers and NumPy arrays; refuses all else."""

    def find_class(self, module, name):
        if (module, name) not in _ARRAY_GLOBALS:
            raise pickle.UnpicklingError(f"it wants to load {module}.{name}, which is no array")
        return super().find_class(module, name)


def unpickle_arrays(path, file, kind):
    """What a pickle of plain values and arrays holds.

    Raises:
        CannotRun: the pickle is damaged, or wants to load anything else; `path` is not `kind`.
    """
    # A damaged pickle can raise nearly anything.
    try:
        return _ArrayUnpickler(file, encoding="latin1").load()
    except Exception as error:
        raise CannotRun(f"{shown(path)} is not {kind}: {first_line(error)}") from error


def _named_arrays(path, entries, kind):
    """`entries` if they are {name: array}; CannotRun if not."""
    if not isinstance(entries, dict):
        raise CannotRun(f"{shown(path)} is not {kind}: no dictionary in it")
    for key, value in entries.items():
        if not isinstance(key, str) or not isinstance(value, np.ndarray) or value.dtype == object:
            raise CannotRun(f"{shown(path)} is not {kind}: entry {key!r} is no named array")
    return entries


def load_record(path):
    """What `ReprodLogger.save` wrote: {key: array}.

    Raises:
        CannotRun: the file is missing, damaged, or holds anything but named arrays.
    """
    kind = "a record of reprod_log"
    require_file(path)
    with open(path, "rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
            shape, _, dtype = read_header(file)
        except (ValueError, AttributeError, EOFError) as error:
            raise CannotRun(f"{shown(path)} is not {kind}: {first_line(error)}") from error
        if shape != () or not dtype.hasobject:
            raise CannotRun(f"{shown(path)} is not {kind}: it holds one array, {dtype} {shape}")
        array = unpickle_arrays(path, file, kind)
    record = array.tolist() if isinstance(array, np.ndarray) and array.shape == () else None
    return _named_arrays(path, record, kind)


def load_pdparams(path):
    """A Paddle state_dict as `paddle.save` wrote it: {name: array}.

    Raises:
        CannotRun: the file is missing, damaged, or holds anything but named arrays.
    """
    kind = "a Paddle state_dict"
    require_file(path)
    with open(path, "rb") as file:
        state = unpickle_arrays(path, file, kind)
    if isinstance(state, dict):
        state.pop("StructuredToParameterName@@", None)
        # paddle.save keeps a tensor as (its own name, array).
        state = {
            name: value[1] if isinstance(value, tuple) and len(value) == 2 else value
            for name, value in state.items()
        }
    return _named_arrays(path, state, kind)


def save_pdparams(state, path):
    """Writes {name: paddle.Tensor} in the format of `paddle.save`, whole or not at all.

    `paddle.save` itself remembers each array and its bytes until the end: three times the memory.
    """
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        pickler = pickle.Pickler(file, protocol=4)
        pickler.fast = True  # remembers nothing; there are no references between entries
        pickler.dump({name: (name, tensor.numpy()) for name, tensor in state.items()})


def unpack(archive, folder):
    """Unpacks the tar file `archive`, which holds one folder, as `folder`; whole or not at all.

    Raises:
        CannotRun: the archive is missing or damaged, an entry would land outside of the folder,
            or the folder cannot be written.
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
            f"cannot unpack {shown(archive)} into {shown(folder.parent)}: {first_line(error)}. "
            "Unpack it where you can write, and give --image-dir"
        ) from error
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
        if not (temporary / folder.name).is_dir():
            raise tarfile.TarError(f"there is no folder {folder.name} in it")
        os.replace(temporary / folder.name, folder)
    except (tarfile.TarError, OSError, EOFError) as error:
        # Two steps started at once: the other one was first.
        if not folder.is_dir():
            raise CannotRun(f"cannot unpack {shown(archive)}: {first_line(error)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
