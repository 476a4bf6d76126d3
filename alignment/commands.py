"""python -m alignment compare, map, records: any pair, from any folder; show, diff: reports;
mutants: what a check does not see."""

from __future__ import annotations

from . import environment  # isort: skip  (first: Ctrl-C is quiet from here)

import argparse
import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from .arguments import Formatter, Parser, count, file_path, nonempty, number, seed, steps
from .files import (
    CannotRun,
    described,
    reason_of,
    require_writable,
    shown,
    write_json,
)
from .screen import CANNOT_RUN, leave, printable, tell
from .terminal import coloured, of_verdict

ALIGNED, NOT_ALIGNED = 0, 1
EXAMPLES = {
    "compare": """
    alignment compare --torch torchvision.models:resnet18 \\
        --paddle paddle.vision.models:resnet18 --input 4x3x64x64
    alignment compare --torch ref.py:Net --paddle port.py:Net \\
        --input 'ids=int64[4,16]<1000' --input 'mask=bool[4,16]' --loss my.py:loss
""",
    "map": """
    alignment map --torch ref.py:Net --paddle port.py:Net > map.json
    alignment compare … --map map.json
""",
    "records": """
    alignment records torch.npy paddle.npy
    alignment records torch.npy paddle.npy --float64 torch64.npy paddle64.npy
""",
    "show": """
    alignment show result/report.json
    alignment show result/report.json --page report.html
""",
    "diff": """
    alignment diff old/report.json new/report.json
""",
    "mutants": """
    alignment mutants --paddle my/port.py --run 'python 01_test_forward.py'
    alignment mutants --paddle port.py --sample 50 --run 'alignment compare \\
        --torch ref.py:Net --paddle port.py:Net --input 4x3x64x64'
""",
}
# {command: how it ends}
RESULT = {
    "compare": "Exit status: 0 aligned, 1 not aligned, 2 could not run.",
    "map": "Prints the names that differ, as JSON for --map. An entry that begins with // is a\n"
    "remark on what is doubtful. Exit status: 0, or 2 if it could not run.",
    "records": "A record is what reprod_log's ReprodLogger.save wrote, on any machine.\n"
    "Exit status: 0 aligned, 1 not aligned, 2 could not run.",
    "show": "Exit status: 0, or 2 if the report cannot be read or the page not be written.",
    "diff": "Exit status: 0 if nothing is worse, 1 if something is, 2 if a report cannot be read.",
    "mutants": "Exit status: 0 if each mistake is found, 1 if one is missed, 2 if the command is "
    "not green\nby itself or does not import the port. No file is changed.",
}
WHAT = {
    "compare": "Is a port in PaddlePaddle the same as its reference in PyTorch? If not, where?",
    "map": "Which layer of the port is which of the reference?",
    "records": "Are two saved records the same? For a reference on another machine.",
    "show": "Prints a report again, and makes its page.",
    "diff": "What has changed between two reports? Which check turned red, which difference grew?",
    "mutants": "Makes small mistakes in a port, one at a time. Which ones does your check not see?",
}


def main(arguments: Sequence[str]) -> NoReturn:
    """Runs a command; leaves with its exit status.

    Args:
        arguments: of the command line, the name of the command first.
    """
    command = arguments[0]
    args = PARSERS.get(command, parser)(command).parse_args(arguments[1:])
    status, message = CANNOT_RUN, ""
    try:
        if command not in WITHOUT_FRAMEWORKS:
            _import_frameworks()
        environment.imported()
        status = COMMANDS[command](args)
    except CannotRun as error:
        message = str(error)
    except OSError as error:
        message = described(error)
    except KeyboardInterrupt:
        status = 130
    except SystemExit as error:  # of the user's code: our own parser has left before
        message = f"the code of a model has ended the program: SystemExit({error.code!r:.80})"
    except Exception as error:  # a case that nobody has thought of
        with contextlib.suppress(OSError):
            traceback.print_exc()
        message = f"the comparison broke off: {type(error).__name__}: {reason_of(error)}"
    leave(status, message)


