"""Does any small mistake get past the steps? Makes them by machine, one at a time, in the port.

    python benchmarks/mutants.py --sample 60
    python benchmarks/mutants.py --files paddle_mv3/model.py paddle_mv3/norm.py
    python benchmarks/mutants.py --log mutants.jsonl           # all: some hours; --resume goes on
    python benchmarks/mutants.py --log mutants.jsonl --again   # those that survived, and only these

Mutated are paddle_mv3/ and the loop of the training, Checkpoint6/trainer.py and a part of train.py.
Each mutant is given to the steps that run its line, the cheapest first, until one turns red, and to
tests of what has no counterpart in the reference: how images are loaded, what a training keeps.
What none of them sees is printed; so is a mark in
benchmarks/equivalent_mutants.txt that fits no mutant.
The tests need requirements-dev.txt, which make test installs.
Exit status: 0 if every mutant is found or marked as equivalent, 1 if not, 2 if a step is red
without any. See docs/mutants.md.
"""

import contextlib
import gc
import hashlib
import importlib
import json
import os
import pickle
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

# A process that is forked with threads of its own would wait for them.
os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from alignment import cli, environment  # noqa: E402, F401  # isort: skip  (before paddle and torch)

from alignment import processes  # noqa: E402
from alignment.__main__ import STEPS, TRAINING, preload  # noqa: E402
from alignment.arguments import Formatter, Parser, count, file_path  # noqa: E402
from alignment.files import CannotRun, shown  # noqa: E402
from alignment.mutation import hook  # noqa: E402
from alignment.mutation.results import (  # noqa: E402
    FOUND,
    NOT_RUN,
    REFUSED,
    SURVIVED,
    Equivalents,
    Outcome,
    OutcomeLog,
    found_ones,
    read_outcomes,
    report,
    sample_of,
)
from alignment.mutation.source import mutants_of  # noqa: E402
from alignment.processes import Job  # noqa: E402
from alignment.screen import leave  # noqa: E402

try:
    import pytest.__main__
except ImportError:
    leave(2, "missing package: pytest. Run: pip install -r requirements-dev.txt")

EQUIVALENT = ROOT / "benchmarks" / "equivalent_mutants.txt"
# Of train.py what is the loop; the rest reads the command line and writes files.
LOOP = {
    "Checkpoint6/train.py": ("train_one_epoch", "evaluate", "epoch_line", "train_line", "train")
}
POLL = 0.02  # seconds


class Run(NamedTuple):
    """A step, or a part of one that is cheaper."""

    name: str
    script: str
    options: tuple = ()
    left_out: tuple = ()  # names of PARTS that it does not compare
    starts: bool = False  # whether other Pythons are started, in which the mutant has to be too


def nothing_compared(*args, **kwargs):
    """In place of one of PARTS: it agrees."""
    from alignment.findings import Compared

    return Compared("left out", "left out")


def agreement(*args, **kwargs):
    """A Comparison of one quantity that is the same."""
    from alignment.training.comparison import Comparison, Difference

    comparison = Comparison()
    comparison.differences = [Difference("left out", "loss", "", 0.0, 1.0)]
    return comparison


def nothing_trained(*args, **kwargs):
    return agreement(), []


def constant_losses(side, steps):
    import numpy as np
    from reprod_log import ReprodLogger

    log = ReprodLogger()
    for step in range(steps):
        for name in ("loss", "lr"):
            log.add(f"{name}_{step}", np.ones(1))
    return log


def no_power(*args, **kwargs):
    from alignment.power import Power

    return Power({})


