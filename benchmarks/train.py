"""What the training script costs beside the step itself: images per second, memory, processes.

    python benchmarks/train.py                       # some seven minutes on two cores
    python benchmarks/train.py --only loop --rounds 15
    python benchmarks/train.py --only memory --memory-steps 10000
    python benchmarks/train.py --quick               # only that all of it runs

On the CPU, with JPEGs of ImageNet's size (those of benchmarks/data.py) in 1000 classes. All
processes have --threads OpenMP threads that wait passively; Paddle's default is one thread.

loop: images per second of the bare step (forward in training mode, loss, backward, RMSprop; one
    batch again and again) and of the full loop (`train_one_epoch` of Checkpoint6/train.py with its
    loader, lines, metrics and average of the weights), and the same for torchvision in torch: its
    loop reads loss and accuracies after each step, as torchvision's references do, and keeps the
    average as well. Each is a process of its own; they take blocks of steps in turn, and who waits
    is stopped, with its workers. Medians over the rounds; the ratios too are of one round each.
    "CPU": the same from the processor time of the main process, whatever else runs on the
    machine; it leaves out waiting for a batch. The goal is a ratio of 0.95, where a core is free
    for the workers.
peak: largest resident set so far of a loop's main process; of its largest worker (much of which
    is memory that it shares with the main process).
costs: `train_one_epoch` on batches in memory against the bare step, in one process, step by step
    in turn: what lines, metrics and the average of the weights cost together, by processor time.
    The steps are small ones, in which the cost, which does not depend on the size of the images,
    is seen well: "of this step". "of the full step" is the share of the bare step of `loop`; the
    goal is 3 %.
ranks: images per second of train.py with two processes (gloo) and with one, --threads each, in
    turn: medians of `avg_ips` in train.jsonl. The ratio is 2 at best, if there are two free cores.
memory: resident set of train.py and the sum of its workers' in one epoch of small steps. Growth
    is counted from a tenth of the steps on.
"""

import argparse
import contextlib
import itertools
import json
import os
import re
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from alignment.arguments import Formatter, count  # noqa: E402

CLASSES = 1000
WARM_UP = 3  # steps
MEMORY_MARKS = 0.1, 0.25, 0.5, 0.75, 1.0  # of the steps
MEMORY_SIZE, MEMORY_BATCH = 32, 4
LIMIT = 300  # seconds for an answer: what takes longer hangs
TRAIN = ROOT / "Checkpoint6" / "train.py"
# Of recipes/mobilenet_v3_small_600.txt, without its augmentation.
RECIPE = ["--opt", "rmsprop", "--lr", "0.064", "--wd", "0.00001", "--model-ema", "--device", "cpu"]
PARTS = ("loop", "costs", "ranks", "memory")
SIDES = ("paddle bare", "paddle loop", "torch bare", "torch loop")


class Broken(Exception):
    """A process broke off; the message is what it said last."""


# ---- in a process of its own: what runs ----


def in_blocks(batches, answers):
    """The batches; before each block of them, waits for its length on stdin, and answers after it.

    The answer is (seconds, processor time of this process with all its threads).
    """
    batches = iter(batches)
    for line in sys.stdin:
        begin = time.perf_counter(), time.process_time()
        yield from itertools.islice(batches, int(line))
        took = time.perf_counter() - begin[0], time.process_time() - begin[1]
        print(json.dumps(took), file=answers, flush=True)


def paddle_arguments(options, *more):
    from Checkpoint6.arguments import parse

    return parse(__doc__, [*RECIPE, *options, *more])


def paddle_bare(options, answers):
    from Checkpoint6.trainer import Trainer

    trainer = Trainer(paddle_arguments(options), CLASSES, 1)
    step = bare_step(trainer)
    (batch,) = fixed_batches(trainer.args, 1)
    for images, labels in in_blocks(itertools.repeat(batch), answers):
        step(images, labels)


def bare_step(trainer):
    """What any training has to do; of the trainer, its model, loss and optimizer only."""
    trainer.model.train()

    def step(images, labels):
        loss = trainer.criterion(trainer.model(images), labels)
        trainer.optimizer.clear_grad()
        loss.backward()
        trainer.optimizer.step()

    return step


