"""Names, numbers, folders and images of any kind, and terminals: one clear line, or it works."""

import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, STEPS
from PIL import Image

import paddle_mv3
import torch_ref
from alignment import arguments, screen
from alignment.files import CannotRun, described, reason_of, shown
from alignment.stages.data import load_reference
from Checkpoint6 import checkpoint, tools
from paddle_mv3.data.dataset import load_image, load_input

FORGED = b"b\xff\n\x1b[31merror: forged"  # not UTF-8, a second line, a command to the terminal
ODD = os.fsdecode(FORGED)
SMALL = "--train-crop-size 32 --val-crop-size 32 --val-resize-size 36 -b 4 -j 0 --epochs 1"
SMALL = [*SMALL.split(), "--lr-warmup-epochs", "0", "--device", "cpu"]
CHECKPOINT6 = {
    "train.py": "--epochs",
    "predict.py": "--topk",
    "average_checkpoints.py": "--last",
    "export.py": "--val-crop-size",
    "compare_top1.py": "--tolerance",
    "digits.py": "--output",
    "align_learning.py": "--seeds",
    "align_training.py": "--steps",
}
# {script: a flag that takes a value}
SCRIPTS = {
    **dict.fromkeys(STEPS, "--result-dir"),
    "torch2paddle.py": "--num-classes",
    **{f"Checkpoint6/{name}": flag for name, flag in CHECKPOINT6.items()},
    "torch_ref/train.py": "--epochs",
}
PARENT = {"PYTHONPATH": str(ROOT)}


def picture(width, height, mode="RGB", seed=0):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


@pytest.fixture(scope="module")
def odd_images(tmp_path_factory):
    """Three classes of images in a folder, all of whose names are hard to tell."""
    folder = tmp_path_factory.mktemp("images") / ODD
    for part in ("train", "val"):
        for name in (ODD, "café", "c"):
            for number in range(4):
                path = folder / part / name / f"{number}{ODD}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture(40, 44, seed=number).save(path)
    return folder


# --- one line ---


def test_a_name_is_told_in_one_line():
    assert shown(ODD) == r"b\xff\n\x1b[31merror: forged"
    assert screen.printable("naïve 图片.jpg") == "naïve 图片.jpg"
    assert screen.printable("a\u2028\u202eb\x7f\t\\") == r"a\u2028\u202eb\x7f\t" + "\\"
    error = OSError(2, "No such file or directory", ODD)
    assert described(error) == rf"{shown(ODD)}: No such file or directory"


WORKER = """Caught KeyError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "worker.py", line 1, in _worker_loop
    data = fetcher.fetch(index)
           ^^^^^^^^^^^^^^^^^^^^
KeyError: 'what it was'
"""
CHAINED = """Traceback (most recent call last):
  File "a.py", line 1, in <module>
    f()
ValueError: the first

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "a.py", line 2, in <module>
    g()
OSError: what it was
and more of it
"""
PADDLE = """

--------------------------------------
C++ Traceback (most recent call last):
--------------------------------------
0   egr::Backward(paddle::small_vector<paddle::Tensor, 15u> const&)
1   phi::enforce::EnforceNotMet::EnforceNotMet(phi::ErrorSummary const&)

----------------------
Error Message Summary:
----------------------
InvalidArgumentError: what it was
  [Hint: Expected a == b, but received 1 != 2.] (at /paddle/phi/kernels/conv.cc:1)
"""


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (WORKER, "KeyError: 'what it was'"),
        (CHAINED, "what it was"),
        (PADDLE, "InvalidArgumentError: what it was"),
        (f"Traceback (most recent call last):\n  File x\n    y\nRuntimeError: {PADDLE}", "Invalid"),
        ("(InvalidArgument) what it was\n  [Hint: …]", "(InvalidArgument) what it was"),
        (
            "Error(s) in loading:\n\tsize mismatch: 3\n\tmore",
            "Error(s) in loading: size mismatch: 3",
        ),
        ("", "RuntimeError"),
        ("\n\nlate", "late"),
    ],
)
def test_of_an_error_the_line_that_tells(message, line):
    assert reason_of(RuntimeError(message)).startswith(line)


