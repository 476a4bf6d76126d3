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


# In place of the sitecustomize of that Python, which is then imported as ever.
SITE = """import importlib.util, sys
spec = importlib.util.spec_from_file_location("alignment_mutation_hook", {hook!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.from_environment()
ours, place = sys.modules.pop("sitecustomize", None), {place!r}
sys.path[:] = [each for each in sys.path if each != place]
try:
    import sitecustomize
except ImportError:
    pass
if ours is not None:
    sys.modules["sitecustomize"] = ours
"""


def environment_of(folder, path, source=None, watched=()):
    """Environment variables with which every Python that is started has the file replaced.

    What is noted goes to `log` in the folder: "imported", or a path and a line.

    Args:
        folder: pathlib.Path, empty, for what is needed on the way.
        path, source: as of `install`.
        watched: real paths of files whose lines are noted.
    """
    place = str(folder)
    site = SITE.format(hook=os.path.realpath(__file__), place=place)
    (folder / "sitecustomize.py").write_text(site, encoding="utf-8")
    (folder / "log").write_bytes(b"")
    plan = {"file": str(path), "source": None, "watched": list(watched), "log": f"{place}/log"}
    if source is not None:
        plan["source"] = f"{place}/source"
        (folder / "source").write_bytes(source)
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    before = os.environ.get("PYTHONPATH")
    paths = [place, before] if before else [place]
    return {"PYTHONPATH": os.pathsep.join(paths), PLAN: f"{place}/plan.json"}


def read_notes(folder):
    """({"imported", FOREIGN_TRACE}, {path: {line}}) of the log in the folder."""
    notes, lines = set(), {}
    for line in (folder / "log").read_text(encoding="utf-8").splitlines():
        path, tab, number = line.rpartition("\t")
        if tab:
            lines.setdefault(path, set()).add(int(number))
        else:
            notes.add(line)
    return notes, lines


def from_environment():
    """In such a Python: does what the plan says."""
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

    def note(*what):
        os.write(log, ("\t".join(map(str, what)) + "\n").encode())

    install(plan["file"], source, note)
    if plan["watched"]:
        import atexit

        ours = watch_lines(plan["watched"], note)

        def end():
            if sys.gettrace() is not ours:  # a debugger or a measurement of its own
                note(FOREIGN_TRACE)

        atexit.register(end)
