"""Reports as in report.json, for the tests of the page and for the pictures in the README.

python tests/alignment/report_samples.py FOLDER     writes each of them as a page
"""

import base64
import io
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "</script></style></title><svg onload=alert(3)>",
    "javascript:alert(4)",
    "features.\u202e1.drowssap",
    "שכבה.ראשונה",
    "{{ 7 * 7 }}{% raw %}",
    "#a b/c?d=%3Cscript%3E&e",
    "line\nbreak\x00\x1b[31m",
    "\udcff not text",
    "x" * 400,
)
STEPS = {
    "01_test_forward": ("Forward", "logits"),
    "02_test_data": ("Data", "dataloader_0"),
    "03_test_metric": ("Metric", "acc_top1"),
    "04_test_loss": ("Loss", "loss"),
    "05_test_backward": ("Backward", "loss_1"),
    "align_training": ("Training", "top1"),
}
CONVOLUTION = (
    *("in_channels", "out_channels", "kernel_size", "stride", "padding", "padding_mode"),
    *("output_padding", "dilation", "groups", "bias"),
)
NOT_COMPARED = {
    "02_test_data": ["images that no draw of these 400 has met"],
    "05_test_backward": [
        "mixed precision: no GPU here",
        "more than one process: see align_ranks.py",
    ],
}


def record(key, difference=6.1e-7, threshold=1e-5, float64=2.4e-15, verdict="aligned", text=""):
    return {
        "key": key,
        "verdict": verdict,
        "difference": difference,
        "threshold": threshold,
        "float64": float64,
        "bound64": None if float64 is None else 1e-11,
        "text": text,
    }


def finding(check, where, quantity, port="", reference="", difference=None, bound=None, **more):
    sides = f" {port} | {reference}" if port else ""
    return {
        "text": f"{where}: {quantity}{sides}",
        "check": check,
        "where": where,
        "quantity": quantity,
        "port": port,
        "reference": reference,
        "difference": difference,
        "bound": bound,
        "detail": [],
        "hint": "",
        "title": "",
        **more,
    }


def layer(name, kind, differs=(), output=3e-16, came_in=2e-16, gradient=8e-16, **more):
    settings = {
        "Conv2D": [[name, "(3, 3)", "(3, 3)"] for name in CONVOLUTION],
        "BatchNorm2D": [["epsilon", "0.001", "0.001"], ["momentum", "0.99", "0.99"]],
        "Hardswish": [],
    }[kind]
    mean = float(np.random.default_rng(len(name)).normal(0, 0.3))
    statistics = {"port": [mean, 1.01, -3.2, 4.15], "reference": [mean, 1.01, -3.2, 4.15]}
    return {
        "name": name,
        "reference": name,
        "port_kind": kind,
        "reference_kind": kind.replace("2D", "2d"),
        "settings": settings,
        "differs": list(differs),
        "input": came_in,
        "output": output,
        "gradient": gradient,
        "bound": 1e-12,
        "gradient_bound": 1e-6,
        "shape": [4, 16, 112, 112],
        "statistics": {"input": statistics, "output": statistics},
        "agrees": output <= 1e-12,
        **more,
    }


