"""Draw the five flow diagrams shown in README.md and README_cn.md.

    python images/draw.py --output-dir images

Every diagram has the same three columns: the PaddlePaddle port (P) on the left, the PyTorch
reference (T) on the right, and between them (M) what both sides share: inputs and comparisons.
Filled boxes are code, white boxes with a folded corner are files or data.
"""

import argparse
import io
import os
import sys
from pathlib import Path

try:
    import matplotlib
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from matplotlib.image import imsave
    from matplotlib.patches import FancyBboxPatch, Polygon
except ImportError as error:
    print(f"draw.py: {error}; install it with: pip install matplotlib", file=sys.stderr)
    sys.exit(2)

# A box is named by its column and row; "X" stands for P and T alike. "file:" marks a file, and
# otherwise the first line is bold. An arrow is (from, to[, label]) and joins neighbours of one
# row or one column, so it is straight; one that leads back up is a loop on the lane's outer side.
VERDICT = "✓ aligned   /   ✗ not aligned"
DIAGRAMS = {
    "forward": {
        "boxes": {
            "P1": "file:mv3_small_paddle\n.pdparams",
            "M1": "torch2paddle.py",
            "T1": "file:mobilenet_v3_small\n-047dcff4.pth",
            "P2": "paddle_mv3\neval mode",
            "M2": "file:data/fake_data.npy\nsame input",
            "T2": "torch_ref\neval mode",
            "P3": "file:forward_paddle.npy\nby ReprodLogger",
            "M3": "ReprodDiffHelper",
            "T3": "file:forward_torch.npy\nby ReprodLogger",
            "M4": f"file:result/log/forward_diff.log\n{VERDICT}",
        },
        "arrows": [("T1", "M1"), ("M1", "P1"), ("X1", "X2", "weights"), ("M2", "X2")]
        + [("X2", "X3", "logits"), ("X3", "M3"), ("M3", "M4")],
    },
    "metric": {
        "boxes": {
            "P1": "data pipeline\nport's transforms\npaddle.io.DataLoader",
            "M1": "file:lite_data/val\nsame images",
            "T1": "data pipeline\ntorchvision transforms\ntorch DataLoader",
            "P2": "file:batches\ndata_paddle.npy",
            "M2": "step 02: data\ndifference = 0",
            "T2": "file:batches\ndata_ref.npy",
            "P3": "paddle_mv3",
            "M3": "file:same weights",
            "T3": "torch_ref",
            "X4": "accuracy\ntop-1, top-5",
            "P5": "file:metric_paddle.npy\nby ReprodLogger",
            "M5": "step 03: metric\nReprodDiffHelper",
            "T5": "file:metric_ref.npy\nby ReprodLogger",
            "M6": f"file:result/log/*_diff.log\n{VERDICT}",
        },
        "arrows": [("M1", "X1"), ("X1", "X2"), ("X2", "M2"), ("X2", "X3"), ("M3", "X3")]
        + [("X3", "X4", "logits"), ("X4", "X5"), ("X5", "M5"), ("M5", "M6")],
    },
    "losses": {
        "boxes": {
            "P1": "paddle_mv3",
            "M1": "file:same weights\nsame input",
            "T1": "torch_ref",
            "X2": "CrossEntropyLoss",
            "M2": "file:same labels",
            "P3": "file:loss_paddle.npy\nby ReprodLogger",
            "M3": "ReprodDiffHelper",
            "T3": "file:loss_ref.npy\nby ReprodLogger",
            "M4": f"file:result/log/loss_diff.log\n{VERDICT}",
        },
        "arrows": [("M1", "X1"), ("X1", "X2", "logits"), ("M2", "X2"), ("X2", "X3", "loss")]
        + [("X3", "M3"), ("M3", "M4")],
    },
    "backward": {
        "boxes": {
            "P1": "forward\npaddle_mv3",
            "M1": "file:same weights,\nbatch and labels",
            "T1": "forward\ntorch_ref",
            "X2": "loss",
            "X3": "backward",
            "X4": "optimizer step\nSGD, momentum 0.9\nlr schedule",
            "P5": "file:losses_paddle.npy\nby ReprodLogger",
            "M5": "ReprodDiffHelper",
            "T5": "file:losses_ref.npy\nby ReprodLogger",
            "M6": f"file:result/log/backward_diff.log\n{VERDICT}",
        },
        "arrows": [("M1", "X1"), ("X1", "X2", "logits"), ("X2", "X3"), ("X3", "X4", "gradients")]
        + [("X4", "X1", "×3"), ("X4", "X5", "loss_i, lr_i"), ("X5", "M5"), ("M5", "M6")],
    },
    "train": {
        "boxes": {
            "P1": "training\nCheckpoint6/train.py",
            "M1": "file:ImageNet\nsame dataset",
            "T1": "training\ntorch reference",
            "P2": "file:train_align_\npaddle.npy\nby ReprodLogger",
            "M2": "ReprodDiffHelper",
            "T2": "file:train_align_\nbenchmark.npy\nby ReprodLogger",
            "M3": f"file:result/log/train_align_diff.log\n{VERDICT}",
        },
        "arrows": [("M1", "X1"), ("X1", "X2", "top1"), ("X2", "M2"), ("M2", "M3")],
    },
}

