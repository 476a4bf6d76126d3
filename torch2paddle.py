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

What becomes of an entry depends on what its layer *is*:

    Linear           weight is (in, out) in Paddle and (out, in) in PyTorch: transposed
    BatchNorm        _mean, _variance are running_mean, running_var in PyTorch: renamed
    InstanceNorm     scale is weight: renamed
    PReLU            _weight is weight: renamed
    all else         copied

PyTorch's num_batches_tracked, a counter, has no counterpart: ignored, and 0 on the way back.
"""

from alignment import cli, arguments  # isort: skip  (first: it says which package is missing)

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import paddle
import torch
from paddle import nn
from tabulate import tabulate

import paddle_mv3
import torch_ref
from alignment.files import (
    CannotRun,
    load_pdparams,
    missing,
    require_file,
    save_pdparams,
    shown,
    whole_file,
    write_pdparams,
)
from alignment.layers import read_layer_map
from alignment.origin import CURRENT, UNKNOWN, note_origin, origin_of
from alignment.pairing import Pairing, counterpart, pair_entries
from alignment.weights import load_pth, make_alive, require_same

RENAMED = {
    nn.layer.norm._BatchNormBase: {"_mean": "running_mean", "_variance": "running_var"},
    nn.layer.norm._InstanceNormBase: {"scale": "weight"},
    nn.PReLU: {"_weight": "weight"},
}
IGNORED = "num_batches_tracked"
NUM_CLASSES = 1000  # of the models in the steps


def rules(model, layer_map=None):
    """{Paddle name: (PyTorch name, "copy" | "rename" | "transpose")} for a paddle.nn.Layer.

    Args:
        layer_map: {layer of the port: layer of the reference}, where their names differ.
    """
    found = {}
    wanted = model.state_dict()
    for prefix, layer in model.named_sublayers(include_self=True):
        renamed = next((names for kind, names in RENAMED.items() if isinstance(layer, kind)), {})
        other = counterpart(prefix, layer_map or {})
        for name in [*layer._parameters, *layer._buffers]:
            paddle_name = f"{prefix}.{name}" if prefix else name
            if paddle_name not in wanted:  # a bias that is None, or a buffer that is not saved
                continue
            torch_name = f"{other}.{renamed.get(name, name)}" if other else renamed.get(name, name)
            if isinstance(layer, nn.Linear) and name == "weight":
                found[paddle_name] = torch_name, "transpose"
            else:
                found[paddle_name] = torch_name, "rename" if name in renamed else "copy"
    return found


def pair_weights(model, torch_state, layer_map=None):
    """The Pairing of a paddle.nn.Layer with a PyTorch state_dict {name: tensor}."""
    layer_map = layer_map or {}
    table = rules(model, layer_map)
    for layer, other in layer_map.items():
        mine = [source for name, (source, _) in table.items() if name.startswith(f"{layer}.")]
        if mine and not any(source in torch_state for source in mine):
            raise CannotRun(
                f"the layer map says that {layer} is the reference's {other}, and that has no such "
                "parameters"
            )
    pairing = pair_entries(
        table,
        {name: tensor.shape for name, tensor in model.state_dict().items()},
        {name: x.shape for name, x in torch_state.items() if not name.endswith(IGNORED)},
    )
    pairing.layers = {**layer_map, **pairing.renamed}
    return pairing


def convert(torch_state, model, layer_map=None):
    """A PyTorch state_dict as the state_dict of the Paddle `model`; takes the entries out of it.

    Args:
        torch_state: {name: tensor}. Emptied as it goes, so that memory is not needed twice.
        model: paddle.nn.Layer, for its layers' kinds, names, shapes and dtypes.
        layer_map: {layer of the port: layer of the reference}, where their names differ.

    Returns:
        {name: paddle.Tensor} on the CPU.

    Raises:
        CannotRun: an entry is missing, unknown, or of another shape or dtype.
    """
    table = rules(model, layer_map)
    sources = {torch_name for torch_name, _ in table.values()}
    unknown = [n for n in torch_state if n not in sources and not n.endswith(IGNORED)]
    missing = [n for n in sources if n not in torch_state]
    _require_same_names(unknown, sorted(missing))
    return convert_entries(torch_state, model, table)


def convert_entries(torch_state, model, table):
    """`convert` of those entries that `table` names, as `rules` or `Pairing.table` gives it."""
    state = {}
    for name, target in model.state_dict().items():
        if name not in table:
            continue
        source, rule = table[name]
        tensor = torch_state.pop(source).detach()
        tensor = tensor.t() if rule == "transpose" and tensor.dim() == 2 else tensor
        _require_same_kind(source, tensor, name, target)
        array = tensor.cpu().numpy()
        state[name] = paddle.to_tensor(np.ascontiguousarray(array), place=paddle.CPUPlace())
    return state


def revert(paddle_state, model, layer_map=None):
    """The inverse of `convert`: {name: array} of the Paddle `model` as a PyTorch state_dict.

    Raises:
        CannotRun: an entry is missing, unknown, or of another shape or dtype.
    """
    table = rules(model, layer_map)
    _require_same_names(
        [n for n in paddle_state if n not in table], [n for n in table if n not in paddle_state]
    )
    state = {}
    for name, target in model.state_dict().items():
        source, rule = table[name]
        array = np.asarray(paddle_state.pop(name))
        _require_same_kind(name, array, name, target)
        array = array.T if rule == "transpose" else array
        state[source] = torch.from_numpy(np.array(array, order="C"))
        if name.endswith("_variance"):
            state[source.replace("running_var", IGNORED)] = torch.tensor(0)
    return state


def _require_same_names(unknown, missing):
    if unknown or missing:
        parts = [
            f"{len(names)} {what} ({', '.join(names[:2])}{', …' if len(names) > 2 else ''})"
            for what, names in (("entries missing", missing), ("entries unknown", unknown))
            if names
        ]
        raise CannotRun(
            "these are weights of another model, or the port is not built as the reference is: "
            + "; ".join(parts)
        )


def _require_same_kind(source, value, name, target):
    shape, wanted = list(value.shape), list(target.shape)
    if shape != wanted:
        raise CannotRun(
            "these are weights of another model, or the port is not built as the reference is: "
            f"{source} fits {shape}, "
            f"the model's {name} is {wanted}"
        )
    dtype, wanted = (str(x.dtype).rpartition(".")[2] for x in (value, target))
    if dtype != wanted:
        raise CannotRun(
            f"{source} is {dtype}, the model's {name} is {wanted}: "
            f"convert it to {wanted} in the framework that saved it"
        )


def convert_file(source, target, model, layer_map=None):
    """PyTorch checkpoint `source` -> Paddle state_dict file `target`. Raises CannotRun."""
    try:
        state = convert(load_pth(source), model, layer_map)
    except CannotRun as error:
        raise CannotRun(_with_file(error, source)) from error
    save_pdparams(state, target)


def revert_file(source, target, model, layer_map=None):
    """Paddle state_dict file `source` -> PyTorch state_dict file `target`. Raises CannotRun."""
    try:
        state = revert(load_pdparams(source), model, layer_map)
    except CannotRun as error:
        raise CannotRun(_with_file(error, source)) from error
    with whole_file(target) as temporary:
        torch.save(state, temporary)


def _with_file(error, path):
    return str(error) if shown(path) in str(error) else f"{shown(path)}: {error}"


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
        if args.pretrained:
            download(url, torch_file)
        else:
            torch.manual_seed(0)
            model = make_alive(torch_ref.MODELS[args.model](), seed=0)
            with whole_file(torch_file) as temporary:
                torch.save(model.state_dict(), temporary)
            print(f"made {shown(torch_file)}: random weights, seed 0")
    port = port or paddle_mv3.MODELS[args.model]()
    layer_map = read_layer_map(getattr(args, "layer_map", None), port, reference)
    args.pairing = pairing = pair_weights(port, reference.state_dict(), layer_map)

    sources, made_for = [torch_file, Path(__file__)], sorted(pairing.table.items())
    origin = origin_of(paddle_file, sources, made_for)
    if origin == UNKNOWN:
        print(
            f"{shown(paddle_file)} was not made by this torch2paddle.py: it is used as it is. "
            "Delete it to have it made anew"
        )
    elif origin != CURRENT:
        state = load_pth(torch_file)
        require_same(torch_file, state, reference.state_dict())
        with whole_file(paddle_file) as temporary:
            write_pdparams(convert_entries(state, port, pairing.table), temporary)
            note_origin(paddle_file, temporary, sources, made_for)
        print(f"made {shown(paddle_file)} from {shown(torch_file)}")
    return Weights(torch_file, paddle_file, pairing)


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
    print(tabulate(rows, headers=["PyTorch", "", "Paddle", "shape in Paddle"]))
    ignored = sum(name.endswith("_variance") for name in table)
    print(f"{len(rows)} entries; {ignored} {IGNORED} {'set to 0' if args.reverse else 'ignored'}")
    print(f"{shown(source)} -> {shown(target)}")
    return args.source is not None or pairing.fits


if __name__ == "__main__":
    flags = cli.parser(__doc__)
    flags.add_argument("source", type=arguments.file_path, nargs="?", help="file to convert")
    flags.add_argument("target", type=arguments.file_path, nargs="?", help="file to write")
    flags.add_argument("--reverse", action="store_true", help="Paddle to PyTorch")
    flags.add_argument(
        "--num-classes", type=arguments.classes, default=NUM_CLASSES, help="of the checkpoint"
    )
    cli.run(main, flags, writes_results=False)