def layers(count, wrong=None):
    """So many layers; from number `wrong` on they differ, by its epsilon."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(count):
        kind = ("Conv2D", "BatchNorm2D", "Hardswish")[index % 3]
        name = f"features.{index // 6}.block.{index // 3 % 2}.{index % 3}"
        noise, gradient = (float(10 ** rng.uniform(-16.3, top)) for top in (-14.5, -9))
        if wrong is not None and index >= wrong:
            noise = float(0.012 * 10 ** rng.uniform(-0.4, 0.6))
        if wrong is not None:
            gradient = float(0.2 * 10 ** rng.uniform(-0.5, 0.5))
        found.append(layer(name, kind, output=noise, gradient=gradient))
        if index:
            found[-1]["input"] = found[-2]["output"]
        if wrong is None:
            continue
        if index == wrong:
            found[-1]["settings"] = [["epsilon", "1e-05", "0.001"], ["momentum", "0.99", "0.99"]]
            found[-1]["differs"] = ["epsilon"]
        if index >= wrong:
            statistics = {"port": [0.02, 1.04, -3.3, 4.3], "reference": [0.02, 1.01, -3.2, 4.15]}
            found[-1]["statistics"] = {**found[-1]["statistics"], "output": statistics}
    return found


def weights(layers):
    rules = ("copy", "rename", "transpose")
    return [
        {
            "port": f"{each['name']}.weight",
            "reference": f"{each['name']}.weight",
            "rule": rules[index % 3],
            "shape": [16, 3, 3, 3],
        }
        for index, each in enumerate(layers)
    ] + [{"port": None, "reference": "num_batches_tracked", "rule": "ignored", "shape": []}]


def part(name, **more):
    title, key = STEPS.get(name, ("Comparison", "output"))
    return {
        "name": name,
        "title": title,
        "status": "aligned",
        "seconds": 4.2,
        "verdict": f"aligned: {key}, mean difference 6.1e-07, threshold 1e-05; float64 2.4e-15",
        "look_at": None,
        "lines": [f"aligned: {key}, mean difference 6.1e-07, threshold 1e-05"],
        "records": [record(key)],
        "checks": [],
        "findings": [],
        "layers": [],
        "quantities": None,
        "curves": None,
        "images": [],
        "histograms": [],
        "rows": [],
        "weights": [],
        "not_compared": NOT_COMPARED.get(name, []),
        "known": [],
        "notes": [],
        "power": None,
        **more,
    }


def report(parts, verdict):
    return {
        "version": 1,
        "tool": {"name": "paddle-alignment", "version": "0.1.0"},
        "created": "2026-11-26T01:00:00+00:00",
        "command": "python -m alignment --model mobilenet_v3_small",
        "environment": {
            "python": "3.11.7",
            "system": "Linux 6.1, x86_64",
            "processor": "Intel Xeon, 2 cores",
            "cpu_capability": "AVX512",
            "packages": {
                "paddlepaddle": "3.3.1",
                "torch": "2.13.0",
                "torchvision": "0.28.0",
                "numpy": "2.2.6",
                "reprod-log": "1.0.1",
            },
            "device": "cpu",
            "threads": {"OMP_NUM_THREADS": "2", "torch": 2},
            "seed": 0,
            "commit": "2ae59bd+",
        },
        "aligned": all(each["status"] == "aligned" for each in parts),
        "verdict": verdict,
        "parts": parts,
    }


def forward(**more):
    found = layers(60)
    more = {"layers": found, "weights": weights(found), **more}
    return part(
        "01_test_forward",
        records=[record("logits"), record("logits, 4 images", 8.3e-7, 1e-5, 3.1e-15)],
        checks=[
            {
                "name": "the initialisation",
                "aligned": True,
                "summary": "142 tensors of eight seeds",
                "seconds": 1.3,
            }
        ],
        power="an error of 3e-12 of the logits; a weight that is off by one tenth shows 30-fold",
        known=["BatchNorm: Paddle holds epsilon = 0.001 as float32"],
        notes=["weights: live, seed 0"],
        **more,
    )


def learning(steps=12, wrong=None):
    """Losses of both, of three copies of the reference, and what a right port may differ by."""
    rng = np.random.default_rng(3)
    reference = 2.1 * np.exp(-np.arange(steps) / 6) + 0.1 * rng.normal(size=steps)
    growth = 2e-7 * 2.6 ** np.arange(steps)
    copies = [reference + growth * rng.normal(size=steps) for _ in range(3)]
    port = reference + 0.5 * growth * rng.normal(size=steps)
    if wrong is not None:
        port[wrong:] += 0.05 * np.arange(1, steps - wrong + 1)
    return {
        "port": port.tolist(),
        "reference": reference.tolist(),
        "copies": [copy.tolist() for copy in copies],
        "bound": (9 * growth).tolist(),
    }


def quantities(steps=12, wrong=None):
    rng = np.random.default_rng(5)
    kinds = ["images", "labels", "loss", "gradient", "learning rate", "update", "running_mean"]
    share = 10 ** rng.uniform(-6, -1.3, (len(kinds), steps))
    share[:2] = 0
    if wrong is not None:
        share[5, wrong:] = 10 ** rng.uniform(1, 5, steps - wrong)
        share[2, wrong + 1 :] = 10 ** rng.uniform(0, 3, steps - wrong - 1)
        share[3, wrong + 1 :] = 10 ** rng.uniform(0, 2, steps - wrong - 1)
    names = [f"iteration {step}" for step in range(steps)]
    return {"steps": names, "kinds": kinds, "share_of_bound": share.tolist()}


def training(wrong=None):
    return part(
        "align_training",
        records=[],
        curves=learning(wrong=wrong),
        quantities=quantities(wrong=wrong),
        power="a learning rate that is off by 1e-9 in one of 12 steps",
    )


def others(*but):
    return [part(name) for name in STEPS if name not in but]


def green():
    parts = [forward(), *others("01_test_forward", "align_training"), training()]
    return report(parts, "Aligned: all 6 check points agree")


def red_forward():
    found = layers(60, wrong=7)
    where = found[7]["name"]
    red = forward(layers=found, weights=weights(found))
    red["status"] = "not aligned"
    red["verdict"] = f"NOT ALIGNED: logits: mean difference 0.031, {where}: epsilon 1e-05 | 0.001"
    red["look_at"] = f"{where}: epsilon"
    red["records"] = [
        record("logits", 0.031, 1e-5, 0.031, "misaligned", "float64 differs as much as float32"),
        record("logits, 4 images", 0.027, 1e-5, 0.027, "misaligned"),
    ]
    red["findings"] = [
        finding(
            "forward",
            where,
            "epsilon",
            "1e-05",
            "0.001",
            title="Differs (port | reference)",
            hint="BatchNorm2D(epsilon=…): PyTorch's eps, which torchvision sets to 0.001 here",
        ),
        finding(
            "forward",
            where,
            "output",
            difference=found[7]["output"],
            bound=1e-12,
            title="First layer that differs",
            detail=["its inputs agree to 4e-16, its weights are the same"],
        ),
        finding("forward", "classifier", "logits", difference=0.031, bound=1e-11),
    ]
    parts = [red, *others("01_test_forward", "align_training"), training()]
    return report(parts, f"Not aligned: start with 01_test_forward, {where}: epsilon 1e-05 | 0.001")


def red_training():
    red = training(wrong=4)
    red["status"] = "not aligned"
    red["verdict"] = "NOT ALIGNED: iteration 4: update of features.0.0.weight"
    red["findings"] = [
        finding(
            "training",
            "iteration 4",
            "update",
            "weight_decay on 142 parameters",
            "weight_decay on 52 parameters",
            0.012,
            1e-9,
            title="First quantity that differs",
            hint="the parameter groups: PyTorch's recipe takes norm weights out of the decay",
        )
    ]
    parts = [forward(), *others("01_test_forward", "align_training"), red]
    return report(
        parts,
        "Not aligned: start with align_training, iteration 4: update, "
        "weight_decay on 142 parameters | weight_decay on 52 parameters",
    )


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def red_data():
    y, x = np.mgrid[:48, :48]
    picture = np.stack([y * 5, x * 5, 120 + 60 * np.sin(x / 4) * np.cos(y / 5)], -1)
    port = picture.astype(np.uint8)
    reference = np.roll(port, 1, axis=1)
    apart = np.abs(port.astype(int) - reference).clip(0, 255).astype(np.uint8)
    rng = np.random.default_rng(1)
    edges = np.linspace(0, 1, 21)
    counts = [np.histogram(rng.beta(2, b, 4000), edges)[0].tolist() for b in (2, 3)]
    red = part(
        "02_test_data",
        status="not aligned",
        verdict="NOT ALIGNED: dataloader_0: mean difference 0.021, threshold 0",
        records=[record("length", 0.0, 0.0, None), record("dataloader_0", 0.021, 0.0, None)],
        findings=[finding("data", "flower_view_10.JPEG", "pixels", "crop at 5", "crop at 4")],
        images=[
            {
                "title": "flower_view_10.JPEG",
                "stage": "CenterCrop",
                "port": png(port),
                "reference": png(reference),
                "difference": png(apart),
            },
            # What is no PNG is not shown.
            {
                "title": "not a picture",
                "stage": "",
                "port": "https://example.com/x.png",
                "reference": "javascript:alert(5)",
                "difference": None,
            },
        ],
        histograms=[
            {
                "name": "RandomErasing.scale",
                "edges": edges.tolist(),
                "port": counts[0],
                "reference": counts[1],
            },
            {
                "name": "RandomErasing.interpolation",
                "edges": ["nearest", "bilinear", "bicubic"],
                "port": [400, 0, 0],
                "reference": [130, 140, 130],
            },
        ],
    )
    red["records"][1]["verdict"] = "misaligned"
    metric = part(
        "03_test_metric",
        status="not aligned",
        verdict="NOT ALIGNED: acc_top1",
        records=[record("acc_top1", 0.25, 0.0, None, "misaligned")],
        rows=[{"row": 7, "port": "100, 100", "reference": "0, 100", "label": 3}],
    )
    metric["findings"] = [finding("metric", "acc_top1", "value", "0.5", "0.25")]
    failed = part("04_test_loss", status="could not run", seconds=None, records=[])
    failed["verdict"] = "error: data/fake_label.npy: No such file or directory"
    return report([red, metric, failed], "Not aligned: start with 02_test_data, dataloader_0")


def hostile():
    """Every text is one that tries to be more than text."""
    found = [{**layer("", "Conv2D"), "name": name, "reference": name[::-1]} for name in HOSTILE]
    for each, name in zip(found, HOSTILE):
        each.update(port_kind=name, reference_kind=name, shape=name, differs=[name], agrees=False)
        each.update(settings=[[name, name, name]], output="nan")
    red = part(
        "compare",
        status="not aligned",
        title=HOSTILE[0],
        verdict=HOSTILE[2],
        look_at=HOSTILE[1],
        records=[record(name, "inf", 1e-5, "nan", "misaligned", name) for name in HOSTILE],
        checks=[{"name": n, "aligned": False, "summary": n, "seconds": 0.0} for n in HOSTILE],
        findings=[
            finding(n, n, n, n, n, "inf", 1e-12, detail=[n], hint=n, title=n) for n in HOSTILE
        ],
        layers=found,
        weights=[{"port": n, "reference": n, "rule": n, "shape": n} for n in HOSTILE],
        images=[
            {**red_data()["parts"][0]["images"][0], "title": name, "stage": name}
            for name in HOSTILE
        ],
        histograms=[
            {"name": name, "edges": [0, 1], "port": [1], "reference": [2]} for name in HOSTILE
        ],
        rows=[{"row": n, "port": n, "reference": n, "label": n} for n in HOSTILE],
        quantities={
            "steps": list(HOSTILE),
            "kinds": list(HOSTILE),
            "share_of_bound": [["nan" for _ in HOSTILE] for _ in HOSTILE],
        },
        curves={"port": ["nan", 1.0], "reference": [1.0, "inf"], "copies": [], "bound": [0.1, 0.1]},
        not_compared=list(HOSTILE),
        known=list(HOSTILE),
        notes=list(HOSTILE),
        power=HOSTILE[0],
    )
    other = report([red], f"Not aligned: start with {HOSTILE[2]}")
    return {
        **other,
        "command": HOSTILE[0],
        "created": HOSTILE[1],
        "tool": {"name": HOSTILE[0], "version": HOSTILE[1]},
        "environment": {name: {name: name} for name in HOSTILE},
    }


def large():
    """500 layers, forward and backward, and three weights for each two of them."""
    found = layers(500, wrong=201)
    red = red_forward()
    for number in (0, 4):
        red["parts"][number]["layers"] = found
        red["parts"][number]["weights"] = weights(found + found[:250])
    for each in red["parts"][0]["findings"][:2]:
        each["where"] = found[201]["name"]
    return red


def bare():
    """What a version that knows less may write."""
    lacking = {"name": "compare", "title": "", "status": "aligned", "verdict": "aligned"}
    return report([lacking], "Aligned")


SAMPLES = {
    f.__name__: f for f in (green, red_forward, red_training, red_data, hostile, large, bare)
}

# {picture in the README: (sample, link)}
PICTURES = {
    "report_green": ("green", ""),
    "report_red": ("red_forward", ""),
    "report_training": ("red_training", "#align_training"),
}


def take_pictures(pages, folder):
    """The first screen of PICTURES, as PNG files; `pages` is where the samples are written."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 1000}, reduced_motion="reduce")
        for name, (sample, link) in PICTURES.items():
            page.goto((pages.resolve() / f"{sample}.html").as_uri() + link)
            page.screenshot(path=folder / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from alignment.page import write_page

    for name, make in SAMPLES.items():
        write_page(make(), Path(sys.argv[1]) / f"{name}.html")
    if len(sys.argv) > 2:
        take_pictures(*map(Path, sys.argv[1:3]))
