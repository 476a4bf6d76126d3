"""What Paddle's own accelerators give this model on the CPU, and whether the result is still right.

    python benchmarks/accelerators.py
    python benchmarks/accelerators.py --only "to_static" --rounds 9
    python benchmarks/accelerators.py --only "KMP" "OMP" --busy 2

Each accelerator runs in a process of its own, in turn with a process that runs what it is compared
with: both take one step on the same batch from the same weights, then the next. Whichever waits is
stopped, so that its threads take no time either. "ratio" is the median over the rounds of its time
through the other's: above 1 is faster. "first" is the first step, which compiles, in seconds.

After all steps the losses, weights and running statistics (for inference: the logits) are compared.
Differences of weights and statistics are shares of what the training has changed. They count as
rounding up to MARGIN times what comes of moving the first weight by one unit in the last place.
The lines "one rounding" are this yardstick; with --only the first of them stays.
"""

import argparse
import contextlib
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
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from alignment.arguments import Formatter, count  # noqa: E402

WARM_UP = 2
LIMIT = 300  # seconds for one step: what takes longer hangs
MARGIN = 10


class Broken(Exception):
    """A process broke off; the message is its reason, in one line."""


# ---- in a process of its own: what runs ----


class Training:
    """Training steps on one batch."""

    def __init__(self, args):
        import paddle

        import paddle_mv3

        paddle.seed(0)
        rng = np.random.default_rng(0)
        self.model = paddle_mv3.MODELS[args.model]()
        shape = args.batch_size, 3, args.size, args.size
        self.images = paddle.to_tensor(rng.standard_normal(shape, dtype=np.float32))
        self.targets = paddle.to_tensor(rng.integers(0, 1000, args.batch_size))
        self.loss = paddle_mv3.CrossEntropyLoss()
        self.scaler = None
        self.scope = contextlib.nullcontext
        self.net = self.model
        self.times_optimizer = False
        self.set_optimizer("rmsprop", 1e-3)

    def groups(self):
        import paddle_mv3

        return paddle_mv3.weight_decay_groups(self.model, 1e-5, norm_weight_decay=0.0)

    def set_optimizer(self, name, lr):
        import paddle_mv3

        self.optimizer = paddle_mv3.create_optimizer(name, self.groups(), lr)

    def step(self):
        """(seconds, loss)"""
        start = time.perf_counter()
        with self.scope():
            loss = self.loss(self.net(self.images), self.targets)
        if self.scaler:
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            loss.backward()
            if self.times_optimizer:
                start = time.perf_counter()
            self.optimizer.step()
        self.optimizer.clear_grad()
        value = float(loss)
        return time.perf_counter() - start, value

    def arrays(self):
        import paddle

        return {k: paddle.cast(v, "float32").numpy() for k, v in self.model.state_dict().items()}


class Inference:
    """Logits of one batch, in eval mode."""

    def __init__(self, args):
        import paddle

        run = Training(args)
        run.model.eval()
        self.model = run.model
        self.images = run.images
        self.run = paddle.no_grad()(lambda: self.model(self.images).numpy())
        self.logits = None

    def step(self):
        """(seconds, 0)"""
        start = time.perf_counter()
        self.logits = self.run()
        return time.perf_counter() - start, 0.0

    def arrays(self):
        return {} if self.logits is None else {"logits": self.logits}


def one_rounding(run):
    """Moves the first weight of all by one unit in the last place."""
    import paddle

    weight = run.model.parameters()[0]
    array = weight.numpy()
    array.flat[0] = np.nextafter(array.flat[0], np.float32(np.inf))
    with paddle.no_grad():
        weight.set_value(array)


def framework_batch_norm(run):
    import paddle

    from paddle_mv3.norm import BatchNorm2D

    for layer in run.model.sublayers():
        if isinstance(layer, BatchNorm2D):
            layer.__class__ = paddle.nn.BatchNorm2D


def to_static(**kwargs):
    def change(run):
        import paddle

        run.net = paddle.jit.to_static(run.model, **kwargs)

    return change