# {part of a step: (module, function of it, what stands in for it)}
PARTS = {
    "power": ("alignment.power", "forward_power", no_power),
    "initialisation": (
        "alignment.stages.initialisation",
        "compare_initialisation",
        nothing_compared,
    ),
    "variants": ("alignment.stages.variants", "compare_variants", nothing_compared),
    "augmentation": ("alignment.stages.augmentation", "compare_augmentation", nothing_compared),
    "cases": ("alignment.stages.data_cases", "compare_cases", nothing_compared),
    "recipe": ("alignment.stages.recipe", "compare_recipe", agreement),
    "steps": ("alignment.training.steps", "compare_training", agreement),
    "float64": ("alignment.training.align", "compare_float64", nothing_trained),
    "float32": ("alignment.training.align", "compare_free_runs", nothing_trained),
    "losses": ("alignment.training.steps", "record_losses", constant_losses),
}

SCRIPTS = {name[:2]: name for name in STEPS}
PYTEST = pytest.__main__.__file__
LARGE = ("--model", "mobilenet_v3_large")
# A test takes seconds; one that waits for a lost worker is red.
HANGING = ("-o", "faulthandler_timeout=45", "-o", "faulthandler_exit_on_timeout=true")
LOADING = (
    "tests/paddle_mv3/test_loading.py",
    "tests/test_transport.py",
    "tests/steps/test_inputs.py::test_links_are_followed_as_torchvision_follows_them",
    "tests/steps/test_inputs.py::test_links_without_end_are_named[links1]",
    "tests/steps/test_inputs.py::test_links_without_end_are_named[links3]",
    "tests/steps/test_inputs.py::test_a_folder_that_cannot_be_read_is_said",
)
RECIPE = "tests/paddle_mv3/test_recipe.py", "tests/paddle_mv3/test_port.py::test_accuracy"
LOOP_FILE = "tests/checkpoint6/test_training.py"
# In this process; those that start others would start them without the mutant.
LOOP_TESTS = (
    "records_and_keeps or flag_changes or damaged_last_layer or signal_it_saves or more_epochs "
    "or middle_of_an_epoch or number_of_threads or could_not_be_kept or corrupt_image "
    "or without_variance or nothing_is_left or none_of_which or not_a_number or no_numbers "
    "or seed_decides or norm_is_asked or says_of_time or optimizer_goes_on or precision_goes_on "
    "or as_by_pytorch or of_another_model"
)
PARTS_OF_RECIPE = "rmsprop or average or state or accuracy"
RUNS = [
    Run("01 records", SCRIPTS["01"], (), ("initialisation", "variants")),
    Run("01 large", SCRIPTS["01"], LARGE, ("initialisation", "variants")),
    Run("01 variants", SCRIPTS["01"], (), ("initialisation",)),
    Run("01 initialisation", SCRIPTS["01"], (), ("variants",)),
    Run("02 records", SCRIPTS["02"], (), ("augmentation", "cases")),
    Run("02 cases", SCRIPTS["02"], (), ("augmentation",)),
    Run("02", SCRIPTS["02"], (), ("cases",)),
    Run("03", SCRIPTS["03"]),
    Run("04", SCRIPTS["04"]),
    Run("05 steps", SCRIPTS["05"], (), ("recipe",)),
    Run("05 recipe", SCRIPTS["05"], (), ("steps", "losses")),
    Run("training", TRAINING[0], TRAINING[2]),
    Run("ranks", TRAINING[0], ("--steps", "10"), ("float64", "float32"), True),
    # How images reach the training: with no counterpart in the reference, but with tests.
    Run("loading", PYTEST, ("-q", "-x", "-n0", *HANGING, *LOADING)),
    # What is said, kept, left out and gone on with.
    Run("training tests", PYTEST, ("-q", "-x", "-n0", *HANGING, "-k", LOOP_TESTS, LOOP_FILE)),
    # 16 bits, and what is stopped and goes on: torchvision has neither optimizer nor average of it.
    Run("recipe tests", PYTEST, ("-q", "-x", "-n0", *HANGING, "-k", PARTS_OF_RECIPE, *RECIPE)),
]


# Called by a step only where it is red already, to say where.
LOCATING = {
    "alignment.locate": ("locate_forward", "locate_backward", "locate_loss"),
    "alignment.stages.data": ("locate_image",),
    "alignment.stages.metric": ("locate_metric",),
    "alignment.training.steps": ("locate_training",),
}


