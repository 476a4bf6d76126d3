"""Converts weights from PyTorch to PaddlePaddle, and back.

    python torch2paddle.py                          # data/mobilenet_v3_small-047dcff4.pth
                                                    #   -> data/mv3_small_paddle.pdparams
    python torch2paddle.py mine.pth mine.pdparams --model mobilenet_v3_large
    python torch2paddle.py --reverse mine.pdparams mine.pth

For a model of your own:

    from torch2paddle import convert
    paddle_model.set_state_dict(convert(torch_model.state_dict(), paddle_model))

What becomes of an entry depends on what its layer *is*:

    Linear           weight is (in, out) in Paddle and (out, in) in PyTorch: transposed
    BatchNorm        _mean, _variance are running_mean, running_var in PyTorch: renamed
    InstanceNorm     scale is weight: renamed
    PReLU            _weight is weight: renamed
    all else         copied

PyTorch's num_batches_tracked, a counter, has no counterpart: ignored, and 0 on the way back.
"""

import os
from pathlib import Path

from alignment import arguments, cli  # isort: skip  (first: it says which package is missing)

import numpy as np
import paddle
import torch
from paddle import nn
from tabulate import tabulate

import paddle_mv3
import torch_ref
from alignment.files import CannotRun, load_pdparams, save_pdparams, shown, whole_file
from alignment.weights import load_pth, make_alive

RENAMED = {
    nn.layer.norm._BatchNormBase: {"_mean": "running_mean", "_variance": "running_var"},
    nn.layer.norm._InstanceNormBase: {"scale": "weight"},
    nn.PReLU: {"_weight": "weight"},
}
IGNORED = "num_batches_tracked"


def rules(model):
    """{Paddle name: (PyTorch name, "copy" | "rename" | "transpose")} for a paddle.nn.Layer."""
    found = {}
    wanted = model.state_dict()
    for prefix, layer in model.named_sublayers(include_self=True):
        renamed = next((names for kind, names in RENAMED.items() if isinstance(layer, kind)), {})
        for name in [*layer._parameters, *layer._buffers]:
            paddle_name = f"{prefix}.{name}" if prefix else name
            if paddle_name not in wanted:  # a bias that is None, or a buffer that is not saved
                continue
            torch_name = (
                f"{prefix}.{renamed.get(name, name)}" if prefix else renamed.get(name, name)
            )
            if isinstance(layer, nn.Linear) and name == "weight":
                found[paddle_name] = torch_name, "transpose"
            else:
                found[paddle_name] = torch_name, "rename" if name in renamed else "copy"
    return found


def convert(torch_state, model):
    """A PyTorch state_dict as the state_dict of the Paddle `model`; takes the entries out of it.

    Args:
        torch_state: {name: tensor}. Emptied as it goes, so that memory is not needed twice.
        model: paddle.nn.Layer, for its layers' kinds, names, shapes and dtypes.

    Returns:
        {name: paddle.Tensor} on the CPU.

    Raises:
        CannotRun: an entry is missing, unknown, or of another shape or dtype.
    """
    table = rules(model)
    sources = {torch_name for torch_name, _ in table.values()}
    unknown = [n for n in torch_state if n not in sources and not n.endswith(IGNORED)]
    missing = [n for n in sources if n not in torch_state]
    _require_same_names(unknown, sorted(missing))
    state = {}
    for name, target in model.state_dict().items():
        source, rule = table[name]
        tensor = torch_state.pop(source).detach()
        tensor = tensor.t() if rule == "transpose" and tensor.dim() == 2 else tensor
        _require_same_kind(source, tensor, name, target)
        array = tensor.cpu().numpy()
        state[name] = paddle.to_tensor(np.ascontiguousarray(array), place=paddle.CPUPlace())
    return state


def revert(paddle_state, model):
    """The inverse of `convert`: {name: array} of the Paddle `model` as a PyTorch state_dict.

    Raises:
        CannotRun: an entry is missing, unknown, or of another shape or dtype.
    """
    table = rules(model)
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


def convert_file(source, target, model):
    """PyTorch checkpoint `source` -> Paddle state_dict file `target`. Raises CannotRun."""
    try:
        state = convert(load_pth(source), model)
    except CannotRun as error:
        raise CannotRun(_with_file(error, source)) from error
    save_pdparams(state, target)


def revert_file(source, target, model):
    """Paddle state_dict file `source` -> PyTorch state_dict file `target`. Raises CannotRun."""
    try:
        state = revert(load_pdparams(source), model)
    except CannotRun as error:
        raise CannotRun(_with_file(error, source)) from error
    with whole_file(target) as temporary:
        torch.save(state, temporary)


def _with_file(error, path):
    return str(error) if shown(path) in str(error) else f"{shown(path)}: {error}"


def prepare(args):
    """The paths (.pth, .pdparams) of the weights that the steps load; makes what is missing.

    A .pth that exists is used as it is; the .pdparams is made anew where the .pth is newer.
    """
    folder = args.data_dir / "pretrained" if args.pretrained else args.data_dir
    url = torch_ref.WEIGHTS[args.model]
    torch_file = folder / Path(url).name
    paddle_file = folder / f"mv3_{args.model.rpartition('_')[2]}_paddle.pdparams"
    if not torch_file.exists():
        if args.pretrained:
            download(url, torch_file)
        else:
            torch.manual_seed(0)
            model = make_alive(torch_ref.MODELS[args.model](), seed=0)
            with whole_file(torch_file) as temporary:
                torch.save(model.state_dict(), temporary)
            print(f"made {shown(torch_file)}: random weights, seed 0")
    if not paddle_file.exists() or paddle_file.stat().st_mtime < torch_file.stat().st_mtime:
        convert_file(torch_file, paddle_file, paddle_mv3.MODELS[args.model]())
        print(f"made {shown(paddle_file)} from {shown(torch_file)}")
    return torch_file, paddle_file


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
    table = rules(model)
    if args.source is None:
        if args.reverse:
            raise CannotRun("--reverse needs the Paddle file: torch2paddle.py --reverse SOURCE")
        source, target = prepare(args)
    else:
        source = args.source
        target = args.target or source.with_suffix(".pth" if args.reverse else ".pdparams")
        if os.path.realpath(source) == os.path.realpath(target):
            raise CannotRun(f"{shown(source)} is both source and target: name another TARGET")
    (revert_file if args.reverse else convert_file)(source, target, model)

    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    rows = [(source_, rule, name, shapes[name]) for name, (source_, rule) in table.items()]
    print(tabulate(rows, headers=["PyTorch", "", "Paddle", "shape in Paddle"]))
    ignored = sum(name.endswith("_variance") for name in table)
    print(f"{len(rows)} entries; {ignored} {IGNORED} {'set to 0' if args.reverse else 'ignored'}")
    print(f"{shown(source)} -> {shown(target)}")


if __name__ == "__main__":
    flags = cli.parser(__doc__)
    flags.add_argument("source", type=arguments.file_path, nargs="?", help="file to convert")
    flags.add_argument("target", type=arguments.file_path, nargs="?", help="file to write")
    flags.add_argument("--reverse", action="store_true", help="Paddle to PyTorch")
    flags.add_argument(
        "--num-classes", type=arguments.classes, default=1000, help="of the checkpoint"
    )
    cli.run(main, flags)
