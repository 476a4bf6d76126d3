"""torchvision beside paddle.vision.models: what differs, down to the line, and what removes it.

    python benchmarks/paddle_vision.py                            # all pairs; docs/paddle_vision.md
    python benchmarks/paddle_vision.py --only resnet18,alexnet    # these, on screen alone
    python benchmarks/paddle_vision.py --only resnet18 --check    # is it what the page says?
    python benchmarks/paddle_vision.py --resume                   # all, after it was interrupted

Each pair is compared as a user would do it, with alignment.check. What differs first is looked for
in vision_findings.CAUSES. The cause is removed from the port, and the pair compared again, until it
is aligned or nobody knows the cause. Initialisation is compared by itself.

All pairs take some 25 minutes on 2 cores and 10 GB of memory.
docs/paddle_vision.zh.md is translated by hand: where the page changes, change it too.
Exit status: 0 done, 1 with --check where the page says something else, 2 could not run.
"""

import contextlib
import functools
import gc
import io
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from alignment.torch_import import import_torchvision  # noqa: E402

import_torchvision()

import numpy as np  # noqa: E402
import paddle  # noqa: E402
import torch  # noqa: E402
import torchvision  # noqa: E402
from paddle.vision import models  # noqa: E402
from vision_findings import CAUSES  # noqa: E402

import alignment  # noqa: E402
from alignment.arguments import Formatter, Parser  # noqa: E402
from alignment.convert import pair_weights  # noqa: E402
from alignment.files import CannotRun, whole_file  # noqa: E402

PAGE = ROOT / "docs" / "paddle_vision.md"
RESULTS = ROOT / "result" / "paddle_vision.json"
MANY = 50_000_000  # parameters from which one step of training has to do
BLOCK = models.resnet.BottleneckBlock


@dataclass
class Pair:
    """A model that both libraries have.

    Attributes:
        name: torchvision's.
        port: () -> paddle.nn.Layer.
        inputs: what `check` takes.
        width: of the hidden layers of VGG's head, on both sides, where 4096 would take minutes;
            None: as it is. The initialisation is always compared as it is.
    """

    name: str
    port: Callable
    inputs: str = "2x3x64x64"
    width: int | None = None

    def sized(self, make):
        """() -> model, of the width that is compared."""
        return make if self.width is None else lambda: narrowed(make(), self.width)

    def reference(self, **arguments):
        """() -> torch.nn.Module"""
        if self.name in ("googlenet", "inception_v3"):
            arguments["init_weights"] = True  # the default; to say so avoids a warning
        return lambda: getattr(torchvision.models, self.name)(weights=None, **arguments)


def narrowed(model, width):
    """A VGG of either library whose head has hidden layers of this width."""
    linear = paddle.nn.Linear if isinstance(model, paddle.nn.Layer) else torch.nn.Linear
    for index, sizes in ((0, (512 * 7 * 7, width)), (3, (width, width)), (6, (width, 1000))):
        model.classifier[index] = linear(*sizes)
    return model


def same_name(*names, **more):
    return [Pair(name, getattr(models, name), **more) for name in names]


def with_batch_norm(*names, **more):
    return [
        Pair(f"{name}_bn", functools.partial(getattr(models, name), batch_norm=True), **more)
        for name in names
    ]