def _import_frameworks() -> None:
    environment.require("numpy", "torch", "paddle", "rich")
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    import paddle

    paddle.disable_signal_handler()
    paddle.set_device("cpu")  # float64, on both sides alike


def program() -> str:
    """How this was called: as the console script or as a module."""
    name = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    return name if name == "alignment" else "python -m alignment"


def _parser(command: str) -> Parser:
    examples = EXAMPLES[command].replace("alignment ", f"{program()} ")
    return Parser(
        prog=f"{program()} {command}",
        description=f"{WHAT[command]}\n{examples}",
        epilog=RESULT[command],
        formatter_class=Formatter,
    )


def show_parser(command: str) -> Parser:
    flags = _parser(command)
    flags.add_argument("report", metavar="REPORT", type=file_path, help="report.json of a run")
    flags.add_argument("--page", metavar="FILE", type=file_path, help="write the page, HTML")
    flags.add_argument("--junit", metavar="FILE", type=file_path, help="write JUnit XML, for CI")
    flags.add_argument("-q", "--quiet", action="store_true", help="print the verdict alone")
    return flags


def diff_parser(command: str) -> Parser:
    flags = _parser(command)
    flags.add_argument("old", metavar="OLD", type=file_path, help="report.json of a run")
    flags.add_argument("new", metavar="NEW", type=file_path, help="report.json of a later run")
    return flags


def records_parser(command: str) -> Parser:
    flags = _parser(command)
    flags.add_argument(
        "reference", metavar="REFERENCE", type=file_path, help=".npy of the reference"
    )
    flags.add_argument("port", metavar="PORT", type=file_path, help=".npy of the port")
    flags.add_argument(
        "--float64",
        nargs=2,
        metavar=("REFERENCE", "PORT"),
        type=file_path,
        help="records of the same in float64, which tell a mistake from rounding",
    )
    positive = number(float, above=0, wanted="a number above 0")
    flags.add_argument(
        "--threshold",
        type=positive,
        default=1e-6,
        help="the largest mean absolute difference that passes (1e-6)",
    )
    flags.add_argument(
        "--log",
        type=file_path,
        default=Path("records_diff.log"),
        help="written, and beside it .json (records_diff.log)",
    )
    return flags


def mutants_parser(command: str) -> Parser:
    flags = _parser(command)
    flags.add_argument(
        "--paddle",
        required=True,
        metavar="WHERE",
        type=nonempty,
        help="the file of the port: FILE.py or MODULE, with or without :NAME",
    )
    flags.add_argument(
        "--run",
        required=True,
        metavar="COMMAND",
        type=nonempty,
        help="your check, of which exit status 0 means aligned; python is the one that runs this",
    )
    flags.add_argument(
        "--sample", metavar="N", type=count, help="N mistakes, always the same ones; else all"
    )
    flags.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=number(float, above=0, wanted="a number above 0"),
        help="a run that takes longer has found it; without it, five times as long as usual",
    )
    flags.add_argument(
        "--equivalent",
        metavar="FILE",
        type=file_path,
        help="text file of those that are no mistakes, and why; see docs/mutants.md",
    )
    flags.add_argument(
        "--log",
        metavar="FILE",
        type=file_path,
        help="write each result here at once",
    )
    flags.add_argument(
        "--resume", action="store_true", help="leave out those whose result is in --log"
    )
    flags.add_argument(
        "--again", action="store_true", help="the same, but run those again that were missed"
    )
    return flags