def test_what_a_worker_raises_is_told_by_its_own_line(run, image_dir, monkeypatch):
    def broken(image, size):
        raise KeyError("what it was")

    monkeypatch.setattr("paddle_mv3.data.transforms.center_crop", broken)
    result = run("02_test_data.py", "--image-dir", image_dir, "--workers", "1", "--batches", "1")
    last = result.err.strip().splitlines()[-1]
    assert result.status == 2 and last.startswith("error: ") and "KeyError: 'what it was'" in last


# --- arguments ---


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_bad_argument_is_one_line(script, run):
    needed = {
        "Checkpoint6/predict.py": ["x.jpg", "--weights", "x"],
        "Checkpoint6/average_checkpoints.py": ["x", "--output", "x"],
        "Checkpoint6/export.py": ["--weights", "x", "--output-dir", "x"],
        "Checkpoint6/digits.py": ["--output", "x"],
        "torch_ref/train.py": ["--data-path", "x"],
    }.get(script, [])
    line = run(script, *needed, "--bogus\nflag").error_line
    assert r"--bogus\nflag" in line and "--help" in line
    assert SCRIPTS[script] in run(script, *needed, SCRIPTS[script], "").error_line
    without_models = ("digits", "compare_top1", "align_learning", "average_checkpoints")
    if not script.startswith(tuple(f"Checkpoint6/{name}" for name in without_models)):
        line = run(script, *needed, "--model", "resnet50").error_line
        assert "resnet50" in line and "mobilenet_v3_large" in line


def test_a_value_that_is_missing_is_one_line(capfd):
    for make in (tools.parser, arguments.Parser):
        flags = make("")
        flags.add_argument("--output", type=arguments.file_path, required=True)
        for argv in ([], ["--output"]):
            with pytest.raises(SystemExit) as leaving:
                flags.parse_args(argv)
            err = capfd.readouterr().err
            assert leaving.value.code == 2 and "--output" in err
            assert err.startswith("error: ") and err.count("\n") == 1


def accepts(kind, text):
    try:
        kind(text)
    except arguments.argparse.ArgumentTypeError as error:
        assert "\n" not in str(error) and len(str(error)) < 300
        return False
    return True


def test_numbers_are_plain_finite_and_in_bounds():
    whole = "count count_or_0 batch_size classes epochs pixels repetitions seed steps workers"
    for name in whole.split():
        kind = getattr(arguments, name)
        for text in ("1", "2", " 2", "+2"):
            assert accepts(kind, text), (name, text)
        for text in ("", "-1", "٣", "1_0", "1.0", "1e3", "nan", "x", str(10**20), "9" * 10_000):
            assert not accepts(kind, text), (name, text[:30])
        assert accepts(kind, "0") == (name in ("count_or_0", "seed", "workers")), name
        assert accepts(kind, str(10**9)) == (name in ("count", "count_or_0", "seed")), name
    assert accepts(arguments.seed, str(2**32 - 1)) and not accepts(arguments.seed, str(2**32))
    assert accepts(arguments.workers, "32")
    for name in ("rate", "share"):
        kind = getattr(arguments, name)
        for text in ("0", "1", "0.5", "1e-5"):
            assert accepts(kind, text), (name, text)
        for text in ("", "nan", "inf", "-inf", "1e999", "-1", "٠", "1_0", "0x1", "-0.5"):
            assert not accepts(kind, text), (name, text)
    for kind in (arguments.nonempty, arguments.file_path):
        assert accepts(kind, "x") and not accepts(kind, "")
    assert not accepts(arguments.file_path, "a\0b")