def stop_at_first_difference():
    """In a child: a step ends as soon as its verdict can only be red."""
    from alignment.step import StepReport
    from alignment.training.align import Report

    def stop(*args, **kwargs):
        raise SystemExit(1)

    def stopping(add):
        def call(self, *args, **kwargs):
            result = add(self, *args, **kwargs)
            if not self.aligned:
                raise SystemExit(1)
            return result

        return call

    StepReport.add, Report.add = stopping(StepReport.add), stopping(Report.add)
    convert = importlib.import_module("alignment.convert")
    pair_weights = convert.pair_weights

    def pair(*args, **kwargs):
        pairing = pair_weights(*args, **kwargs)
        if not pairing.fits:
            raise SystemExit(1)
        return pairing

    convert.pair_weights = pair
    for module, names in LOCATING.items():
        for name in names:
            setattr(importlib.import_module(module), name, stop)


def remember(known, path=None):
    """In a child: what the reference draws is the same at every run, and takes half of step 02.

    Args:
        known: {what was asked: answer}.
        path: of a file to which each further answer is added.
    """
    import torch_ref

    def remembering(method):
        asked = defaultdict(int)

        def call(self, *args):
            what = [arg if isinstance(arg, int) else _bytes_of(arg) for arg in args]
            about = getattr(self, "settings", None) or self
            key = method.__qualname__, str(about), *what
            asked[key] += 1
            key = *key, asked[key]  # random: the second answer is another
            if key not in known:
                known[key] = method(self, *args)
                if path is not None:
                    with open(path, "ab") as file:
                        pickle.dump((key, known[key]), file)
            return known[key]

        return call

    preset = torch_ref.ClassificationPresetTrain
    mix = torch_ref.presets.MixUpCutMix
    for owner, name in ((preset, "record"), (preset, "draws"), (mix, "record")):
        setattr(owner, name, remembering(getattr(owner, name)))


def _bytes_of(value):
    """Of an image or a tensor."""
    array = value.numpy() if hasattr(value, "numpy") else value
    digest = hashlib.sha256(array.tobytes()).hexdigest()
    return f"{getattr(array, 'size', None)} {getattr(array, 'shape', None)} {digest}"


def read_remembered(path):
    """{what was asked: answer}"""
    known = {}
    if path.exists():
        with open(path, "rb") as file, contextlib.suppress(EOFError):
            while True:
                key, value = pickle.load(file)
                known[key] = value
    return known