def fixed_batches(args, count):
    import paddle

    rng = np.random.default_rng(0)
    shape = args.batch_size, 3, args.train_crop_size, args.train_crop_size
    return [
        (
            paddle.to_tensor(rng.standard_normal(shape, dtype=np.float32)),
            paddle.to_tensor(rng.integers(0, CLASSES, args.batch_size)),
        )
        for _ in range(count)
    ]


def paddle_loop(options, answers):
    from Checkpoint6.distributed import Stop
    from Checkpoint6.logs import Log
    from Checkpoint6.saver import Saver
    from Checkpoint6.train import set_up, train_one_epoch

    args, log = paddle_arguments(options), Log()
    trainer, (loader, batches, data), _ = set_up(args, 0, 1, log)
    trainer.schedule.step(0)
    batches.set_epoch(0, 0)
    saver = Saver(trainer, loader, data.classes, log)
    train_one_epoch(trainer, in_blocks(loader, answers), log, Stop(), saver)


def paddle_costs(options, answers):
    """Answers a line on stdin, the number of steps, by [[bare, loop], ...] of processor times."""
    from Checkpoint6.distributed import Stop
    from Checkpoint6.logs import Log
    from Checkpoint6.train import train_one_epoch
    from Checkpoint6.trainer import Trainer

    stop, args = Stop(), paddle_arguments(options)
    step, batches = bare_step(Trainer(args, CLASSES, 1)), fixed_batches(args, 4)

    def in_turn(count, times):
        for images, labels in itertools.islice(itertools.cycle(batches), count):
            begin = time.process_time()
            step(images, labels)
            between = time.process_time()
            yield images, labels
            times.append((between - begin, time.process_time() - between))

    log = Log()
    log.open(args.output_dir)
    for line in sys.stdin:
        count, *more = line.split()
        trainer, times = Trainer(paddle_arguments(options, *more), CLASSES, int(count)), []
        trainer.model_ema.n_averaged = 1  # the first update would only copy
        train_one_epoch(trainer, in_turn(int(count), times), log, stop, None)
        print(json.dumps(times), file=answers, flush=True)


def torch_bare(options, answers):
    import torch

    args = torch_arguments(options)
    _, step, _ = torch_training(args)
    images = torch.randn(args.batch_size, 3, args.train_crop_size, args.train_crop_size)
    labels = torch.randint(CLASSES, (args.batch_size,))
    for batch in in_blocks(itertools.repeat((images, labels)), answers):
        step(*batch)


def torch_arguments(options):
    flags = argparse.ArgumentParser()
    for name in ("--batch-size", "--train-crop-size", "--workers"):
        flags.add_argument(name, type=int)
    flags.add_argument("--data-path", type=Path)
    return flags.parse_known_args(options)[0]


