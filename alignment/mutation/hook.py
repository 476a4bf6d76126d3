"""In the process that is tested: one file is imported as another source, or its lines are watched.

Standard library only, and nothing of this package: a `sitecustomize` of the user's own process
loads this file by itself. Nothing on the disk is changed.
"""

import importlib.machinery
import json
import os
import sys
import threading

PLAN = "ALIGNMENT_MUTANT"  # environment variable: path of the JSON that `from_environment` reads
FOREIGN_TRACE = "foreign trace"


def install(path, source=None, note=None):
    """From now on the Python file `path` is compiled from `source`, where it is imported.

    Args:
        path: str or path-like; of the file.
        source: bytes. None: the file's own.
        note: called with "imported", each time.
    """
    target = os.path.realpath(path)
    loader = importlib.machinery.SourceFileLoader
    original = loader.get_code

    def get_code(self, fullname):
        if os.path.realpath(self.path) != target:
            return original(self, fullname)
        if note is not None:
            note("imported")
        # Not from the byte code that may lie beside the file; and none is written.
        return compile(self.get_data(self.path) if source is None else source, self.path, "exec")

    loader.get_code = get_code


def watch_lines(paths, note):
    """Calls note(path, line) at each line of some files when it is run for the first time.

    Args:
        paths: real paths.
        note: in whatever thread runs the line.
    """
    wanted, seen, known = set(paths), set(), {}

    def on_line(frame, event, argument):
        if event == "line":
            key = known[frame.f_code.co_filename], frame.f_lineno
            if key not in seen:
                seen.add(key)
                note(*key)
        return on_line

    def on_call(frame, event, argument):
        name = frame.f_code.co_filename
        if name not in known:
            known[name] = os.path.realpath(name) if name.endswith(".py") else name
        return on_line(frame, "line", None) if known[name] in wanted else None

    threading.settrace(on_call)
    sys.settrace(on_call)
    return on_call


def from_environment():
    """Does what the file that PLAN names says: {"file", "source" or null, "log" or null}.

    The log gets a line for each import, and, where there is no source, for each line that is run.
    """
    name = os.environ.get(PLAN)
    if not name:
        return
    with open(name, encoding="utf-8") as file:
        plan = json.load(file)
    source = None
    if plan["source"] is not None:
        with open(plan["source"], "rb") as file:
            source = file.read()
    log = os.open(plan["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(what, line=None):
        os.write(log, f"{what if line is None else line}\n".encode())

    install(plan["file"], source, note)
    if source is None:
        import atexit

        ours = watch_lines([os.path.realpath(plan["file"])], note)

        def end():
            if sys.gettrace() is not ours:  # a debugger or a measurement of its own
                note(FOREIGN_TRACE)

        atexit.register(end)