class Attempt(Job):
    """A Run in a forked child, of a mutant, or of the port as it is.

    Args:
        run: Run.
        folder: pathlib.Path for its results and all temporary files; emptied before.
        path, source: the file that is mutated, and its bytes.
        watched: real paths of files whose lines are noted in `executed`.
        remembered: what the reference has said before; see `remember`.
    """

    def __init__(self, run, folder, path=None, source=None, watched=(), remembered=None):
        self.run, self.folder = run, folder
        self.path, self.source, self.watched = path, source, watched
        self.remembered = remembered
        options = [*run.options]
        if run.script == PYTEST:
            options += ["-p", "no:cacheprovider", "--basetemp", str(folder / "tests")]
        else:
            options += ["--result-dir", str(folder / "result")]
        if run.script in STEPS:
            options += ["--data-dir", str(folder / "data")]
        super().__init__(ROOT / run.script, options)

    def _be_the_script(self):
        os.setsid()  # the processes that it starts end with it
        os.chdir(ROOT)
        sys.path.insert(1, str(ROOT))  # the first is the script's folder
        tempfile.tempdir = str(self.folder / "tmp")
        os.environ["TMPDIR"] = tempfile.tempdir
        for part in ("power", *self.run.left_out):  # which says how small, and judges nothing
            module, name, stand_in = PARTS[part]
            setattr(importlib.import_module(module), name, stand_in)
        remember(self.remembered, self.folder / "remembered" if self.watched else None)
        if self.run.starts:
            os.environ |= hook.environment_of(
                self.folder / "tmp", self.path, self.source, self.watched
            )
        if self.path is not None:
            hook.install(self.path, self.source)
            stop_at_first_difference()
        if self.watched:
            lines = open(self.folder / "lines", "a", encoding="utf-8")  # noqa: SIM115
            hook.watch(self.watched, lambda *at: print(*at, sep="\t", file=lines, flush=True))
        super()._be_the_script()

    def start(self, fork):
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)
        (self.folder / "tmp").mkdir(parents=True)
        (self.folder / "lines").unlink(missing_ok=True)
        super().start(fork)

    def end(self):
        """With all that it has started."""
        super().end()
        if self.pid is not None:
            end_group(self)

    def executed(self):
        """{path: {line}}"""
        found = defaultdict(set)
        for line in (self.folder / "lines").read_text(encoding="utf-8").splitlines():
            path, number = line.split("\t")
            found[path].add(int(number))
        if self.run.starts:
            for path, numbers in hook.read_notes(self.folder / "tmp")[1].items():
                found[path] |= numbers
        return {path: sorted(numbers) for path, numbers in found.items()}

    @property
    def outcome(self):
        """What its exit status says of a mutant; None: nothing, it is green."""
        if self.returncode == 0:
            return None
        is_red = self.returncode == 1 and "Traceback (most recent call last)" not in self.err
        return FOUND if is_red else REFUSED


class Known(NamedTuple):
    """Of the runs without any mutant."""

    seconds: dict  # {Run: seconds}
    lines: dict  # {Run: {path: {line}}}
    remembered: dict  # of `remember`


def try_without_mutant(runs, folder, watched, cache=None):
    """Known; every run must be green.

    Args:
        folder: pathlib.Path for what they write.
        watched: real paths of the files whose lines are of interest.
        cache: pathlib.Path of a file that holds seconds and lines, as long as nothing has changed.

    Raises:
        CannotRun: one is not.
    """
    seconds, lines, remembered = {}, {}, {}
    state = state_of_repository()
    before = json.loads(cache.read_text()) if cache and cache.exists() else {}
    before = before if before.get("state") == state else {}
    for run in runs:
        entry = before.get(run.name)
        if entry and run.script != SCRIPTS["02"]:  # which says what the reference draws
            seconds[run], lines[run] = entry["seconds"], entry["lines"]
            continue
        attempt = Attempt(run, folder, watched=watched, remembered=remembered)
        wait_for(attempt)
        if attempt.returncode:
            print(attempt.out, attempt.err, sep="\n", file=sys.stderr)
            raise CannotRun(f"{run.name} is red without any mutant: exit {attempt.returncode}")
        seconds[run], lines[run] = attempt.seconds, attempt.executed()
        remembered |= read_remembered(folder / "remembered")
        print(f"{run.name:12} green, {attempt.seconds:.1f} s", flush=True)
    if cache:
        entries = {run.name: {"seconds": seconds[run], "lines": lines[run]} for run in runs}
        cache.write_text(json.dumps({**before, "state": state, **entries}))
    executed = {
        run: {path: set(numbers) for path, numbers in of_run.items()}
        for run, of_run in lines.items()
    }
    return Known(seconds, executed, remembered)


def state_of_repository():
    """A digest of all Python that the runs may import."""
    digest = hashlib.sha256()
    folders = ("alignment", "paddle_mv3", "torch_ref", "Checkpoint6", "tests")
    files = [*ROOT.glob("*.py"), *(f for name in folders for f in (ROOT / name).rglob("*.py"))]
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def wait_for(attempt):
    with environment.cleaned_up(attempt.end):
        attempt.start(fork=True)
        while not attempt.poll():
            time.sleep(POLL)
    end_group(attempt)


def end_group(attempt):
    """What a child that ended early has left running."""
    with contextlib.suppress(OSError):
        os.killpg(attempt.pid, signal.SIGKILL)