def parser(command: str) -> Parser:
    flags = _parser(command)
    pair = flags.add_argument_group("the pair")
    for side, other in (("torch", "reference"), ("paddle", "port")):
        pair.add_argument(
            f"--{side}",
            required=True,
            metavar="WHERE:NAME",
            help=f"the {other}: MODULE:NAME or FILE.py:NAME of a class, a function or a model",
        )
        pair.add_argument(
            f"--{side}-arg",
            type=_argument,
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help=f"keyword argument for the {other}, as in Python: num_classes=10; may be repeated",
        )
    pair.add_argument(
        "--input",
        action="append",
        default=None if command == "map" else [],
        metavar="[NAME=]SHAPE",
        required=command == "compare",
        help="random numbers: 4x3x64x64, 'int64[4,16]<1000' (0 to 999), 'bool[4,16]'; or a .npy "
        "file. With NAME=, it is given by keyword. Quotes keep [ and < from the shell. May be "
        "repeated",
    )
    pair.add_argument(
        "--map",
        metavar="FILE",
        type=file_path,
        help='JSON file {"layer of the port": "layer of the reference"}, where names differ',
    )
    pair.add_argument(
        "--rules",
        metavar="FILE.py:NAME",
        help="a list of alignment.Rule: parameters that are split, joined or tied, channels last",
    )
    pair.add_argument(
        "--seed", metavar="N", type=seed, default=0, help="of random weights and inputs"
    )
    if command == "map":
        return flags
    weights = flags.add_argument_group("weights (by default random ones, the same for both)")
    weights.add_argument(
        "--torch-weights",
        metavar="FILE",
        type=file_path,
        help="state_dict of the reference: .pth or .safetensors; the port gets the same",
    )
    weights.add_argument(
        "--paddle-weights",
        metavar="FILE",
        type=file_path,
        help="state_dict of the port: .pdparams; with --torch-weights, a mistake in your "
        "conversion is found",
    )
    weights.add_argument(
        "--own-weights", action="store_true", help="those with which the reference is made"
    )
    what = flags.add_argument_group("what is compared")
    what.add_argument(
        "--checks",
        metavar="NAME,…",
        type=_checks,
        default=",".join(CHECKS[:3]),
        help="any of forward, backward, training, initialisation, with commas between them",
    )
    what.add_argument(
        "--loss",
        metavar="FILE.py:NAME",
        help="function (output, *targets) that works in both frameworks; without it, the outputs "
        "times fixed random numbers",
    )
    what.add_argument("--torch-loss", metavar="FILE.py:NAME", help="the loss of PyTorch")
    what.add_argument("--paddle-loss", metavar="FILE.py:NAME", help="the loss of Paddle")
    what.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="SHAPE",
        help="target of the loss; as --input",
    )
    what.add_argument(
        "--sizes", metavar="N", type=count, default=2, help="how many sizes of an image to run"
    )
    what.add_argument("--steps", metavar="N", type=steps, default=3, help="steps of training")
    what.add_argument(
        "--optimizer",
        choices=("sgd", "momentum", "adam", "adamw"),
        default="sgd",
        help="of the training",
    )
    what.add_argument(
        "--bound",
        "--atol",
        dest="bound",
        metavar="X",
        type=number(float, above=0, wanted="a number above 0"),
        help="largest difference that passes, relative to the largest value; without it, bounds "
        "from measurements, 1e-12 for outputs",
    )
    what.add_argument(
        "--accept",
        action="append",
        default=[],
        choices=("biased_variance", "hardsigmoid"),
        help="let this known difference of the frameworks pass; may be repeated",
    )
    out = flags.add_argument_group("output")
    out.add_argument("-q", "--quiet", action="store_true", help="print the verdict alone")
    out.add_argument(
        "-v", "--verbose", action="store_true", help="print all that differs, and notes"
    )
    out.add_argument(
        "-x", "--exitfirst", action="store_true", help="stop at the first check that differs"
    )
    out.add_argument(
        "--json", metavar="FILE", type=file_path, help="also write the report to this file"
    )
    out.add_argument(
        "--log-dir", metavar="DIR", type=file_path, help="folder for compare_layers.log, all layers"
    )
    out.add_argument(
        "--report", metavar="DIR", type=file_path, help="folder for report.html and report.json"
    )
    out.add_argument("--junit", metavar="FILE", type=file_path, help="write JUnit XML, for CI")
    return flags


CHECKS = ("forward", "backward", "training", "initialisation")