def build_strategy(run):
    import paddle

    strategy = paddle.static.BuildStrategy()
    strategy.build_cinn_pass = False
    strategy.enable_inplace = True
    strategy.fuse_bn_act_ops = True
    strategy.fuse_bn_add_act_ops = True
    strategy.fuse_elewise_add_act_ops = True
    to_static(full_graph=True, build_strategy=strategy)(run)


def nhwc(run):
    """Channels last. Paddle's layers keep their weights as they are."""
    for layer in run.model.sublayers():
        if hasattr(layer, "_data_format"):
            layer._data_format = "NHWC"
        if hasattr(layer, "_channel_dim"):
            layer._channel_dim = 3
    run.images = run.images.transpose([0, 2, 3, 1]).contiguous()


def layout_autotune(run):
    import paddle

    paddle.incubate.autotune.set_config({"layout": {"enable": True}})


def amp(dtype, level):
    def change(run):
        import paddle

        if level == "O2":
            run.model, run.optimizer = paddle.amp.decorate(
                run.model, run.optimizer, level=level, dtype=dtype, master_weight=True
            )
            run.net = run.model
        if dtype == "float16":
            run.scaler = paddle.amp.GradScaler()
        run.scope = lambda: paddle.amp.auto_cast(level=level, dtype=dtype)

    return change


def sgd(run):
    run.set_optimizer("sgd", 0.01)


def optimizer(name, **kwargs):
    """Paddle's own, and only its step is timed."""

    def change(run):
        import paddle

        make = getattr(paddle.optimizer, name)
        run.optimizer = make(1e-3, parameters=run.groups(), **kwargs)
        run.times_optimizer = True

    return change


def predictor(onednn):
    """paddle.inference on what paddle.jit.save has written."""

    def change(run):
        import paddle
        from paddle import inference

        with tempfile.TemporaryDirectory() as folder:
            spec = paddle.static.InputSpec([None, *run.images.shape[1:]], "float32")
            paddle.jit.save(run.model, f"{folder}/model", [spec])
            config = inference.Config(f"{folder}/model.json", f"{folder}/model.pdiparams")
            config.disable_gpu()
            config.set_cpu_math_library_num_threads(int(os.environ["OMP_NUM_THREADS"]))
            if onednn:
                config.enable_mkldnn()
            else:
                config.disable_mkldnn()
            config.disable_glog_info()
            made = inference.create_predictor(config)
        source = made.get_input_handle(made.get_input_names()[0])
        target = made.get_output_handle(made.get_output_names()[0])
        array = run.images.numpy()

        def infer():
            source.copy_from_cpu(array)
            made.run()
            return target.copy_to_cpu()

        run.run = infer

    return change


def both(*changes):
    def change(run):
        for one in changes:
            one(run)

    return change


def static_inference(run):
    import paddle

    net = paddle.jit.to_static(run.model, full_graph=True)
    run.run = paddle.no_grad()(lambda: net(run.images).numpy())


class Variant(NamedTuple):
    """What runs in one process, and with what it is compared (None: with nothing)."""

    base: str | None = "plain"
    change: Callable | None = None
    environment: dict = {}  # noqa: RUF012  (None: not set)
    kind: type = Training


PLAIN, OWN, YARDSTICK = "plain", "paddle.nn.BatchNorm2D", "one rounding"
STATIC = f"to_static, {OWN}"
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}