class Trial:
    """A mutant and the runs that it still has to pass.

    Args:
        mutant: Mutant.
        source: bytes of the file, unmutated.
        known: Known.
        tried: {(place, Run): [how many mutants there it has found, and not found]}.
    """

    def __init__(self, mutant, source, known, tried):
        self.mutant, self.source = mutant, mutant.apply(source)
        compile(self.source, mutant.file, "exec")
        self.place = mutant.file, mutant.where, mutant.lines if mutant.where == "<module>" else 0
        first, last = mutant.lines
        path = os.path.realpath(ROOT / mutant.file)
        wanted = set(range(first, last + 1))
        self.runs = [run for run in known.seconds if known.lines[run].get(path, set()) & wanted]
        self.seconds, self.passed = 0.0, []
        self.known, self.tried = known, tried
        self.attempt = self.found = None

    def start(self, folder):
        """Starts the run that costs the least for the chance that it is red."""

        def cost(run):
            found, missed = self.tried[self.place, run]
            return self.known.seconds[run] * (found + missed + 2) / (found + 1)

        run = min(self.runs, key=cost)
        self.runs.remove(run)
        path = ROOT / self.mutant.file
        remembered = self.known.remembered
        self.attempt = Attempt(run, folder, path, self.source, remembered=remembered)
        self.attempt.start(fork=True)

    def poll(self):
        """Whether the run has ended; one that hangs is ended."""
        limit = 30 + 5 * self.known.seconds[self.attempt.run]
        hangs = self.attempt.running > limit and not self.attempt.poll()
        if hangs:
            self.attempt.end()
        if not hangs and not self.attempt.poll():
            return False
        end_group(self.attempt)
        self.seconds += self.attempt.running
        run = self.attempt.run
        outcome = REFUSED if hangs else self.attempt.outcome
        if outcome is None:
            self.passed.append(run.name)
        self.tried[self.place, run][outcome is None] += 1
        self.found = outcome
        self.runs = [] if outcome else self.runs
        return True

    @property
    def outcome(self):
        """Outcome, once there is no further run."""
        if self.attempt is None:
            return Outcome.of(self.mutant, NOT_RUN)
        if self.found:
            by = self.attempt.run.name
            return Outcome.of(self.mutant, self.found, by, self.seconds)
        return Outcome.of(self.mutant, SURVIVED, ", ".join(self.passed), self.seconds)


def run_trials(trials, folders, done):
    """Runs trials in as many processes as there are folders; calls done(Outcome) of each."""
    waiting, active, free = list(trials), {}, list(folders)
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            environment.cleaned_up(lambda: [trial.attempt.end() for trial in active.values()])
        )
        while waiting or active:
            while waiting and free:
                trial = waiting.pop(0)
                if not trial.runs:
                    done(trial.outcome)
                    continue
                folder = free.pop(0)
                trial.start(folder)
                active[folder] = trial
            for folder, trial in list(active.items()):
                if not trial.poll():
                    continue
                if trial.runs:
                    trial.start(folder)
                    continue
                del active[folder]
                free.append(folder)
                done(trial.outcome)
            time.sleep(POLL)


def all_mutants(files):
    """({file: bytes}, [Mutant]); of train.py the loop alone."""
    sources, found = {}, []
    for path in files:
        name = path.relative_to(ROOT).as_posix()
        sources[name] = path.read_bytes()
        parts = LOOP.get(name)
        for mutant in mutants_of(sources[name], name):
            if parts is None or mutant.where.split(".")[0] in parts:
                found.append(mutant)
    return sources, found


def default_files():
    loop = [ROOT / "Checkpoint6" / name for name in ("trainer.py", "train.py")]
    return [*sorted((ROOT / "paddle_mv3").rglob("*.py")), *loop]