# The smaller ones first.
PAIRS = [
    *same_name("squeezenet1_0", "squeezenet1_1"),
    *same_name("shufflenet_v2_x0_5", "shufflenet_v2_x1_0"),
    *same_name("shufflenet_v2_x1_5", "shufflenet_v2_x2_0"),
    *same_name("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
    *same_name("densenet121", "densenet161", "densenet169", "densenet201"),
    *same_name("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *same_name("resnext50_32x4d"),
    Pair(
        "resnext101_32x8d",  # Paddle has no function of this name, and all that it takes
        lambda: models.ResNet(BLOCK, 101, width=8, groups=32),
    ),
    *same_name("resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
    *same_name("googlenet"),
    *same_name("inception_v3", inputs="4x3x128x128"),  # smaller ones end in planes of one value
    *same_name("alexnet", "vgg11"),
    *same_name("vgg13", "vgg16", "vgg19", width=64),
    *with_batch_norm("vgg11", "vgg13", "vgg16", "vgg19", width=64),
]


@dataclass
class Result:
    """What the comparison of a pair has come to.

    Attributes:
        first: what differed first, without numbers that another machine may give otherwise; "" if
            nothing did.
        causes: [[name of a Cause, what it was found by]] in the order in which they were found.
        left: what still differs; "" if nothing does.
        evidence: one line for each check, of the last comparison.
        not_compared: what the last comparison says nothing of.
        initialisation: {parameters: (port, reference)} in words, of those that differ.
    """

    name: str
    inputs: str
    steps: int
    first: str = ""
    causes: list = field(default_factory=list)
    left: str = ""
    evidence: list = field(default_factory=list)
    not_compared: list = field(default_factory=list)
    initialisation: dict = field(default_factory=dict)
    seconds: float = 0.0


def compare(pair):
    """The Result of a Pair."""
    start = time.perf_counter()
    count = sum(p.numel() for p in pair.sized(pair.reference())().parameters())
    result = Result(pair.name, pair.inputs, 1 if count > MANY else 3)
    found, arguments = [], {}

    def port():
        model = pair.sized(pair.port)()
        for cause in found:
            if cause.cure is not None:
                cause.cure(model)
        return model

    while True:
        reference = pair.sized(pair.reference(**arguments))
        report = alignment.check(port, reference, pair.inputs, steps=result.steps)
        finding = next(iter(report.differences), None)
        result.first = result.first or describe(finding)
        if report.aligned:
            break
        cause = next((c for c in CAUSES if c.explains and c.explains(finding)), None)
        if cause is None or cause in found:
            result.left = describe(finding)
            break
        result.causes.append([cause.name, measured(report, finding)])
        if not cause.is_cured:
            result.left = describe(finding)
            break
        found.append(cause)
        arguments |= cause.arguments
        gc.collect()
    result.evidence = [f"{check.name}: {check.summary}" for check in report.checks]
    result.not_compared = [line for line in report.not_compared if "not asked for" not in line]
    result.initialisation = compare_initialisation(pair, arguments)
    result.seconds = time.perf_counter() - start
    return result


def describe(finding):
    """ "forward: `_pool`: ceil_mode False | True"; "" of None"""
    if finding is None:
        return ""
    sides = f" {finding.port} | {finding.reference}" if finding.port or finding.reference else ""
    where = f"`{finding.where}`: " if finding.where else ""
    return f"{finding.check}: {where}{finding.quantity}{sides}"


def measured(report, finding):
    """How large a difference is, in the layer and in the output."""
    same = [f for f in report.differences if f.check == finding.check]
    largest = max((f.difference for f in same if f.difference is not None), default=None)
    settings = [line for line in finding.detail if f": {finding.where}: " in line]
    text = "; ".join([describe(finding), *(line.partition(": ")[2] for line in settings)])
    if finding.difference is not None:
        text += f", differs by {finding.difference:.1e}"
    output = next((f.difference for f in same if f.where == "output"), None)
    if output is not None:
        return f"{text}; the output by {output:.1e}"
    if largest is not None and len(same) > 1:
        return f"{text}; {len(same)} such, the largest {largest:.1e}"
    return text


# Initialisation: which distribution a parameter is drawn from, told by the numbers themselves.


@dataclass
class Drawn:
    """A parameter as it is initialised; fans are those of the weight of its layer."""

    values: np.ndarray
    fan_in: float
    fan_out: float
    all_in: float  # fan-in as if a convolution had one group


# The usual formulas. In this order: where two give the same number, the first is told.
SCALES = {
    "uniform within 1 / sqrt(fan_in)": lambda d: d.fan_in**-0.5,
    "uniform within sqrt(6 / fan_in)": lambda d: (6 / d.fan_in) ** 0.5,
    "uniform within sqrt(6 / (fan_in + fan_out))": lambda d: (6 / (d.fan_in + d.fan_out)) ** 0.5,
    "normal, deviation sqrt(2 / fan_in)": lambda d: (2 / d.fan_in) ** 0.5,
    "normal, deviation sqrt(2 / (groups * fan_in))": lambda d: (2 / d.all_in) ** 0.5,
    "normal, deviation sqrt(2 / fan_out)": lambda d: (2 / d.fan_out) ** 0.5,
    "normal, deviation sqrt(2 / (fan_in + fan_out))": lambda d: (2 / (d.fan_in + d.fan_out)) ** 0.5,
}
UNIFORM = 2.4  # kurtosis: 1.8 of a uniform, 3 of a normal distribution
ENOUGH = 1_000_000  # values of a parameter that are looked at
FEW = 1000  # values, of which kurtosis and deviation say little


def distribution(parameters):
    """In words: "0", "normal, deviation sqrt(2 / fan_in)"; of several kinds, how many are of each.

    Of all formulas and numbers, that which holds for most parameters, then that for the rest.
    """
    count, found = len(parameters), {}
    for d in parameters:
        if np.ptp(d.values) == 0:
            found.setdefault(f"{d.values[0]:g}", []).append(d)
    left = [d for d in parameters if np.ptp(d.values)]
    small = [d for d in left if d.values.size < FEW]
    while left:
        uniform = {id(d) for d in left if is_uniform(small if d.values.size < FEW else [d])}
        sizes = {id(d): d.values.std() * (3**0.5 if id(d) in uniform else 1.0) for d in left}
        shapes = {
            id(d): "uniform within" if id(d) in uniform else "normal, deviation" for d in left
        }
        scales = dict(SCALES)
        for digits in (3, 2, 1):
            for d in left:
                number = f"{sizes[id(d)]:.{digits}g}"
                scales[f"{shapes[id(d)]} {number}"] = lambda d, x=float(number): x
        covered, ranks = {}, {}
        for text, scale in scales.items():
            covered[text] = [
                d
                for d in left
                if text.startswith(shapes[id(d)])
                and abs(np.log(sizes[id(d)] / scale(d))) < tolerance(d)
            ]
            covers = sum(d.values.size for d in covered[text])
            # A formula before a number, the shorter number before the longer.
            ranks[text] = covers, 0 if text in SCALES else -len(text)
        best = max(ranks, key=ranks.get)
        found[best] = covered[best]
        taken = {id(d) for d in covered[best]}
        left = [d for d in left if id(d) not in taken]
    if len(found) == 1:
        return next(iter(found))
    return " and ".join(f"{text} ({len(of)} of {count})" for text, of in found.items())


def is_uniform(parameters):
    """Rather than normal, by the kurtosis of all together."""
    scaled = [((d.values - d.values.mean()) / d.values.std()) ** 4 for d in parameters]
    return np.concatenate(scaled).mean() < UNIFORM


def tolerance(parameter):
    """Of the logarithm of a deviation: three times what is known of it, and rounding."""
    return 0.02 + 3 / (2 * parameter.values.size) ** 0.5


KINDS = (
    ("convolution", (paddle.nn.Conv2D, torch.nn.Conv2d)),
    ("linear", (paddle.nn.Linear, torch.nn.Linear)),
    ("batch norm", (paddle.nn.BatchNorm2D, paddle.nn.BatchNorm, torch.nn.BatchNorm2d)),
)


def drawn(layer, name):
    """(kind of layer, Drawn) of a parameter; None of what is no weight or bias."""
    kind = next((kind for kind, classes in KINDS if isinstance(layer, classes)), None)
    parameter = getattr(layer, name, None)
    if kind is None or parameter is None:
        return None
    shape, groups = list(layer.weight.shape), 1
    if kind == "convolution":
        groups = layer._groups if isinstance(layer, paddle.nn.Layer) else layer.groups
        fan_in, fan_out = np.prod(shape[1:]), shape[0] * np.prod(shape[2:])
        kind = "grouped convolution" if groups > 1 else kind
    elif kind == "linear":
        fan_out, fan_in = shape if isinstance(layer, torch.nn.Module) else shape[::-1]
    else:
        fan_in = fan_out = shape[0]
    values = parameter.detach().numpy().ravel()
    values = values[:: 1 + values.size // ENOUGH].astype(np.float64)
    return kind, Drawn(values, fan_in, fan_out, fan_in * groups)


def compare_initialisation(pair, arguments):
    """{"convolution weights": [port, reference]} in words, of what differs.

    Of which parameters that holds is tested by `check`. Of models with MANY parameters, where that
    takes minutes, it is told by the words alone.
    """
    make = pair.reference(**arguments)
    paddle.seed(0)
    torch.manual_seed(0)
    port, reference = pair.port(), make()
    table = pair_weights(port, reference.state_dict()).table
    differ = set(table)
    if sum(p.numel() for p in reference.parameters()) <= MANY:
        report = alignment.check(pair.port, make, pair.inputs, checks=("initialisation",))
        differ = {f.where for f in report.differences if f.check == "initialisation"}
    layers = dict(port.named_sublayers()), dict(reference.named_modules())
    groups = {}
    for name, (source, _) in table.items():
        if name not in differ:
            continue
        for side, each in enumerate((name, source)):
            layer, _, leaf = each.rpartition(".")
            found = drawn(layers[side][layer], leaf)
            if found is not None:
                kind, values = found
                own = name.rpartition(".")[2]
                groups.setdefault(f"{kind} {own}", ([], []))[side].append(values)
    words = {what: [distribution(side) for side in sides] for what, sides in groups.items()}
    return {what: sides for what, sides in words.items() if sides[0] != sides[1]}


# The page.


def link(name):
    cause = next(c for c in CAUSES if c.name == name)
    return f"[{name.replace('-', ' ')}](#{anchor(cause.title)})"


def anchor(title):
    """As GitHub makes it of a heading."""
    kept = (c for c in title.lower() if c.isalnum() or c in "-_ ")
    return "".join(kept).replace(" ", "-")


def row(result):
    """The pair's line of the table; nothing in it depends on the machine."""
    causes = [next(c for c in CAUSES if c.name == name) for name, _ in result.causes]
    after = f"NOT ALIGNED: {cell(result.left)}" if result.left else "aligned"
    return line(
        f"`{result.name}`",
        result.inputs,
        f"NOT ALIGNED: {cell(result.first)}" if result.first else "aligned",
        ", ".join(link(c.name) for c in causes),
        "; ".join(c.mended for c in causes if c.mended),
        after,
    )


def initialisation_row(result):
    sides = [
        f"{what}: {port} \\| {reference}"
        for what, (port, reference) in result.initialisation.items()
    ]
    return line(f"`{result.name}`", "; ".join(sides) or "the same")


def cell(text):
    return text.replace("|", "\\|").replace("\n", " ")


def line(*cells):
    return f"| {' | '.join(cells)} |"


def table(headers, rows):
    return [line(*headers), line(*["---"] * len(headers)), *rows]


def run_code(code):
    """What the code prints."""
    out = io.StringIO()
    paddle.seed(0)
    torch.manual_seed(0)
    with contextlib.redirect_stdout(out):
        exec(compile(code, "reproduction", "exec"), {})
    return out.getvalue().strip()


def section(cause, results):
    """Lines of the page on one cause."""
    found = [
        f"- `{result.name}`: {text}"
        for result in results
        for name, text in result.causes
        if name == cause.name
    ]
    lines = [f"## {cause.title}", "", cause.what, "", "Where:", ""]
    lines += [f"- `{place.where}`: `{place.code}`" for place in cause.places()]
    if cause.reproduction:
        code = cause.reproduction.strip()
        lines += ["", "To see it:", "", "```python", code, "```", "", "```", run_code(code), "```"]
    if cause.proposal:
        lines += ["", f"Proposed: {cause.proposal}"]
    if found:
        lines += ["", "Measured:", "", *found]
    return [*lines, ""]


def page(results):
    aligned = sum(not r.left for r in results)
    at_once = sum(not r.first for r in results)
    seconds = sum(r.seconds for r in results)
    versions = ", ".join(
        f"{m.__name__} {m.__version__.partition('+')[0]}" for m in (paddle, torch, torchvision)
    )
    lines = [
        "# torchvision beside paddle.vision.models",
        "",
        f"Made by `python benchmarks/paddle_vision.py` with {versions}, on the CPU, in "
        f"{seconds / 60:.0f} minutes. Do not edit it.",
        "",
        f"Both libraries have these {len(results)} models. {at_once} pairs agree as they are. "
        f"{aligned - at_once} are aligned once the causes below are removed from Paddle's model. "
        f"{len(results) - aligned} cannot be.",
        "",
        "Each pair was compared by `alignment.check`, from one set of random weights that matter: "
        "structure, forward pass at two sizes of image, gradients in train mode, steps of "
        "SGD. All of it runs in float64, where rounding is 1e-13 and a mistake is not. "
        "Epsilon, momentum and rate of dropout, which Paddle holds as float32, were rounded in "
        "torchvision's model too. No other difference was accepted. "
        "Where a pair differs, the first difference was traced to its line, and its cause "
        "removed in a copy of Paddle's model. Then the pair was compared again, and so on. What "
        "removes each cause is a function of a few lines in `benchmarks/vision_findings.py`.",
        "",
        "A pair by hand:",
        "",
        "```",
        "python -m alignment compare --torch torchvision.models:resnet18 "
        "--paddle paddle.vision.models:resnet18 --input 2x3x64x64",
        "```",
        "",
        "## All pairs",
        "",
        "Values stand as port | reference. In `paddle.vision.models`, VGG with batch norm is "
        "`vgg11(batch_norm=True)`, and ResNeXt 101 32x8d is "
        "`ResNet(BottleneckBlock, 101, width=8, groups=32)`. All others have torchvision's name. "
        "VGG 11 was compared whole. Of the other VGG, which have the same head, its two hidden "
        "layers were made 64 wide on both sides, for time; their initialisation was looked at "
        f"as it is. Of models with more than {MANY:,} parameters one step of SGD was compared, of "
        "others three.",
        "",
        *table(
            ("model", "input", "as it is", "causes, in the order found", "removed by", "then"),
            [row(r) for r in results],
        ),
        "",
        "## Initialisation",
        "",
        "Who trains from the start begins from other weights. Listed are the parameters whose "
        "distribution differs (test of Kolmogorov and Smirnov, mean and deviation, several seeds; "
        f"of models with more than {MANY:,} parameters by the formula alone), as port | reference. "
        "fan_in is what goes into one output, fan_out what one input goes "
        "into. The Paddle models leave the defaults of Paddle's layers almost everywhere. "
        "torchvision's set their own, from the papers. Two of these differences are mistakes: see "
        f"{link('grouped-convolution')} and {link('alexnet-initialisation')}.",
        "",
        *table(
            ("model", "port \\| reference"),
            [initialisation_row(r) for r in results],
        ),
        "",
    ]
    for cause in CAUSES:
        lines += section(cause, results)
    lines += [
        "## Evidence",
        "",
        "What the last comparison of each pair says, and what it says nothing of.",
        "",
    ]
    for result in results:
        lines.append(f"- `{result.name}`, {result.seconds:.0f} s. {'. '.join(result.evidence)}.")
        lines += [f"  - Not compared: {text}" for text in result.not_compared]
    return "\n".join(lines) + "\n"


def read_results():
    """{name: Result} that an earlier run has left."""
    try:
        stored = json.loads(RESULTS.read_text())
    except (OSError, ValueError):
        return {}
    if stored.get("versions") != versions_of():
        return {}
    return {each["name"]: Result(**each) for each in stored["results"]}


def versions_of():
    return [module.__version__ for module in (paddle, torch, torchvision)]


def write_results(results):
    stored = {"versions": versions_of(), "results": [asdict(r) for r in results.values()]}
    RESULTS.parent.mkdir(exist_ok=True)
    with whole_file(RESULTS) as temporary:
        Path(temporary).write_text(json.dumps(stored, indent=1))


def differences_from_page(results):
    """Lines on results that the page does not hold."""
    known = PAGE.read_text(encoding="utf-8").splitlines()
    wanted = [row(result) for result in results]
    wanted += [initialisation_row(result) for result in results]
    return [each for each in wanted if each not in known]


def main():
    parser = Parser(description=__doc__, formatter_class=Formatter)
    parser.add_argument("--only", metavar="NAMES", help="of these models, with commas between")
    parser.add_argument("--check", action="store_true", help="compare with the page, write nothing")
    parser.add_argument(
        "--resume", action="store_true", help=f"take what {RESULTS.name} holds from there"
    )
    args = parser.parse_args()
    names = [pair.name for pair in PAIRS]
    only = args.only.split(",") if args.only else names
    unknown = [name for name in only if name not in names]
    if unknown:
        parser.error(f"--only: {unknown[0]!r:.60} is none of {', '.join(names)}")
    if args.check and not PAGE.is_file():
        parser.error(f"--check: {PAGE} is missing; run it without --only and --check first")
    results = read_results()
    known = set(results) if args.resume else set()
    chosen = []
    for pair in PAIRS:
        if pair.name not in only:
            continue
        if pair.name not in known:
            try:
                results[pair.name] = compare(pair)
            except CannotRun as error:
                parser.error(f"{pair.name}: {error}")
            write_results(results)
            gc.collect()
        result = results[pair.name]
        chosen.append(result)
        causes = ", ".join(name for name, _ in result.causes) or "nothing differs"
        state = f"NOT ALIGNED: {result.left}" if result.left else "aligned"
        print(f"{pair.name:20} {result.seconds:4.0f} s  {state:10} {causes}", flush=True)
    if args.check:
        wrong = differences_from_page(chosen)
        for each in wrong:
            print(f"not on the page: {each}")
        raise SystemExit(int(bool(wrong)))
    if not args.only:
        with whole_file(PAGE) as temporary:
            Path(temporary).write_text(page(chosen), encoding="utf-8")
        print(f"written: {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