VARIANTS = {
    PLAIN: Variant(None),
    YARDSTICK: Variant(change=one_rounding),  # before what it measures
    "plain again": Variant(),
    "1 thread": Variant(environment={"OMP_NUM_THREADS": "1"}),
    "1 thread again": Variant("1 thread", environment={"OMP_NUM_THREADS": "1"}),
    "OMP_WAIT_POLICY not set": Variant(environment={"OMP_WAIT_POLICY": None}),
    "OMP_WAIT_POLICY=active": Variant(environment={"OMP_WAIT_POLICY": "active"}),
    "KMP_BLOCKTIME=1": Variant(environment={"OMP_WAIT_POLICY": None, "KMP_BLOCKTIME": "1"}),
    "malloc keeps memory": Variant(environment=ALLOCATOR),
    "allocator naive_best_fit": Variant(environment={"FLAGS_allocator_strategy": "naive_best_fit"}),
    "FLAGS_paddle_num_threads=2": Variant(environment={"FLAGS_paddle_num_threads": "2"}),
    "FLAGS_use_onednn": Variant(environment={"FLAGS_use_onednn": "1", "FLAGS_use_mkldnn": "1"}),
    OWN: Variant(change=framework_batch_norm),
    "NHWC": Variant(change=nhwc),
    "autotune of the layout": Variant(change=layout_autotune),
    "to_static": Variant(change=to_static(full_graph=True)),
    "to_static, SOT": Variant(change=to_static(full_graph=False)),
    STATIC: Variant(OWN, both(framework_batch_norm, to_static(full_graph=True))),
    f"{STATIC} again": Variant(STATIC, both(framework_batch_norm, to_static(full_graph=True))),
    f"to_static, SOT, {OWN}": Variant(OWN, both(framework_batch_norm, to_static(full_graph=False))),
    f"to_static, CINN, {OWN}": Variant(
        OWN, both(framework_batch_norm, to_static(full_graph=True, backend="CINN"))
    ),
    f"to_static, BuildStrategy, {OWN}": Variant(OWN, both(framework_batch_norm, build_strategy)),
    f"to_static, oneDNN, {OWN}": Variant(
        OWN,
        both(framework_batch_norm, to_static(full_graph=True)),
        {"FLAGS_use_onednn": "1", "FLAGS_use_mkldnn": "1"},
    ),
    f"to_static, oneDNN, old IR, {OWN}": Variant(
        OWN,
        both(framework_batch_norm, to_static(full_graph=True)),
        {"FLAGS_use_mkldnn": "1", "FLAGS_enable_pir_api": "0"},
    ),
    **{
        f"AMP {dtype} {level}": Variant(change=amp(dtype, level))
        for dtype in ("bfloat16", "float16")
        for level in ("O1", "O2")
    },
    "sgd": Variant(None, sgd),
    "sgd again": Variant("sgd", sgd),
    "Momentum.step": Variant(None, optimizer("Momentum")),
    "Momentum.step, use_multi_tensor": Variant(
        "Momentum.step", optimizer("Momentum", use_multi_tensor=True)
    ),
    "Adam.step": Variant(None, optimizer("Adam")),
    f"Adam.step, {YARDSTICK}": Variant("Adam.step", both(one_rounding, optimizer("Adam"))),
    "Adam.step, use_multi_tensor": Variant("Adam.step", optimizer("Adam", use_multi_tensor=True)),
    "AdamW.step": Variant(None, optimizer("AdamW")),
    "AdamW.step, use_multi_tensor": Variant(
        "AdamW.step", optimizer("AdamW", use_multi_tensor=True)
    ),
    "eval": Variant(None, kind=Inference),
    "eval, to_static": Variant("eval", static_inference, kind=Inference),
    "eval, NHWC": Variant("eval", nhwc, kind=Inference),
    "eval, paddle.inference": Variant("eval", predictor(False), kind=Inference),
    "eval, paddle.inference, oneDNN": Variant("eval", predictor(True), kind=Inference),
}

OPERATORS = {  # the names of the profiler's events, forward and backward
    "depthwise convolutions": r"depthwise_conv2d dygraph|Global_DepthwiseConv2dGradNode\w*",
    "other convolutions": r"conv2d dygraph|Global_Conv2dGradNode\w*",
    "batch norm, Paddle's kernel": r"batch_norm dygraph|Global_BatchNormGradNode",
    "activations": r"(hardswish|relu6?) dygraph|Global_(Hardswish|Relu6?)GradNode",
}