# All lengths are pixels. Shown 500 px wide, the font size is still above 10 px.
WIDTH, MARGIN, LANE, BOX, MIDDLE, WIDE = 1280, 34, 404, 348, 304, 640
FONT, LINE, PAD, GAP, HEADER, RADIUS, FOLD = 27, 37, 19, 50, 72, 16, 20
SHIFT = 15  # beside a loop, boxes are narrower by twice this and move inwards to make room
# Blue and dark orange stay apart for every common kind of colour blindness; the lanes also
# differ in their headings and their outline, so nothing is said by colour alone.
INK, CARD, EDGE, STEP = "#202830", "#f8f8ff", "#c0c8d0", 8  # STEP: see save()
COLOUR = {"P": "#0068a8", "M": "#485868", "T": "#b04800"}
TINT = {"P": "#e0f0f8", "T": "#fff0e0"}
HEADING = {"P": "PaddlePaddle port", "T": "PyTorch reference"}
CENTRE = {"P": MARGIN + LANE / 2, "M": WIDTH / 2, "T": WIDTH - MARGIN - LANE / 2}


def panel(axes, x0, y0, x1, y1, fill, edge, width=2.0, line="-"):
    style = {"boxstyle": f"round,pad=0,rounding_size={RADIUS}", "linewidth": width}
    style |= {"facecolor": fill, "edgecolor": edge, "linestyle": line}
    axes.add_patch(FancyBboxPatch((x0, y0), x1 - x0, y1 - y0, **style))


def sheet(axes, x0, y0, x1, y1, edge):
    x, y = x1 - FOLD, y0 + FOLD
    page, ear = [(x0, y0), (x, y0), (x1, y), (x1, y1), (x0, y1)], [(x, y0), (x, y), (x1, y)]
    for points, fill in ((page, "white"), (ear, EDGE)):
        axes.add_patch(Polygon(points, facecolor=fill, edgecolor=edge, linewidth=2))


def write(axes, x, y, text, colour, bold=False, align="center"):
    for i, line in enumerate(lines := text.split("\n")):
        # The font files shipped with matplotlib, whatever else the system has installed.
        name = "DejaVuSans-Bold.ttf" if bold and i == 0 else "DejaVuSans.ttf"
        font = FontProperties(fname=Path(matplotlib.get_data_path(), "fonts", "ttf", name))
        font.set_size(FONT * 0.72)  # 72 points are 100 pixels in these figures
        style = {"color": colour, "fontproperties": font, "ha": align, "va": "center_baseline"}
        axes.text(x, y + (i - (len(lines) - 1) / 2) * LINE, line, **style)


def arrow(axes, points, colour):
    (x0, y0), (x1, y1) = points[-2:]
    dx, dy = np.sign([x1 - x0, y1 - y0])  # the last piece is level or upright
    x, y = x1 - 18 * dx, y1 - 18 * dy
    axes.plot(*zip(*points[:-1], (x, y), strict=True), color=colour, linewidth=2.6, zorder=1)
    head = [(x1, y1), (x + 9 * dy, y + 9 * dx), (x - 9 * dy, y - 9 * dx)]
    axes.add_patch(Polygon(head, facecolor=colour))


