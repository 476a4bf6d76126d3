"""What every numbered script does around its own stage: options, device, errors, exit status.

Import it first: it says in one line which package is missing, and settles what has to be settled
before the frameworks are loaded.
"""

from __future__ import annotations

from . import environment  # isort: skip  (first: Ctrl-C is quiet from here)

import argparse
import contextlib
import os
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from .arguments import Formatter, Parser, file_path
from .screen import CANNOT_RUN, detail_of, leave, say, telling

ALIGNED, NOT_ALIGNED = 0, 1
ROOT = Path(__file__).resolve().parent.parent


environment.require("numpy", "PIL", "torch", "torchvision", "paddle", "reprod_log", "tabulate")
environment.require("rich")
# Tensor-core arithmetic with ten bits of mantissa would drown what is compared here.
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")

import paddle  # noqa: E402

# Paddle's own handler of SIGTERM and others allocates memory, and so can hang for ever where the
# signal came in the middle of an allocation. And it prints a report: so before anything else that
# takes long to import.
paddle.disable_signal_handler()

import torch  # noqa: E402

from .files import CannotRun, described, only_user, place_of, reason_of, shown, unpack_once  # noqa: E402


def parser(description: str | None, models: Iterable[str] | None = None) -> Parser:
    """An ArgumentParser with the options that all steps share.

    Args:
        models: names of the networks that there are; the first is the default. None: any name, for
            who hands it on to scripts that know.
    """
    shared = Parser(description=description, formatter_class=Formatter)
    pair = shared.group("the pair")
    pair.add_argument(
        "--model",
        choices=models and tuple(models),
        default=next(iter(models)) if models else None,
        help="which network",
    )
    pair.add_argument(
        "--pretrained",
        action="store_true",
        help="torchvision's published weights, downloaded once, in place of random ones",
    )
    pair.add_argument(
        "--layer-map",
        metavar="FILE",
        type=file_path,
        help='JSON file {"layer of the port": "layer of the reference"}, for names that differ',
    )
    where = shared.group("where")
    where.add_argument(
        "--device",
        choices=("cpu", "gpu"),
        default="gpu" if paddle.device.cuda.device_count() else "cpu",
        help="where both frameworks run. PyTorch stays on the CPU where it sees no GPU",
    )
    where.add_argument(
        "--data-dir",
        metavar="FOLDER",
        type=file_path,
        default=ROOT / "data",
        help="folder of fake data and weights",
    )
    where.add_argument(
        "--result-dir",
        metavar="FOLDER",
        type=file_path,
        default=ROOT / "result",
        help="folder of records and logs",
    )
    _add_detail(shared)
    return shared


def _add_detail(parser: Parser) -> None:
    """Adds -q and -v."""
    group = parser.group("output").add_mutually_exclusive_group()
    group.add_argument("-q", "--quiet", action="store_true", help="print the verdict alone")
    group.add_argument(
        "-v", "--verbose", action="store_true", help="print also what is in the logs"
    )


def run(
    step: Callable[[argparse.Namespace], bool | None],
    arguments: Parser,
    log: str | None = None,
    writes_results: bool = True,
) -> NoReturn:
    """Parses the command line, runs `step(args)`, leaves with the exit status.

    0 if `step` returns True (aligned) or None (done), 1 if it returns False, 2 with one line on
    stderr if it raises CannotRun or OSError. `args.torch_device` is the device for PyTorch.

    Args:
        log: name of a numbered step's log; with --report, what stands there goes into the report. A
            port that breaks off, and of which `args.pairing` says that it is not built as the
            reference is, is not aligned: that is written there.
        writes_results: whether no other run may write into --result-dir meanwhile.
    """
    if log:
        arguments.group("output").add_argument(
            "--report",
            action="store_true",
            help="put what is found into report.json and report.html of --result-dir",
        )
    args = arguments.parse_args()
    environment.imported()
    status, message = CANNOT_RUN, ""
    try:
        use_device(args)
        alone: contextlib.AbstractContextManager = contextlib.nullcontext()
        if writes_results:
            alone = only_user(args.result_dir, "--result-dir")
        with alone, telling(detail_of(args)):
            start = time.perf_counter()
            status, message = _run_step(step, args, log)
            if log and args.report:
                _add_to_report(args.result_dir, log, status, message, time.perf_counter() - start)
    except CannotRun as error:
        message = str(error)
    except OSError as error:
        message = described(error)
    except KeyboardInterrupt:
        status = 130
    leave(status, message)


def _run_step(
    step: Callable[[argparse.Namespace], bool | None], args: argparse.Namespace, log: str | None
) -> tuple[int, str]:
    """(exit status, message) of a step."""
    status, message = CANNOT_RUN, ""
    try:
        status = NOT_ALIGNED if step(args) is False else ALIGNED
    except CannotRun as error:
        message = str(error)
    except OSError as error:
        message = described(error)
    except Exception as error:  # most likely the port: its author needs to see where
        from .step import report_misfits

        pairing = getattr(args, "pairing", None)
        if log and pairing and not pairing.fits:
            try:
                report_misfits(pairing, error, args.result_dir / "log" / f"{log}.log")
            except CannotRun as failure:  # the disk is full
                return CANNOT_RUN, str(failure)
            return NOT_ALIGNED, ""
        with contextlib.suppress(OSError):
            traceback.print_exc()
        reason = f"{type(error).__name__}: {reason_of(error)}{place_of(error)}"
        message = f"the step broke off: {reason}"
    return status, message


def _add_to_report(folder: Path, log: str, status: int, message: str, seconds: float) -> None:
    """Puts the part of a step, which has left it beside its log, into the report of `folder`."""
    from .report import LOGS, add_part, broken_part, part_of_step

    part = broken_part(LOGS[log][0], message)
    if status != CANNOT_RUN:
        part = part_of_step(folder / "log" / f"{log}.json", seconds)
    opened = add_part(folder, part)
    if opened:
        say(f"Report: {shown(opened)}")


def use_device(args: argparse.Namespace) -> None:
    """Puts Paddle on `args.device`; sets `args.torch_device`.

    Raises:
        CannotRun: a GPU is wanted and Paddle has none.
    """
    if args.device == "gpu" and not paddle.device.cuda.device_count():
        why = (
            "Paddle sees none"
            if paddle.device.is_compiled_with_cuda()
            else "this is Paddle's CPU build, see requirements-gpu.txt"
        )
        raise CannotRun(f"--device gpu: {why}. Use --device cpu")
    paddle.set_device(args.device)
    on_gpu = args.device == "gpu" and torch.cuda.is_available()
    args.torch_device = torch.device("cuda" if on_gpu else "cpu")


def add_image_dir(shared: Parser) -> None:
    """Adds --image-dir to a parser."""
    shared.group("where").add_argument(
        "--image-dir",
        metavar="FOLDER",
        type=file_path,
        help="folder of class folders of images (default: lite_data/val, unpacked when missing)",
    )


def image_dir(args: argparse.Namespace) -> Path:
    """The image folder of the command line, or `lite_data/val`, unpacked from lite_data.tar.

    Raises:
        CannotRun: it cannot be unpacked.
    """
    if args.image_dir is not None:
        return args.image_dir
    folder = ROOT / "lite_data"
    if unpack_once(ROOT / "lite_data.tar", folder):
        say(f"unpacked {shown(folder)}")
    return folder / "val"


def add_layers(shared: Parser) -> Parser:
    """Adds the option of the steps that can say in which layer two models differ."""
    shared.group("output").add_argument(
        "--layers", action="store_true", help="compare layer by layer also if the step is aligned"
    )
    return shared