def profile(run):
    """{kind of operator: share of the time of two steps}."""
    from paddle import profiler

    with tempfile.TemporaryDirectory() as folder:
        target = profiler.ProfilerTarget.CPU
        # By default it writes into the current folder.
        with profiler.Profiler(targets=[target], on_trace_ready=lambda _: None) as recorder:
            start = time.perf_counter()
            optimizer_seconds = 0.0
            take = run.optimizer.step

            def timed():
                nonlocal optimizer_seconds
                begin = time.perf_counter()
                take()
                optimizer_seconds += time.perf_counter() - begin

            run.optimizer.step = timed
            for _ in range(2):
                run.step()
            run.optimizer.step = take
            whole = time.perf_counter() - start
        trace = Path(folder) / "trace.json"
        recorder.export(str(trace), format="json")
        events = json.loads(trace.read_text())["traceEvents"]
    shares = dict.fromkeys(OPERATORS, 0.0)
    for event in events:
        for kind, names in OPERATORS.items():
            # The name ends with the time: "relu dygraph[11.07 ms]".
            if "dur" in event and re.fullmatch(names, event["name"].partition("[")[0]):
                shares[kind] += event["dur"] / 1e6 / whole
    shares["optimizer"] = optimizer_seconds / whole
    return shares | {"everything else": 1 - sum(shares.values())}


def serve(args):
    """The process of one variant: answers each line on stdin by one of JSON on stdout."""
    # What the framework prints is not an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    # Ctrl-C is for the parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def answer(value):
        print(json.dumps(value), file=answers, flush=True)

    run = None
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        try:
            if run is None:
                import paddle

                paddle.disable_signal_handler()
                variant = VARIANTS[args.serve]
                run = variant.kind(args)
                initial = run.arrays()
                if variant.change:
                    variant.change(run)
                paddle.seed(1)
            if command == "step":
                answer(run.step())
            elif command == "profile":
                answer(profile(run))
            elif command == "write":
                final = {f"final/{k}": v for k, v in run.arrays().items()}
                np.savez(argument, **final, **{f"initial/{k}": v for k, v in initial.items()})
                answer(None)
        except Exception as error:
            answer({"error": reason(f"{type(error).__name__}: {error}")})