@pytest.mark.parametrize(
    ("script", "options", "words"),
    [
        ("02_test_data.py", "--workers -1", "--workers: -1 is not"),
        ("02_test_data.py", "--workers 1000000000", "--workers: 1000000000 is more than"),
        ("02_test_data.py", f"--batches {10**30}", "--batches: 1"),
        ("05_test_backward.py", "--steps 1000000000", "--steps: 1000000000 is more than 10000"),
        ("torch2paddle.py", "--num-classes 1000000000", "is more than 100000"),
        ("torch2paddle.py", "--num-classes -1", "-1 is not a whole number above 0"),
        ("Checkpoint6/train.py", "--workers 1000000000", "is more than"),
        ("Checkpoint6/train.py", "--batch-size 1000000000", "is more than 65536: all images"),
        ("Checkpoint6/train.py", "--seed 4294967296", "is more than 4294967295"),
        ("Checkpoint6/train.py", "--train-crop-size 1000000", "is more than 4096: memory"),
        ("Checkpoint6/align_learning.py", "--seeds 1000000000", "is more than 1000"),
        ("torch_ref/train.py", "--data-path x --workers 1000000000", "is more than"),
    ],
)
def test_absurd_numbers_are_answered_at_once(script, options, words, run):
    begin = time.monotonic()
    assert words in run(script, *options.split()).error_line
    assert time.monotonic() - begin < 20


# --- terminals ---

TELLS = (
    "from alignment import environment, screen\n"
    "import sys\n"
    "try:\n    print('told \\udcff \\u00e9', flush=bool(sys.argv[1:]))\n"
    "except OSError as error:\n    screen.leave(2, error.strerror)\n"
    "screen.leave(0)"
)


