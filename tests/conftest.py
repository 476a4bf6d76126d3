import contextlib
import functools
import gc
import json
import os
import runpy
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# Tests run on as many processes as there are cores: a second thread of each would be in the way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent
STEPS = sorted(path.name for path in ROOT.glob("0[1-5]_test_*.py"))

WITHOUT_RESULTS = ("average_checkpoints.py", "digits.py", "export.py", "predict.py")

# The frameworks are imported where they are used, as xdist's controller needs none of them: it
# would begin with four seconds in which no test runs.


def pytest_sessionstart(session):
    if not session.config.pluginmanager.hasplugin("dsession"):  # all but that controller
        from alignment import cli  # noqa: F401  isort: skip  (settles the frameworks' warnings)
        import paddle

        import torch_ref  # noqa: F401  (before torchvision, which it may have to help)
        from alignment import processes

        paddle.set_device("cpu")
        processes.taken = processes.processors()  # by the other workers


def pytest_collection_finish(session):
    """Half a million objects of the frameworks live as long as the process: no garbage."""
    gc.collect()
    gc.freeze()


def collect_garbage():
    """Of the last test alone. (A data loader with workers thaws what has been frozen.)"""
    gc.collect()
    if not gc.get_freeze_count():
        gc.freeze()


def pytest_collection_modifyitems(config, items):
    """Of the slow tests one in SLOW_SAMPLE, always the same ones: for CI, which has less time.

    They are chosen by the names of file and test, not by the folder: a file may move to another.
    """
    share = int(os.environ.get("SLOW_SAMPLE", 1))

    def number(item):
        return zlib.crc32(f"tests/{item.path.name}::{item.name}".encode())

    left_out = [item for item in items if item.get_closest_marker("slow") and number(item) % share]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


class Result:
    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err

    @property
    def error_line(self):
        """The one line that a script that could not run leaves on stderr."""
        assert self.status == 2, (self.status, self.out, self.err)
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert len(lines) == 1 and lines[0].startswith("error: "), self.err
        return lines[0]


@pytest.fixture(scope="session")
def image_dir(tmp_path_factory):
    from alignment.files import unpack

    folder = tmp_path_factory.mktemp("images") / "lite_data"
    unpack(ROOT / "lite_data.tar", folder)
    return folder / "val"


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Fake data and the weights of both models; tests leave it as it is."""
    import paddle_mv3
    import torch2paddle
    from alignment import cli
    from alignment.stages.fake import load_fake_data

    folder = tmp_path_factory.mktemp("data")
    load_fake_data(folder)
    parser = cli.parser("", paddle_mv3.MODELS)
    for model in ("mobilenet_v3_small", "mobilenet_v3_large"):
        torch2paddle.prepare(parser.parse_args(["--model", model, "--data-dir", str(folder)]))
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """26 images to train on and 13 to evaluate, of three classes; tests leave them as they are."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("images")
    for part, count in (("train", 26), ("val", 13)):
        for i in range(count):
            path = folder / part / "abc"[i % 3] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (40, 44, 3), dtype=np.uint8)).save(path)
    return folder


@pytest.fixture
def run(monkeypatch, capfd, tmp_path, data_dir, image_dir):
    """Runs a script of the repository in this process, which has the frameworks loaded.

    `--data-dir`, `--result-dir` and `--image-dir` default to the test's own.
    """
    import paddle

    def run_script(script, *options, **defaults):
        folders = {"--data-dir": data_dir, "--result-dir": tmp_path / "result"}
        if "/" in script:
            del folders["--data-dir"]
        if Path(script).name in WITHOUT_RESULTS:
            del folders["--result-dir"]
        if script in ("02_test_data.py", "03_test_metric.py"):
            folders["--image-dir"] = image_dir
        for option, folder in folders.items():
            if option not in options:
                options = (*options, option, folder)
        monkeypatch.setattr(sys, "argv", [script, *map(str, options)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as leaving:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        paddle.set_device("cpu")
        if script.startswith("Checkpoint6"):
            collect_garbage()  # a training leaves 130 MB in cycles, few objects: Python would wait
        out, err = capfd.readouterr()
        return Result(leaving.value.code or 0, out, err)

    return run_script


@pytest.fixture
def spawn(tmp_path):
    """Runs Python in a process of its own, from an empty directory."""

    def spawn_python(*arguments, **options):
        environment = {**os.environ, "PYTHONPATH": "", **options.pop("env", {})}
        result = subprocess.run(
            [sys.executable, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=options.pop("timeout", 120),
            cwd=options.pop("cwd", tmp_path),
            env=environment,
            **options,
        )
        return Result(result.returncode, result.stdout, result.stderr)

    return spawn_python


OCCUPY = """
import sys, time
sys.path.insert(0, {root!r})
from alignment.files import only_user
with only_user({folder!r}, "--x"):
    print("held", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def occupied(folder):
    """Within, a process of its own holds the lock of `folder`; at the end it is killed."""
    code = OCCUPY.format(root=str(ROOT), folder=str(folder))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


@functools.cache
def validator(definition=None):
    """Of docs/report.schema.json: of a report, or of one of its $defs."""
    import jsonschema_rs

    schema = json.loads((ROOT / "docs" / "report.schema.json").read_text(encoding="utf-8"))
    if definition:
        schema = {"$ref": f"#/$defs/{definition}", "$defs": schema["$defs"]}
    jsonschema_rs.meta.validate(schema)
    return jsonschema_rs.validator_for(schema)


def require_valid(value, definition=None):
    """Asserts that a report, or a part of one, is as docs/report.schema.json says."""
    error = next(validator(definition).iter_errors(value), None)
    assert error is None, f"{'/'.join(map(str, error.instance_path))}: {error.message:.300}"


def same(a, b, where=""):
    """Asserts that two states are the same to the last bit."""
    import torch

    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b)):
            same(x, y, f"{where}/{i}")
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and np.array_equal(a, b), where
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    else:
        assert a == b, where


def records(out, kind="train"):
    """The objects of a kind in a training's train.jsonl."""
    entries = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    return [entry for entry in entries if entry["kind"] == kind]