def _checks(text: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    wrong = [name for name in names if name not in CHECKS]
    if wrong or not names:
        raise argparse.ArgumentTypeError(
            f"{(wrong or [text])[0]!r:.40} is not one of {', '.join(CHECKS)}"
        )
    return tuple(names)


def _argument(text: str) -> tuple[str, Any]:
    from .loading import read_argument

    try:
        return read_argument(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not NAME=VALUE") from None


def _pair(args: argparse.Namespace) -> tuple[Any, Any]:
    """(port, reference) of a command line."""
    from .loading import factory

    for flag, given in (("--paddle-arg", args.paddle_arg), ("--torch-arg", args.torch_arg)):
        names = [name for name, _ in given]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise CannotRun(f"{flag} {twice} is given twice")
    port = factory(args.paddle, dict(args.paddle_arg), "--paddle")
    reference = factory(args.torch, dict(args.torch_arg), "--torch")
    return port, reference


def compare(args: argparse.Namespace) -> int:
    """Compares; one that breaks off is in the report and the JUnit file too."""
    from .report import COMPARE, broken_part

    for flag, file in (("--json", args.json), ("--junit", args.junit)):
        if file:
            require_file_name(flag, file)
    for folder in (args.log_dir, args.report):
        if folder:
            require_writable(folder)
    try:
        return _compare(args)
    except (Exception, SystemExit) as error:
        why = str(error) if isinstance(error, CannotRun) else f"{type(error).__name__}: "
        why += "" if isinstance(error, CannotRun) else reason_of(error)
        _write_reports(args, broken_part(COMPARE, printable(why)))
        raise


def _compare(args: argparse.Namespace) -> int:
    from .compare import check
    from .loading import load
    from .pairing import read_map
    from .report import part_of_comparison

    start = time.perf_counter()
    port, reference = _pair(args)
    losses = {
        side: load(text, flag)
        for side, text, flag in (
            (
                "paddle",
                args.paddle_loss or args.loss,
                "--paddle-loss" if args.paddle_loss else "--loss",
            ),
            (
                "torch",
                args.torch_loss or args.loss,
                "--torch-loss" if args.torch_loss else "--loss",
            ),
        )
        if text
    }
    if len(losses) == 1:
        raise CannotRun("--torch-loss and --paddle-loss: give both, or --loss for both")
    report = check(
        port,
        reference,
        args.input,
        loss=(losses["paddle"], losses["torch"]) if losses else None,
        targets=args.target,
        map=read_map(args.map),
        rules=load(args.rules, "--rules") if args.rules else (),
        checks=args.checks,
        sizes=args.sizes,
        steps=args.steps,
        optimizer=args.optimizer,
        bound=args.bound,
        accept=args.accept,
        torch_weights=args.torch_weights,
        paddle_weights=args.paddle_weights,
        own_weights=args.own_weights,
        seed=args.seed,
        log_dir=args.log_dir,
        stop=args.exitfirst,
        details=args.report is not None,
    )
    lines = [printable(line) for line in report.text(args.verbose, args.quiet).splitlines()]
    for line in lines[:-1]:
        print(line)
    print(coloured(lines[-1], of_verdict(lines[-1])))
    if not report.compared:
        why = [line for line in report.not_compared if not line.endswith("not asked for")]
        raise CannotRun(f"nothing was compared: {'; '.join(why)}")
    lines = [printable(line) for line in report.text().splitlines()]
    _write_reports(args, part_of_comparison(report, time.perf_counter() - start, lines))
    if args.json:
        write_json(report.as_dict(), args.json)
    if args.log_dir and not args.quiet:
        print(f"Layers: {shown(args.log_dir / 'compare_layers.log')}")
    return ALIGNED if report.aligned else NOT_ALIGNED


def require_file_name(flag: str, path: Path) -> None:
    """Raises CannotRun unless a file of that name can be written."""
    if path.is_dir():
        raise CannotRun(f"{flag} {shown(path)} is a folder: give the name of a file")
    require_writable(path.parent)


def _write_reports(args: argparse.Namespace, part: dict[str, Any]) -> None:
    """What --report and --junit ask for. What cannot be written loses no verdict."""
    from .report import make_report, write_report

    if not (args.report or args.junit):
        return
    report = make_report([part], args.seed)
    if args.report:
        opened = write_report(report, args.report)
        if opened and not args.quiet:
            print(f"Report: {shown(opened)}")
    if args.junit:
        from .junit import write_junit

        try:
            write_junit(report, args.junit)
        except CannotRun as error:
            tell(str(error))


def show(args: argparse.Namespace) -> int:
    """Prints a report again; writes its page and JUnit XML where asked to."""
    from .junit import write_junit
    from .report import read_report, text, write_page_of

    for flag, file in (("--page", args.page), ("--junit", args.junit)):
        if file:
            require_file_name(flag, file)
    report = read_report(args.report)
    lines = [printable(line) for line in text(report, args.quiet)]
    print("\n".join([*lines[:-1], coloured(lines[-1], of_verdict(lines[-1]))]))
    if args.junit:
        write_junit(report, args.junit)
    if args.page and not write_page_of(report, args.page):
        return CANNOT_RUN
    return ALIGNED


def diff(args: argparse.Namespace) -> int:
    """Says what has changed between two reports."""
    from .changes import changes
    from .report import read_report

    found = changes(read_report(args.old), read_report(args.new))
    for line in found.lines():
        print(printable(line))
    return NOT_ALIGNED if found.worse else ALIGNED


def records(args: argparse.Namespace) -> int:
    """Compares two saved records."""
    from .diff import DiffHelper
    from .step import StepReport
    from .thresholds import RECORDS_FLOAT64

    require_file_name("--log", args.log)
    helper = DiffHelper()
    wide = [helper.load_info(path) for path in args.float64 or ()]
    for path, record in zip(args.float64 or (), wide):
        for key, array in record.items():
            if array.dtype.kind == "f" and array.dtype != "float64":
                raise CannotRun(f"{shown(path)}: {key} is {array.dtype}. Record it in float64")
    sides = [helper.load_info(path) for path in (args.reference, args.port)]
    for side, other in zip(sides, wide):
        if side.keys() != other.keys():
            keys = ", ".join(sorted(side.keys() ^ other.keys()))
            raise CannotRun(f"--float64: {keys:.80}: in one of the two records of a side only")
    helper.compare_info(*sides, *wide)
    report = StepReport(helper, args.log, args.threshold, bound=RECORDS_FLOAT64)
    if wide:
        report.leave_out(f"what is below {RECORDS_FLOAT64:g}: Paddle rounds constants to float32")
    else:
        report.leave_out("float64: without --float64 a small mistake may pass for rounding")
    return ALIGNED if report.finish("what was recorded first, and how") else NOT_ALIGNED


def mutants(args: argparse.Namespace) -> int:
    """Which small mistakes in a port does a check not see?"""
    from .mutation.command import try_mutants

    if (args.resume or args.again) and args.log is None:
        raise CannotRun("--resume and --again need --log FILE, the file of the results")
    if args.log:
        require_file_name("--log", args.log)
    return try_mutants(args)


def propose(args: argparse.Namespace) -> int:
    """Prints the map of the names that differ; says on stderr what it doubts."""
    from .compare import propose_map
    from .loading import load
    from .pairing import read_map

    # What a model prints must not come into the map.
    with contextlib.redirect_stdout(sys.stderr):
        port, reference = _pair(args)
        rules = load(args.rules, "--rules") if args.rules else ()
        proposal = propose_map(port, reference, read_map(args.map), rules, args.input, args.seed)
    remarks = {f"// {name}": why for name, why in proposal.doubts.items()}
    print(json.dumps({**proposal.layers, **remarks}, indent=1, ensure_ascii=False))
    for name, why in proposal.doubts.items():
        tell(f"{name}: {why}", prefix="doubtful: ")
    tell(proposal.summary, prefix="")
    return ALIGNED


COMMANDS = {
    "compare": compare,
    "map": propose,
    "records": records,
    "show": show,
    "diff": diff,
    "mutants": mutants,
}
PARSERS = {
    "records": records_parser,
    "show": show_parser,
    "diff": diff_parser,
    "mutants": mutants_parser,
}
WITHOUT_FRAMEWORKS = ("show", "diff", "mutants")