def torch_training(args):
    """(model, one step of its training: images, labels -> loss, logits; average of its weights)"""
    import torch

    import torch_ref

    model = torch_ref.mobilenet_v3_small().train()
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = torch_ref.create_optimizer("rmsprop", model.parameters(), 0.064, weight_decay=1e-5)

    def step(images, labels):
        output = model(images)
        loss = criterion(output, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss, output

    return model, step, torch_ref.ExponentialMovingAverage(model, 0.99)


def torch_loop(options, answers):
    import torch

    import torch_ref

    args = torch_arguments(options)
    model, step, average = torch_training(args)
    data = torch_ref.ImageFolder(
        args.data_path / "train", torch_ref.ClassificationPresetTrain(args.train_crop_size)
    )
    loader = torch.utils.data.DataLoader(
        data, args.batch_size, shuffle=True, num_workers=args.workers
    )
    for number, (images, labels) in enumerate(in_blocks(loader, answers)):
        loss, output = step(images, labels)
        if number % 32 == 0:
            average.update_parameters(model)
        top1, top5 = torch_ref.accuracy(output, labels, (1, 5))
        if number % 10 == 0:
            print(f"loss {loss.item():.5f}, top1 {top1:.3f}, top5 {top5:.3f}")
        else:
            loss.item()


SERVED = {
    "paddle bare": paddle_bare,
    "paddle loop": paddle_loop,
    "paddle costs": paddle_costs,
    "torch bare": torch_bare,
    "torch loop": torch_loop,
}


def serve(name, options):
    # What a training prints is not an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    SERVED[name](options, answers)


# ---- the process that measures ----


class Process:
    """A process, and its workers, in a group that only runs while it is asked something."""

    def __init__(self, name, options, folder):
        self.stderr = (folder / f"{name}.txt").open("w+")
        self.child = subprocess.Popen(
            [sys.executable, __file__, "--serve", name, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            text=True,
            start_new_session=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
        self.child.stdin.close()
        self.child.stdout.close()
        self.stderr.close()

    def ask(self, *words):
        """Raises: Broken."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGCONT)
        line = ""
        with contextlib.suppress(BrokenPipeError):
            print(*words, file=self.child.stdin, flush=True)
            if not select.select([self.child.stdout], [], [], LIMIT)[0]:
                raise Broken(f"no answer within {LIMIT} s")
            line = self.child.stdout.readline()
        if not line:
            self.stderr.seek(0)
            raise Broken(self.stderr.read() or f"exit status {self.child.wait()}")
        os.killpg(self.child.pid, signal.SIGSTOP)
        return json.loads(line)


def status(pid, key):
    """MB. `key`: VmRSS, the resident set, or VmHWM, its peak."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"^{key}:\s+(\d+)", text, re.M)[1]) / 1024


def children(pid):
    return [int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def make_data(folder, images, count):
    """train/ with `count` files, each of `images` again and again; val/ with a tiny one a class.

    What is read again is in memory, as if the disk were fast.
    """
    from PIL import Image

    tiny = folder / "tiny.jpg"
    Image.open(images[0]).resize((32, 32)).save(tiny)
    for split, files, number in (("train", images, max(count, CLASSES)), ("val", [tiny], CLASSES)):
        for label in range(CLASSES):
            (folder / split / f"{label:03}").mkdir(parents=True)
        for index in range(number):
            name = f"{index % CLASSES:03}/{index:05}.jpg"
            os.link(files[index % len(files)], folder / split / name)


def flags(folder, out, size, batch_size):
    options = ["--data-path", folder, "--output-dir", out, "--result-dir", out]
    options += ["--train-crop-size", size, "--val-crop-size", 32, "--val-resize-size", 32]
    options += ["--batch-size", batch_size, "--epochs", 1]
    return [str(x) for x in options]


def measure_loop(args, folder):
    """Prints the table of images per second. Returns the bare step's median seconds, in Paddle."""
    with contextlib.ExitStack() as stack:
        processes = {}
        for name in SIDES:
            options = flags(folder, folder / name, args.size, args.batch_size)
            options += ["--workers", str(args.workers)]
            processes[name] = stack.enter_context(Process(name, options, folder))
            processes[name].ask(WARM_UP)
        rounds = [
            {name: process.ask(args.steps) for name, process in processes.items()}
            for _ in range(args.rounds)
        ]
        peaks = {}
        for name in SIDES[1::2]:
            pid = processes[name].child.pid
            workers = [status(child, "VmHWM") for child in children(pid)]
            peaks[name] = status(pid, "VmHWM"), max(workers)
    rows = []
    for clock, framework in itertools.product(range(2), ("paddle", "torch")):
        pairs = [[r[f"{framework} {kind}"][clock] for kind in ("bare", "loop")] for r in rounds]
        bare, loop = (statistics.median(column) for column in zip(*pairs))
        ratios = sorted(bare / loop for bare, loop in pairs)
        images_per_second = (f"{args.steps * args.batch_size / x:.1f}" for x in (bare, loop))
        shown = f"{statistics.median(ratios):.3f}", f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        rows.append([framework, ("wall", "CPU")[clock], *images_per_second, *shown])
    print(
        f"\nloop: images per second, {args.size} px, batches of {args.batch_size}, {args.workers} "
        f"workers, {args.rounds} rounds of {args.steps} steps"
    )
    print(table(rows, "", "clock", "bare step", "full loop", "ratio", "of single rounds"))
    rows = [[name.split()[0], *(f"{mb:.0f}" for mb in peaks[name])] for name in SIDES[1::2]]
    print("\npeak: resident set of the full loop, MB")
    print(table(rows, "", "main process", "largest worker"))
    return statistics.median(r["paddle bare"][1] for r in rounds) / args.steps


def table(rows, *headers):
    return tabulate(rows, headers, disable_numparse=True, stralign="right")


def measure_costs(args, folder, full_step):
    """`full_step`: processor seconds of a bare step of full size, or None."""
    options = flags(folder, folder / "costs", args.cost_size, args.batch_size)
    updates = {"32 (default)": 32, "1": 1}
    rows = []
    with Process("paddle costs", options, folder) as process:
        process.ask(WARM_UP)
        times = {name: [] for name in updates}
        for _ in range(args.cost_rounds):
            for name, steps in updates.items():
                pairs = process.ask(args.cost_steps, "--model-ema-steps", steps)
                times[name].append(np.array(pairs).mean(axis=0))
    for name, pairs in times.items():
        cost = statistics.median(loop - bare for bare, loop in pairs)
        bare = statistics.median(bare for bare, _ in pairs)
        of_full = f"{cost / full_step:.2%}" if full_step else ""
        rows.append([name, f"{1e3 * bare:.1f}", f"{1e3 * cost:.2f}", f"{cost / bare:.2%}", of_full])
    print(
        f"\ncosts: of lines, metrics and average; {args.cost_size} px, batches of "
        f"{args.batch_size}, {args.cost_rounds} rounds of {args.cost_steps} steps"
    )
    headers = "bare step ms", "cost ms", "of this step", "of the full step"
    print(table(rows, "--model-ema-steps", *headers))


@contextlib.contextmanager
def training(folder, options, launch=()):
    """train.py as a user starts it; yields its process and the entries of its train.jsonl, as they
    come. At the end it is ended, with its workers and other ranks.

    Args:
        folder: --output-dir.
    """
    folder.mkdir()
    with open(folder / "said.txt", "w+") as said:
        child = subprocess.Popen(
            [sys.executable, *launch, str(TRAIN), *RECIPE, *options], stdout=said, stderr=said
        )

        def entries():
            written = folder / "train.jsonl"
            while not written.exists():
                wait()
            with written.open() as file:
                line = ""
                while True:
                    line += file.readline()
                    if line.endswith("\n"):
                        yield json.loads(line)
                        line = ""
                    else:
                        wait()

        def wait():
            if child.poll() is not None:
                said.seek(0)
                raise Broken(said.read())
            time.sleep(0.02)

        try:
            yield child, entries()
        finally:
            # Workers, or ranks, whose workers end with them.
            with contextlib.suppress(ProcessLookupError):
                for pid in [*children(child.pid), child.pid]:
                    os.kill(pid, signal.SIGKILL)
            child.wait()


def measure_ranks(args, folder):
    speeds = {1: [], 2: []}
    for run, ranks in itertools.product(range(args.rank_runs), speeds):
        out = folder / f"ranks{ranks}-{run}"
        options = flags(folder, out, args.size, args.batch_size)
        options += ["--print-freq", "1", "--workers", "1"]
        launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(ranks)]
        launch += ["--backend", "gloo", "--log_dir", str(out / "log")]
        with training(out, options, launch if ranks > 1 else ()) as (_, entries):
            entries = itertools.islice(entries, WARM_UP, WARM_UP + args.rank_steps)
            speeds[ranks].append(statistics.median(entry["avg_ips"] for entry in entries))
    rows = [[ranks, f"{statistics.median(ips):.1f}"] for ranks, ips in speeds.items()]
    ratio = statistics.median(two / one for one, two in zip(*speeds.values()))
    print(
        f"\nranks: images per second of all processes, {args.batch_size} images of {args.size} px "
        f"in each, OMP_NUM_THREADS={args.threads} and 1 worker each, {args.rank_runs} runs in turn"
    )
    print(table(rows, "processes", "images/s"))
    print(f"ratio {ratio:.2f}")


def measure_memory(args, folder):
    marks = [round(share * args.memory_steps) for share in MEMORY_MARKS]
    options = flags(folder, folder / "memory", MEMORY_SIZE, MEMORY_BATCH)
    freq = np.gcd.reduce(marks)
    options += ["--workers", str(args.workers), "--print-freq", str(freq)]
    rows = []
    with training(folder / "memory", options) as (child, entries):
        for entry in entries:
            if entry["iter"] in marks:
                workers = sum(status(pid, "VmRSS") for pid in children(child.pid))
                rows.append((entry["iter"], status(child.pid, "VmRSS"), workers))
            if entry["iter"] == marks[-1]:
                break
    shown = [[step, f"{main:.1f}", f"{workers:.1f}"] for step, main, workers in rows]
    print(
        f"\nmemory: resident set, MB; {MEMORY_SIZE} px, batches of {MEMORY_BATCH}, {args.workers} "
        "workers"
    )
    print(table(shown, "step", "main process", "workers"))
    for name, first, last in zip(("main process", "workers"), rows[0][1:], rows[-1][1:]):
        print(f"{name}: {last - first:+.1f} MB, {last / first - 1:+.2%}, from step {rows[0][0]} on")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Formatter)
    add = parser.add_argument
    add("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts alone")
    add("--quick", action="store_true", help="tiny counts, which measure nothing")
    add("--threads", type=count, default=1, help="of each main process")
    add("--workers", type=count, default=2, help="loader processes")
    add("--batch-size", type=count, default=32, help="images in a step")
    add(
        "--size",
        type=count,
        default=224,
        help="height and width of the images",
    )
    add("--images", type=count, default=64, help="different JPEGs")
    add("--quality", type=count, default=97, help="of the JPEGs, to 100")
    add("--rounds", type=count, default=7, help="of loop")
    add("--steps", type=count, default=4, help="of loop, in a round")
    add(
        "--cost-rounds",
        type=count,
        default=3,
        help="how often costs are measured",
    )
    add(
        "--cost-steps",
        type=count,
        default=32,
        help="of costs, in a round",
    )
    add("--cost-size", type=count, default=32, help="pixels")
    add(
        "--rank-runs",
        type=count,
        default=2,
        help="how often ranks are measured",
    )
    add("--rank-steps", type=count, default=8, help="of ranks, in a run")
    add("--memory-steps", type=count, default=2000, help="of memory")
    args = parser.parse_args()
    if args.quick:
        parser.set_defaults(batch_size=4, size=64, images=8, rounds=1, steps=2)
        parser.set_defaults(cost_rounds=1, cost_steps=4, rank_runs=1, rank_steps=2)
        parser.set_defaults(memory_steps=40)
        args = parser.parse_args()

    os.environ |= {"OMP_NUM_THREADS": str(args.threads), "OMP_WAIT_POLICY": "passive"}
    # Stopped processes do not notice that this one is gone: end them on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        from benchmarks.data import make_images  # with both frameworks, as no other process here

        images = sorted(make_images(folder, args.images, args.quality).rglob("*.jpg"))
        size = statistics.mean(path.stat().st_size for path in images)
        print(
            f"{args.images} JPEGs, {size / 1e3:.0f} KB on average; {os.cpu_count()} cores, "
            f"OMP_NUM_THREADS={args.threads}",
            flush=True,
        )
        loop = (WARM_UP + args.rounds * args.steps + 4 * args.workers) * args.batch_size
        ranks = 2 * (WARM_UP + args.rank_steps) * args.batch_size
        # A few more than are asked for: what is measured is not the end of an epoch.
        make_data(folder, images, max(loop, ranks, args.memory_steps * MEMORY_BATCH) + 64)
        try:
            full_step = measure_loop(args, folder) if "loop" in args.only else None
            if "costs" in args.only:
                measure_costs(args, folder, full_step)
            if "ranks" in args.only:
                measure_ranks(args, folder)
            if "memory" in args.only:
                measure_memory(args, folder)
        except Broken as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], sys.argv[3:])
    else:
        main()
