"""Converts weights from PyTorch to PaddlePaddle, and back.

    python torch2paddle.py                          # data/mobilenet_v3_small-047dcff4.pth
                                                    #   -> data/mv3_small_paddle.pdparams
    python torch2paddle.py mine.pth mine.pdparams --model mobilenet_v3_large
    python torch2paddle.py --reverse mine.pdparams mine.pth

For a model of your own:

    from torch2paddle import convert
    paddle_model.set_state_dict(convert(torch_model.state_dict(), paddle_model))

Where layers of the port have other names, --layer-map FILE says which is which:
{"layer of the port": "layer of the reference"}; it holds for all that lies in the layer.

What becomes of an entry depends on what its layer is: alignment/convert.py says it.
"""

from alignment import cli, arguments  # isort: skip  (first: it says which package is missing)

import os
from pathlib import Path
from typing import NamedTuple

import torch
from tabulate import tabulate

import paddle_mv3
import torch_ref
from alignment import convert as conversion
from alignment.convert import (
    IGNORED,
    convert,
    convert_entries,
    convert_file,
    pair_weights,
    revert,
    revert_file,
    rules,
)
from alignment.files import (
    CannotRun,
    missing,
    require_file,
    require_writable,
    shown,
    whole_file,
    write_pdparams,
)
from alignment.layers import read_layer_map
from alignment.origin import CURRENT, UNKNOWN, note_origin, origin_of
from alignment.pairing import Pairing
from alignment.screen import Detail, say
from alignment.weights import load_pth, make_alive, require_same

__all__ = [
    "convert",
    "convert_file",
    "layers_of",
    "pair_weights",
    "prepare",
    "revert",
    "revert_file",
    "rules",
]

NUM_CLASSES = 1000  # of the models in the steps


class Weights(NamedTuple):
    """The files that both models are loaded from, and which entry is which."""

    torch_file: Path
    paddle_file: Path
    pairing: Pairing


def prepare(args, port=None, reference=None):
    """Makes the weights that the steps load, where they are missing.

    A .pth that exists is used as it is. The .pdparams is made anew if it was made from another
    .pth, by another version of this file, or for a port with other layers. One that was not made
    here is used as it is.

    A port that is not built as the reference is gets what fits; `pairing` says what does not.

    Args:
        args: of the command line. Its `pairing` is set, for `cli.run`.
        port, reference: the models, if they are there already.

    Returns:
        Weights

    Raises:
        CannotRun: a file cannot be read or written, or the .pth is not the reference's.
    """
    folder = args.data_dir / "pretrained" if args.pretrained else args.data_dir
    url = torch_ref.WEIGHTS[args.model]
    torch_file = folder / Path(url).name
    paddle_file = folder / f"mv3_{args.model.rpartition('_')[2]}_paddle.pdparams"
    reference = reference or torch_ref.MODELS[args.model]()
    for path in (torch_file, paddle_file):
        if not missing(path):
            require_file(path)
    if missing(torch_file):
        require_writable(folder)
        if args.pretrained:
            download(url, torch_file)
        else:
            torch.manual_seed(0)
            model = make_alive(torch_ref.MODELS[args.model](), seed=0)
            with whole_file(torch_file) as temporary:
                torch.save(model.state_dict(), temporary)
            say(f"made {shown(torch_file)}: random weights, seed 0")
    port = port or paddle_mv3.MODELS[args.model]()
    args.pairing = pairing = pairing_of(args, port, reference)

    code = [Path(__file__), Path(conversion.__file__)]
    sources, made_for = [torch_file, *code], sorted(pairing.table.items())
    origin = origin_of(paddle_file, sources, made_for)
    if origin == UNKNOWN:
        say(
            f"{shown(paddle_file)} was not made by this torch2paddle.py: it is used as it is. "
            "Delete it to have it made again"
        )
    elif origin != CURRENT:
        state = load_pth(torch_file)
        require_same(torch_file, state, reference.state_dict())
        with whole_file(paddle_file) as temporary:
            write_pdparams(convert_entries(state, port, pairing.table), temporary)
            note_origin(paddle_file, temporary, sources, made_for)
        say(f"made {shown(paddle_file)} from {shown(torch_file)}")
    return Weights(torch_file, paddle_file, pairing)


def pairing_of(args, port, reference):
    """The Pairing of two models, with the layer map of the command line."""
    layer_map = read_layer_map(getattr(args, "layer_map", None), port, reference)
    return pair_weights(port, reference.state_dict(), layer_map)


def layers_of(args):
    """{layer of the port: layer of the reference}; also where nothing has been prepared."""
    pairing = getattr(args, "pairing", None)
    if pairing is None:
        pairing = pairing_of(args, paddle_mv3.MODELS[args.model](), torch_ref.MODELS[args.model]())
    return pairing.layers


def download(url, path):
    """`url` -> `path` with a progress bar; the first digits of its SHA-256 stand in its name."""
    print(f"downloading {url}")
    with whole_file(path) as temporary:
        try:
            torch.hub.download_url_to_file(
                url, str(temporary), hash_prefix=path.stem.rpartition("-")[2]
            )
        except (OSError, RuntimeError) as error:
            raise CannotRun(
                f"cannot download {url}: {getattr(error, 'reason', error)}. "
                f"Put the file at {shown(path)} yourself, or run without --pretrained"
            ) from error


def main(args):
    model = paddle_mv3.MODELS[args.model](num_classes=args.num_classes)
    reference = torch_ref.MODELS[args.model](num_classes=args.num_classes)
    layer_map = read_layer_map(args.layer_map, model, reference)
    table = rules(model, layer_map)
    if args.source is None:
        if args.reverse:
            raise CannotRun("--reverse needs the Paddle file: torch2paddle.py --reverse SOURCE")
        if args.num_classes != NUM_CLASSES:
            raise CannotRun(f"--num-classes {args.num_classes} needs a SOURCE with as many classes")
        source, target, pairing = prepare(args, model, reference)
        table = pairing.table
        if not pairing.fits:
            print("\n".join([f"NOT ALIGNED: {pairing.verdict()}", *pairing.lines()]))
    else:
        source = args.source
        target = args.target or source.with_suffix(".pth" if args.reverse else ".pdparams")
        if os.path.realpath(source) == os.path.realpath(target):
            raise CannotRun(f"{shown(source)} is both source and target: name another TARGET")
        (revert_file if args.reverse else convert_file)(source, target, model, layer_map)

    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    rows = [(source_, rule, name, shapes[name]) for name, (source_, rule) in table.items()]
    table_ = tabulate(rows, headers=["PyTorch", "", "Paddle", "shape in Paddle"])
    say(table_, Detail.ALL)
    ignored = sum(name.endswith("_variance") for name in table)
    say(f"{len(rows)} entries; {ignored} {IGNORED} {'set to 0' if args.reverse else 'ignored'}")
    print(f"{shown(source)} -> {shown(target)}")
    return args.source is not None or pairing.fits


if __name__ == "__main__":
    flags = cli.parser(__doc__, paddle_mv3.MODELS)
    flags.add_argument("source", type=arguments.file_path, nargs="?", help="file to convert")
    flags.add_argument("target", type=arguments.file_path, nargs="?", help="file to write")
    flags.add_argument("--reverse", action="store_true", help="Paddle to PyTorch")
    flags.add_argument(
        "--num-classes", type=arguments.classes, default=NUM_CLASSES, help="of the checkpoint"
    )
    cli.run(main, flags, writes_results=False)