@pytest.mark.parametrize("flush", [[], ["flush"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("how", ["full", "closed", "pipe"])
def test_what_cannot_be_told_is_exit_2(how, unbuffered, flush, tmp_path):
    command = [sys.executable, "-c", TELLS, *flush]
    environment = {**os.environ, **PARENT, "PYTHONUNBUFFERED": unbuffered}
    options = {"stderr": subprocess.PIPE, "text": True, "env": environment, "timeout": 60}
    if how == "full":
        with open("/dev/full", "w") as full:
            result = subprocess.run(command, stdout=full, **options)
    elif how == "closed":
        result = subprocess.run(command, preexec_fn=lambda: os.close(1), **options)
    else:
        reading, writing = os.pipe()
        os.close(reading)
        result = subprocess.run(command, stdout=writing, **options)
        os.close(writing)
    assert result.returncode == 2
    assert result.stderr.startswith("error: cannot write to stdout: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("closed", [(2,), (1, 2), (0, 1, 2)])
def test_with_stderr_closed_the_status_tells(closed, tmp_path):
    """And a file that is opened then does not get the number of a closed one."""
    code = TELLS.replace("import sys", "import sys; assert open('x', 'w').fileno() > 2")
    environment = {**os.environ, **PARENT}

    def close():
        for number in closed:
            os.close(number)

    result = subprocess.run(
        [sys.executable, "-c", code], preexec_fn=close, env=environment, cwd=tmp_path, timeout=60
    )
    assert result.returncode == (2 if 1 in closed else 0)


@pytest.mark.parametrize(
    "locale",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C"},
    ],
)
def test_a_terminal_takes_any_text(locale, spawn):
    result = spawn("-c", TELLS, env={**PARENT, **locale})
    assert (result.status, result.err) == (0, "") and r"told \udcff" in result.out


def test_a_verdict_that_nobody_can_see_is_no_success(data_dir, tmp_path):
    """An aligned step."""
    options = ["--data-dir", data_dir, "--result-dir", tmp_path]
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, ROOT / "01_test_forward.py", *options],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    assert result.returncode == 2
    assert result.stderr == "error: cannot write to stdout: No space left on device\n"
    assert json.loads((tmp_path / "log" / "forward_diff.json").read_text())["aligned"]


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_help_for_nobody(script):
    with open("/dev/full", "w") as full:
        command = [sys.executable, ROOT / script, "--help"]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)


# --- names ---


def test_a_training_on_odd_names_goes_on_and_predicts(run, odd_images, tmp_path):
    out = tmp_path / ODD
    train = ["Checkpoint6/train.py", "--data-path", odd_images, "--output-dir", out, *SMALL]
    result = run(*train)
    assert (result.status, result.err) == (0, ""), result.err
    assert all(line.startswith("[") for line in result.out.splitlines())
    assert (out / "train.log").read_text(encoding="utf-8") == result.out
    settings = json.loads((out / "arguments.json").read_text(encoding="utf-8"))
    assert settings["output_dir"] == str(out)
    newest = checkpoint.checkpoints(out)[0]
    assert checkpoint.load(newest)["classes"] == sorted([ODD, "café", "c"])
    result = run(*train, "--resume", "auto")
    assert result.status == 0 and "going on from" in result.out

    averaged = tmp_path / f"{ODD}.pdparams"
    assert run("Checkpoint6/average_checkpoints.py", newest, "--output", averaged).status == 0
    result = run("Checkpoint6/predict.py", odd_images / "val" / ODD, "--weights", averaged)
    assert result.status == 0 and len(result.out.splitlines()) == 4 * (1 + 3)
    assert shown(ODD) in result.out


def test_a_class_that_is_in_one_folder_only_is_told_in_one_line(run, odd_images, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "train").symlink_to(odd_images / "train")
    (data / "val").mkdir()
    (data / "val" / "c").symlink_to(odd_images / "val" / "c")
    options = ["--data-path", data, "--output-dir", tmp_path / "out", *SMALL]
    assert shown(ODD) in run("Checkpoint6/train.py", *options).error_line


@pytest.mark.parametrize("script", ["01_test_forward.py", "02_test_data.py"])
def test_a_step_in_folders_of_odd_names(script, run, odd_images, tmp_path):
    options = ["--data-dir", tmp_path / ODD, "--result-dir", tmp_path / ODD / "result"]
    if script.startswith("02"):
        options += ["--image-dir", odd_images / "val"]
    result = run(script, *options)
    assert (result.status, result.err) == (0, ""), result.err


def test_an_export_into_a_folder_of_an_odd_name(run, odd_images, image_dir, data_dir, tmp_path):
    source = data_dir / "mv3_small_paddle.pdparams"
    result = run(
        "Checkpoint6/export.py",
        *("--weights", source, "--images", image_dir, "--output-dir", tmp_path / ODD),
        *("--val-crop-size", 64, "--val-resize-size", 73, "--format", "paddle"),
    )
    assert result.status == 0, result.err
    assert sorted(os.listdir(tmp_path / ODD)) == ["inference.json", "inference.pdiparams"]


@pytest.mark.slow
def test_all_of_it_in_the_c_locale(spawn, odd_images, tmp_path):
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    out, other = tmp_path / ODD, tmp_path / f"{ODD}t"
    data = ["--data-path", odd_images, *SMALL]
    newest = checkpoint.path_of(out, 0, 3)
    for script, options in (
        ("Checkpoint6/train.py", [*data, "--output-dir", out, "--result-dir", out]),
        ("Checkpoint6/predict.py", [odd_images / "val", "--weights", newest, "--device", "cpu"]),
        ("torch_ref/train.py", [*data, "--output-dir", other, "--result-dir", other]),
        ("02_test_data.py", ["--image-dir", odd_images / "val", "--result-dir", out]),
        ("torch2paddle.py", ["--data-dir", out]),
    ):
        result = spawn(ROOT / script, *options, env=locale)
        assert (result.status, result.err) == (0, ""), (script, result.err)


# --- folders ---


def folder_of_links(root, *links):
    """Two classes, a and b, of an image each, and links from a path to a target."""
    for name in "ab":
        (root / name).mkdir(parents=True)
        picture(40, 44).save(root / name / "1.png")
    for path, target in links:
        (root / path).symlink_to(target)
    return root


@pytest.mark.parametrize(
    "links",
    [
        [("a/loop", ".")],
        [("a/up", "..")],
        [("c", "a")],
        [("a/b", "../b"), ("b/a", "../a")],
        [("a/gone.png", "nowhere")],
        [("a/self.png", "self.png")],
    ],
)
def test_links_are_followed_as_torchvision_follows_them(links, tmp_path):
    root = folder_of_links(tmp_path / "images", *links)
    port, reference = (side.ImageFolder(str(root)) for side in (paddle_mv3, torch_ref))
    assert port.classes == reference.classes
    assert port.samples == reference.samples


@pytest.mark.parametrize(
    "links",
    [
        [("a/loop1", "."), ("a/loop2", ".")],
        [("a/up", ".."), ("b/up", "..")],
        [("a/x", "../b"), ("a/y", "../b"), ("b/x", "../a"), ("b/y", "../a")],
        [("a/x", "../.."), ("b/x", "../..")],  # back to where the root lies
    ],
)
def test_links_without_end_are_named(links, tmp_path):
    root = folder_of_links(tmp_path / "images", *links)
    begin = time.monotonic()
    for side in (paddle_mv3, torch_ref):
        with pytest.raises(OSError, match=r"/[ab]/\S+ is a link to a folder that it lies in"):
            side.ImageFolder(str(root))
    with pytest.raises(OSError, match="is a link to a folder that it lies in"):
        tools.image_files([root])
    assert time.monotonic() - begin < 30


def test_a_folder_that_cannot_be_read_is_said(tmp_path, monkeypatch):
    root, scan = folder_of_links(tmp_path / "images"), os.scandir

    def scandir(path):
        if os.fspath(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)  # root may read anything
    with pytest.raises(PermissionError) as error:
        paddle_mv3.ImageFolder(root)
    assert described(error.value).endswith("images/b: Permission denied")
    with pytest.raises(PermissionError):
        tools.image_files([root / "b"])


def test_names_that_are_like_images(tmp_path):
    """Only an ending, a folder called like an image, capitals, hidden ones."""
    root = folder_of_links(tmp_path / "images")
    (root / "a" / "x.jpg").mkdir()
    for name in (".jpg", ".hidden.png", "B.PNG", "x.jpg/inside.bmp", "no.txt", "png"):
        (root / "a" / name).touch()
    port, reference = (side.ImageFolder(str(root)) for side in (paddle_mv3, torch_ref))
    assert port.samples == reference.samples and len(port) == 6


def test_a_file_that_has_vanished_is_named(tmp_path):
    root = folder_of_links(tmp_path / "images")
    dataset = paddle_mv3.ImageFolder(root)
    (root / "b" / "1.png").unlink()
    for workers in (0, 1):
        loader = paddle_mv3.DataLoader(dataset, batch_size=2, num_workers=workers)
        with pytest.raises(OSError, match=r"b/1\.png"):
            list(loader)


# --- images ---


@pytest.fixture
def odd_files(tmp_path):
    """{what it is: path} of what is no image and is called like one."""
    files = {name: tmp_path / f"{name}.png" for name in ("pipe", "folder", "socket", "loop")}
    os.mkfifo(files["pipe"])
    files["folder"].mkdir()
    files["loop"].symlink_to("loop.png")
    with socket.socket(socket.AF_UNIX) as bound:
        # The name of a socket may be 100 characters long.
        folder = os.open(tmp_path, os.O_RDONLY)
        bound.bind(f"/proc/self/fd/{folder}/socket.png")
        os.close(folder)
    files["device"] = tmp_path / "device.png"
    files["device"].symlink_to("/dev/zero")
    files["empty"] = tmp_path / "empty.png"
    files["empty"].touch()
    files["cut"] = tmp_path / "cut.png"
    picture(100, 100).save(files["cut"])
    files["cut"].write_bytes(files["cut"].read_bytes()[:2000])
    files["text"] = tmp_path / "text.png"
    files["text"].write_text("<html>404</html>")
    return files


def test_what_is_no_image_is_named_and_nothing_waits_for_it(odd_files):
    for name, path in odd_files.items():
        with pytest.raises(OSError, match=f"cannot decode image .*{name}.png: ") as error:
            load_image(str(path))
        assert "\n" not in str(error.value) and error.value.path == str(path)
        with pytest.raises(OSError, match=f"cannot decode image .*{name}.png: "):
            torch_ref.dataset.load_image(str(path))


@pytest.mark.parametrize("kind", ["pipe", "device", "loop"])
def test_a_script_does_not_wait_for_a_pipe(kind, odd_files, run, tmp_path):
    root = folder_of_links(tmp_path / "images")
    odd_files[kind].rename(root / "a" / f"{kind}.png")
    for script in ("02_test_data.py", "03_test_metric.py"):
        line = run(script, "--image-dir", root).error_line
        assert f"{kind}.png" in line
    (tmp_path / "data").mkdir()
    for part in ("train", "val"):
        (tmp_path / "data" / part).symlink_to(root)
    options = ["--data-path", tmp_path / "data", "--output-dir", tmp_path / "out", *SMALL]
    for script in ("Checkpoint6/train.py", "torch_ref/train.py"):
        assert f"{kind}.png" in run(script, *options).error_line


@pytest.mark.parametrize("kind", ["cut", "empty", "text"])
def test_the_reference_names_what_it_cannot_decode(kind, odd_files, tmp_path):
    root = folder_of_links(tmp_path / "images")
    dataset = torch_ref.ImageFolder(str(root))
    with pytest.raises(CannotRun, match=f"cannot decode image .*{kind}.png: "):
        load_reference(dataset, str(odd_files[kind]))


def test_an_image_that_would_not_fit_into_memory_is_told(tmp_path, monkeypatch):
    picture(1, 10_000).save(tmp_path / "narrow.png")
    preset = paddle_mv3.ClassificationPresetEval()
    with pytest.raises(OSError, match=r"narrow\.png: it is 1 x 10000 pixels.*256 x 2560000"):
        load_input(str(tmp_path / "narrow.png"), preset)
    picture(300, 300).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    with pytest.raises(OSError, match=r"bomb\.png: .*decompression bomb"):
        load_image(str(tmp_path / "bomb.png"))


def save_odd(name, path):
    """Writes an image of a kind that decoders may differ in."""
    if name == "animated":
        frames = [picture(40, 30, seed=seed) for seed in range(3)]
        frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])
    elif name == "16 bits":
        values = np.random.default_rng(0).integers(0, 65536, (30, 40), dtype=np.uint16)
        Image.fromarray(values).save(path)
    elif name == "transparent palette":
        picture(40, 30, "P").save(path, transparency=bytes(range(256)))
    elif name == "one colour transparent":
        picture(40, 30).save(path, transparency=(1, 2, 3))
    else:
        size, mode = {
            "1 x 1": ((1, 1), "RGB"),
            "1 x 600": ((1, 600), "RGB"),
            "600 x 1": ((600, 1), "RGB"),
            "smaller than the crop": ((20, 10), "RGB"),
            "grey and alpha": ((40, 30), "LA"),
            "one bit": ((40, 30), "1"),
        }[name]
        picture(*size, mode).save(path)