def save(figure) -> bytes:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # Rounding to fewer shades makes the file a quarter smaller. It is invisible, because the
    # colours above are multiples of STEP already and only the smoothed edges change.
    pixels = (np.asarray(canvas.buffer_rgba()).astype(int) + STEP // 2) // STEP * STEP
    pixels, buffer = np.minimum(pixels, 255).astype(np.uint8), io.BytesIO()
    # No software name and no date: the bytes depend on the drawing only.
    style = {"metadata": {"Software": None}, "pil_kwargs": {"optimize": True}}
    imsave(buffer, pixels, format="png", **style)
    return buffer.getvalue()


def render(boxes: dict, arrows: list) -> bytes:
    """Lay out one diagram and return it as the bytes of a PNG file."""
    matplotlib.rcdefaults()  # a reader's own matplotlibrc must not change the pictures
    boxes = {k.replace("X", side): text for k, text in boxes.items() for side in "PT"}
    both = [(a.replace("X", s), b.replace("X", s), *label) for a, b, *label in arrows for s in "PT"]
    arrows = list(dict.fromkeys(both))
    looped = any(start[1:] > end[1:] for start, end, *_ in arrows)

    # Each row is as high as the longest text in it, and an arrow label gets room below its row.
    last, rows, y = max(int(name[1:]) for name in boxes), {}, MARGIN + HEADER
    for row in range(1, last + 1):
        lines = max(t.count("\n") + 1 for name, t in boxes.items() if name[1:] == str(row))
        rows[row] = y, y + lines * LINE + 2 * PAD
        label = any(len(a) > 2 and a[0][1:] == str(row) for a in arrows)
        y = rows[row][1] + GAP + (24 if label or row == last - 1 else 0)
    height, where = rows[last][1] + MARGIN, {}
    for name in boxes:
        shift = SHIFT * looped * {"P": 1, "M": 0, "T": -1}[name[0]]
        wide = WIDE if name == f"M{last}" else MIDDLE if name[0] == "M" else BOX - 2 * abs(shift)
        x, (y0, y1) = CENTRE[name[0]] + shift, rows[int(name[1:])]
        where[name] = x - wide / 2, y0, x + wide / 2, y1

    figure = Figure(figsize=(WIDTH / 100, height / 100), dpi=100, facecolor="none")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    panel(axes, 3, 3, WIDTH - 3, height - 3, CARD, EDGE)  # opaque: readable on dark pages too
    for lane, line in (("P", "-"), ("T", (0, (5, 3)))):
        x, foot = CENTRE[lane], rows[last - 1][1] + (LANE - BOX) / 2
        corners = x - LANE / 2, MARGIN, x + LANE / 2, foot
        panel(axes, *corners, TINT[lane], COLOUR[lane], 1.6, line)
        write(axes, x, MARGIN + HEADER / 2, HEADING[lane], COLOUR[lane], bold=True)

    for name, text in boxes.items():
        (x0, y0, x1, y1), colour, page = where[name], COLOUR[name[0]], text.startswith("file:")
        if page:
            sheet(axes, x0, y0, x1, y1, colour)
        else:
            panel(axes, x0, y0, x1, y1, colour, colour)
        text, ink = text.removeprefix("file:"), INK if page else "white"
        write(axes, (x0 + x1) / 2, (y0 + y1) / 2, text, ink, bold=not page)

    for start, end, *label in arrows:
        colour = COLOUR[end[0] if start[0] == "M" else start[0]]
        (a0, b0, a1, b1), (c0, d0, c1, d1) = where[start], where[end]
        x, y, tip = (a0 + a1) / 2, (b0 + b1) / 2, 3  # tip: from the arrow head to the box
        if start[1:] == end[1:]:
            ends = [(a1, y), (c0 - tip, y)] if a1 < c0 else [(a0, y), (c1 + tip, y)]
            arrow(axes, ends, colour)
        elif start[1:] < end[1:]:
            arrow(axes, [(x, b1), (x, d0 - tip)], colour)
            write(axes, x + 22, (b1 + d0) / 2 - 3, "".join(label), INK, align="left")
        else:
            edge, out = (a0, -1) if start[0] == "P" else (a1, 1)
            x, top = edge + out * 29, (d0 + d1) / 2
            middle = (y + top) / 2
            arrow(axes, [(edge, y), (x, y), (x, top), (edge + out * tip, top)], colour)
            # The label lies on a patch of the lane's own tint, so the line stops around it.
            patch = x - 22, middle - 24, x + 22, middle + 24
            panel(axes, *patch, TINT[start[0]], TINT[start[0]])
            write(axes, x, middle, "".join(label), INK)
    return save(figure)


def main() -> int:
    """Draw every picture; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).resolve().parent
    parser.add_argument("--output-dir", type=Path, default=here, help="default: next to draw.py")
    folder = parser.parse_args().output_dir
    for name, diagram in DIAGRAMS.items():
        data, part = render(**diagram), folder / f".{name}.{os.getpid()}.part"
        try:  # under another name first: a picture in place is always a whole one
            folder.mkdir(parents=True, exist_ok=True)
            try:
                part.write_bytes(data)
                part.replace(folder / f"{name}.png")
            except OSError:
                part.unlink(missing_ok=True)
                raise
        except OSError as error:
            print(f"draw.py: cannot write to {folder}: {error.strerror}", file=sys.stderr)
            return 2
        print(f"{folder / name}.png  {len(data) / 1024:.0f} KB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