def main(args):
    processes.taken = processes.processors()  # a step is one process, whose lines are noted
    equivalents = Equivalents(EQUIVALENT)
    sources, everything = all_mutants(default_files())
    stale = equivalents.without_mutant(mutant.name for mutant in everything)
    wanted = everything
    if args.files:
        given = {path.resolve() for path in args.files}
        unknown = given - set(default_files())
        if unknown:
            raise CannotRun(f"--files {shown(min(unknown))} is not mutated here")
        wanted = [mutant for mutant in wanted if ROOT / mutant.file in given]
    wanted = [mutant for mutant in wanted if mutant.name not in equivalents]
    if args.sample:
        wanted = sample_of(wanted, args.sample)
    before = {}
    if args.resume or args.again:
        before = read_outcomes(args.log)
        if args.again:
            before = found_ones(before)
    by_name = {mutant.name: mutant for mutant in everything}
    outcomes = [
        Outcome.of(by_name[n], o.outcome, o.by, o.seconds)
        for n, o in before.items()
        if n in by_name and by_name[n] in wanted
    ]
    done_before = {outcome.name for outcome in outcomes}
    to_do = [mutant for mutant in wanted if mutant.name not in done_before]
    outcomes += [Outcome.of(m, "equivalent") for m in everything if m.name in equivalents]
    log = OutcomeLog(args.log, args.resume or args.again)
    begin = time.perf_counter()
    work = Path(tempfile.mkdtemp(prefix="mutants_"))
    with environment.cleaned_up(lambda: shutil.rmtree(work, ignore_errors=True)):
        folders = [work / str(number) for number in range(args.jobs)]
        watched = [os.path.realpath(ROOT / name) for name in sources]
        cache = args.log and args.log.with_suffix(".runs.json")
        runs = [run for run in RUNS if args.runs is None or run.name in args.runs]
        known = try_without_mutant(runs, folders[0], watched, cache)
        for folder in folders[1:]:
            if folders[0].exists():  # with the weights; tests leave links without end
                unwanted = shutil.ignore_patterns("tests", "tmp")
                shutil.copytree(folders[0], folder, ignore=unwanted)
        gc.freeze()
        tried = defaultdict(lambda: [0, 0])
        trials = [Trial(mutant, sources[mutant.file], known, tried) for mutant in to_do]

        def done(outcome):
            outcomes.append(outcome)
            log.write(outcome)
            if outcome.outcome in (SURVIVED, NOT_RUN):
                print(f"{outcome.outcome}: {outcome.text()}", flush=True)

        run_trials(trials, folders, done)
    log.close()
    print(f"\n{len(to_do)} mutants in {time.perf_counter() - begin:.0f} s\n")
    print("\n".join(report(outcomes, equivalents)))
    for name in stale:
        print(f"benchmarks/{EQUIVALENT.name}: no such mutant any more: {name}")
    survived = [each for each in outcomes if each.outcome in (SURVIVED, NOT_RUN)]
    return 1 if survived or stale else 0


def flags():
    parser = Parser(description=__doc__, formatter_class=Formatter)
    option = parser.add_argument
    option("--files", nargs="+", type=file_path, help="only mutants of these")
    option("--sample", metavar="N", type=count, help="N of them, always the same ones")
    names = [run.name for run in RUNS]
    option("--runs", nargs="+", choices=names, help="only these; what they do not see may be seen")
    option("--jobs", type=count, default=1, choices=(1, 2), help="processes at the same time")
    option("--log", metavar="FILE", type=file_path, help="write each result here at once")
    option("--resume", action="store_true", help="leave out those whose result is in --log")
    option("--again", action="store_true", help="the same, but for those that survived")
    return parser


@environment.ended_by_signals()
def run():
    parser = flags()
    args = parser.parse_args()
    if (args.resume or args.again) and not args.log:
        parser.error("--resume and --again need --log FILE")
    environment.imported()
    try:
        preload()
        import torch_ref  # noqa: F401

        status, message = main(args), ""
    except CannotRun as error:
        status, message = 2, str(error)
    leave(status, message)


if __name__ == "__main__":
    run()