@pytest.mark.filterwarnings("ignore:Palette images")
@pytest.mark.parametrize(
    "name",
    ["1 x 1", "1 x 600", "600 x 1", "smaller than the crop", "grey and alpha", "one bit",
     "animated", "16 bits", "transparent palette", "one colour transparent"],
)  # fmt: skip
def test_odd_images_are_torchvisions_bit_for_bit(name, tmp_path):
    root = tmp_path / "images"
    (root / "a").mkdir(parents=True)
    save_odd(name, root / "a" / "x.png")
    port, reference = (
        side.ImageFolder(str(root), side.ClassificationPresetEval(64, 73))
        for side in (paddle_mv3, torch_ref)
    )
    assert np.array_equal(np.asarray(port[0][0]), reference[0][0].numpy())


# --- where things are written ---


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """{what it is: a path where no folder can be}"""
    folder = tmp_path_factory.mktemp("places")
    (folder / "file").write_text("mine")
    (folder / "dangling").symlink_to(folder / "nowhere" / "below")
    (folder / "looping").symlink_to("looping")
    return {
        "file": folder / "file",
        "below a file": folder / "file" / "below",
        "dangling link": folder / "dangling",
        "looping link": folder / "looping",
        "no place for files": "/proc",
        "long": folder / ("x" * 300),
    }


