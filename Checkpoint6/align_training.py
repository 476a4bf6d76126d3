"""x"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from alignment import cli
import time, copy, tempfile
import numpy as np, torch, paddle
import paddle_mv3, torch_ref
from alignment.threads import one_torch_thread
from alignment.weights import make_alive
from alignment.training import torch_arrays
from torch2paddle import rules as rules_of
from Checkpoint6.arguments import parser, settle, TRY_OUT
from Checkpoint6.align_data import subset, Draws
from Checkpoint6.align_steps import Pair
from Checkpoint6.align_sides import Watch, both_built

ALIGN = dict(
    data_path=TRY_OUT["data_path"],
    epochs=5,
    batch_size=8,
    opt="rmsprop",
    lr=0.01,
    weight_decay=1e-5,
    norm_weight_decay=0.0,
    label_smoothing=0.1,
    mixup_alpha=0.2,
    cutmix_alpha=1.0,
    lr_step_size=2,
    lr_gamma=0.973,
    lr_warmup_epochs=2,
    lr_warmup_method="linear",
    auto_augment="imagenet",
    random_erase=0.2,
    clip_grad_norm=5.0,
    model_ema=True,
    model_ema_steps=3,
    model_ema_decay=0.99,
    train_crop_size=64,
    val_crop_size=64,
    val_resize_size=73,
    print_freq=1,
)
flags = parser(__doc__)
flags.add_argument("--steps", type=int, default=50)
flags.set_defaults(**ALIGN)
args = settle(flags.parse_args())
T = time.time()
work = Path(tempfile.mkdtemp())
per = -(-args.steps // min(5, args.epochs))
subset(args.data_path / "train", work / "train", per * args.batch_size - args.batch_size // 2 - 1)
subset(args.data_path / "val", work / "val", 27)
args.data_path = work
args.output_dir = work / "out"
args.result_dir = work / "res"
args.print_freq = 1
with one_torch_thread():
    classes = len(list((work / "train").iterdir()))
    tm = torch_ref.MODELS[args.model](num_classes=classes)
    make_alive(tm, image_size=64)
    rules = rules_of(paddle_mv3.MODELS[args.model](num_classes=classes))
    start = torch_arrays(tm, rules)
    watches = {side: Watch("float64") for side in ("port", "reference")}
    draws = Draws(args)
    with draws.replayed() as batch, both_built(args.model, start, rules, "float64", watches.get):
        p = Pair(args, rules, batch, watches, args.steps, 3, args.steps // 2)
        p.run()
agree, lines = p.comparison.findings("{count} moments")
print("\n".join(lines + p.lines))
print(agree, time.time() - T)
p.comparison.write(Path("/tmp/cmp.log"))
print(p.number)