def reason(text):
    """The line of an error message that says most."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if re.match(r"[\w ]*Error: .", line)]
    return re.sub(r" \(at /.*", "", (telling or lines)[-1 if telling else 0])[:200]


# ---- the process that measures ----


class Process:
    """A variant in a process that only runs while it is asked something."""

    def __init__(self, name, args, folder):
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(args.threads),
            "OMP_WAIT_POLICY": "passive",
            **VARIANTS[name].environment,
        }
        environment = {key: value for key, value in environment.items() if value is not None}
        self.stderr = (Path(folder) / "stderr").open("w+")
        command = [sys.executable, __file__, "--serve", name, "--model", args.model]
        command += ["--batch-size", str(args.batch_size), "--size", str(args.size)]
        self.child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            env=environment,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.kill()
        self.child.wait()
        self.child.stdin.close()
        self.child.stdout.close()
        self.stderr.close()

    def ask(self, command):
        self.child.send_signal(signal.SIGCONT)
        try:
            print(command, file=self.child.stdin, flush=True)
        except BrokenPipeError:
            raise Broken(self.last_words()) from None
        if not select.select([self.child.stdout], [], [], LIMIT)[0]:
            raise Broken(f"no answer within {LIMIT} s")
        line = self.child.stdout.readline()
        if not line:
            raise Broken(self.last_words())
        self.child.send_signal(signal.SIGSTOP)
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise Broken(answer["error"])
        return answer

    def last_words(self):
        status = self.child.wait()
        self.stderr.seek(0)
        if status < 0:
            return f"ended by {signal.Signals(-status).name}"
        return reason(self.stderr.read() or f"exit status {status}")


class Result(NamedTuple):
    first: float
    seconds: float
    ratio: float
    loss: float  # largest difference of a loss
    weights: float  # as shares of the change
    statistics: float
    exact: bool


def compare(name, args, folder):
    """Runs a variant in turn with what it is compared with.

    Raises:
        Broken: either has failed.
    """
    with Process(VARIANTS[name].base, args, folder) as base, Process(name, args, folder) as mine:
        steps = []
        for _ in range(WARM_UP + args.rounds):
            steps.append((base.ask("step"), mine.ask("step")))
        files = [Path(folder) / f"{side}.npz" for side in ("base", "mine")]
        for process, file in zip((base, mine), files):
            process.ask(f"write {file}")
    timed = [(theirs[0], ours[0]) for theirs, ours in steps[WARM_UP:]]
    losses = [abs(theirs[1] - ours[1]) for theirs, ours in steps]
    with np.load(files[0]) as expected, np.load(files[1]) as arrays:
        keys = [key for key in expected if key.startswith("final/")]
        exact = all(np.array_equal(expected[key], arrays[key]) for key in keys)
        moving = [key for key in keys if key.endswith(("._mean", "._variance"))]
        weights = difference(expected, arrays, [key for key in keys if key not in moving])
        running = difference(expected, arrays, moving) if moving else 0.0
    return Result(
        steps[0][1][0],
        statistics.median(ours for _, ours in timed),
        statistics.median(theirs / ours for theirs, ours in timed),
        max(losses) if np.isfinite(losses).all() else np.inf,
        weights,
        running,
        exact and max(losses) == 0,
    )


def difference(expected, arrays, keys):
    """Distance of the final arrays as a share of the way from the initial ones."""
    distance = way = 0.0
    for key in keys:
        target = expected[key].astype(np.float64)
        initial = key.replace("final/", "initial/")
        way += np.sum((target - expected.get(initial, 0)) ** 2)
        distance += np.sum((arrays[key] - target) ** 2)
    return float(np.sqrt(distance / way))


def called(result, yardstick):
    """What the difference is."""
    if result.exact:
        return "bit for bit"
    measured = result.loss, result.weights, result.statistics
    # The loss starts at log(1000), where neighbours in float32 are 5e-7 apart.
    allowed = max(yardstick.loss, 5e-7), yardstick.weights, yardstick.statistics
    small = all(a <= MARGIN * b for a, b in zip(measured, allowed))
    return "rounding" if small else "DIFFERENT"


def show_profile(args, folder):
    with Process(PLAIN, args, folder) as process:
        for _ in range(WARM_UP):
            process.ask("step")
        shares = process.ask("profile")
    print(tabulate([[kind, f"{share:.1%}"] for kind, share in shares.items()], ["plain step", ""]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Formatter)
    models = "mobilenet_v3_small", "mobilenet_v3_large"
    parser.add_argument("--model", choices=models, default=models[0], help="which network")
    parser.add_argument("--batch-size", type=count, default=32, help="images in a step")
    parser.add_argument(
        "--size",
        type=count,
        default=224,
        help="height and width of the images",
    )
    parser.add_argument(
        "--rounds",
        type=count,
        default=3,
        help="how often each is measured",
    )
    parser.add_argument("--threads", type=count, default=2, help="of each process")
    parser.add_argument(
        "--busy",
        type=int,
        default=0,
        help="processes that compute beside it",
    )
    parser.add_argument("--only", nargs="+", default=[""], help="names that contain one of these")
    parser.add_argument("--serve", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args)

    # Stopped processes do not notice that this one is gone: end them on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(args.busy)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            measure(args, folder)
    except Broken as error:
        sys.exit(f"error: {error}")
    finally:
        for process in busy:
            process.kill()


def measure(args, folder):
    show_profile(args, folder)
    yardsticks = {}
    form = "{:48}{:>9}{:>8}{:>8}{:>9}{:>9}{:>9}  {}"
    print(form.format("", "first", "s", "ratio", "loss", "weights", "stats", "result"), flush=True)
    for name, variant in VARIANTS.items():
        if variant.base is None:
            continue
        wanted = any(part in name for part in args.only)
        if not wanted and name != YARDSTICK:
            continue
        try:
            result = compare(name, args, folder)
        except Broken as error:
            if name == YARDSTICK:
                raise
            print(f"{name:48}   failed: {error}", flush=True)
            continue
        if name.endswith(YARDSTICK):
            yardsticks[variant.base] = result
        numbers = [f"{result.first:.2f}", f"{result.seconds:.3f}", f"{result.ratio:.2f}"]
        numbers += [f"{v:.0e}" for v in (result.loss, result.weights, result.statistics)]
        yardstick = yardsticks.get(variant.base, yardsticks[PLAIN])
        print(form.format(name, *numbers, called(result, yardstick)), flush=True)


if __name__ == "__main__":
    main()