@pytest.mark.parametrize(
    ("script", "option"),
    [
        *((script, "--result-dir") for script in STEPS),
        *((script, "--data-dir") for script in STEPS if not script.startswith("02")),
        ("torch2paddle.py", "--data-dir"),
        ("Checkpoint6/train.py", "--output-dir"),
        ("Checkpoint6/train.py", "--result-dir"),
        ("torch_ref/train.py", "--output-dir"),
        ("torch_ref/train.py", "--result-dir"),
        ("Checkpoint6/compare_top1.py", "--result-dir"),
        ("Checkpoint6/digits.py", "--output"),
        ("Checkpoint6/export.py", "--output-dir"),
        ("Checkpoint6/align_learning.py", "--output-dir"),
        ("Checkpoint6/align_training.py", "--result-dir"),
    ],
)
def test_a_folder_that_cannot_be_is_one_line(script, option, run, places, images, data_dir):
    weights = data_dir / "mv3_small_paddle.pdparams"
    needed = {
        "Checkpoint6/train.py": ["--data-path", images, *SMALL],
        "torch_ref/train.py": ["--data-path", images, *SMALL],
        "Checkpoint6/export.py": ["--weights", weights, "--images", images / "val"],
        "Checkpoint6/align_learning.py": ["--short"],
    }.get(script, [])
    for what, path in places.items():
        line = run(script, *needed, option, path).error_line
        assert os.path.basename(path)[:40] in line, what
    assert places["file"].read_text() == "mine"
    assert sorted(os.listdir(places["file"].parent)) == ["dangling", "file", "looping"]


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("01_test_forward.py", ["--layer-map", "PATH"]),
        ("02_test_data.py", ["--image-dir", "PATH"]),
        ("03_test_metric.py", ["--image-dir", "PATH"]),
        ("torch2paddle.py", ["PATH"]),
        ("torch2paddle.py", ["--reverse", "PATH"]),
        ("Checkpoint6/train.py", ["--data-path", "PATH"]),
        ("Checkpoint6/train.py", ["--data-path", "IMAGES", "--weights", "PATH"]),
        ("Checkpoint6/train.py", ["--data-path", "IMAGES", "--resume", "PATH"]),
        ("torch_ref/train.py", ["--data-path", "PATH"]),
        ("torch_ref/train.py", ["--data-path", "IMAGES", "--weights", "PATH"]),
        ("torch_ref/train.py", ["--data-path", "IMAGES", "--resume", "PATH"]),
        ("Checkpoint6/predict.py", ["PATH", "--weights", "WEIGHTS"]),
        ("Checkpoint6/predict.py", ["IMAGES", "--weights", "PATH"]),
        ("Checkpoint6/predict.py", ["IMAGES", "--weights", "WEIGHTS", "--class-names", "PATH"]),
        ("Checkpoint6/export.py", ["--output-dir", "OUT", "--weights", "PATH"]),
        (
            "Checkpoint6/export.py",
            ["--output-dir", "OUT", "--weights", "WEIGHTS", "--images", "PATH"],
        ),
        ("Checkpoint6/average_checkpoints.py", ["PATH", "--output", "OUT"]),
    ],
    ids=str,
)
def test_what_is_read_and_is_of_another_kind_is_one_line(
    script, options, run, places, images, data_dir, tmp_path
):
    """A folder where a file is expected, a file where a folder is, and what leads nowhere."""
    empty = tmp_path / "an_empty_folder"
    empty.mkdir()
    given = {"IMAGES": images, "OUT": tmp_path / "out"}
    given["WEIGHTS"] = data_dir / "mv3_small_paddle.pdparams"
    more = ["--output-dir", tmp_path / "out", *SMALL] if "train.py" in script else []
    given_paths = {"empty folder": empty, **places}
    del given_paths["no place for files"]
    for what, path in given_paths.items():
        chosen = [path if x == "PATH" else given.get(x, x) for x in options]
        if options[0] == "PATH" and what == "file" and "predict" in script:
            continue  # a file that is no image: named, exit status 1
        line = run(script, *chosen, *more).error_line
        assert os.path.basename(path)[:40] in line, (what, line)
