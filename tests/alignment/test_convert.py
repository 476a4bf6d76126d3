"""torch2paddle.py: right, strict, reversible, sparing."""

import argparse
import subprocess
import sys

import numpy as np
import paddle
import pytest
import torch
from conftest import ROOT
from paddle import nn

from alignment.files import CannotRun, load_pdparams
from alignment.weights import load_pth
from torch2paddle import convert, convert_file, revert, revert_file, rules

WEIGHTS = "mobilenet_v3_small-047dcff4.pth"


def test_there_and_back_is_bit_for_bit_the_same(run, tmp_path, data_dir):
    there, back = tmp_path / "there.pdparams", tmp_path / "back.pth"
    assert run("torch2paddle.py", data_dir / WEIGHTS, there).status == 0
    assert run("torch2paddle.py", "--reverse", there, back).status == 0
    before, after = load_pth(data_dir / WEIGHTS), load_pth(back)
    assert set(before) == set(after)
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype and torch.equal(tensor, after[name]), name
    again = tmp_path / "again.pdparams"
    assert run("torch2paddle.py", back, again).status == 0
    first, second = load_pdparams(there), load_pdparams(again)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert list(first) == list(second)


def test_paddle_load_reads_what_is_written(data_dir):
    state = paddle.load(str(data_dir / "mv3_small_paddle.pdparams"))
    assert len(state) == 210 and all(isinstance(x, paddle.Tensor) for x in state.values())


def test_table_names_every_entry(run, tmp_path, data_dir):
    result = run("torch2paddle.py", data_dir / WEIGHTS, tmp_path / "x.pdparams", "-v")
    rows = [line.split()[:3] for line in result.out.splitlines() if " copy " in line] + [
        line.split()[:3] for line in result.out.splitlines() if " rename " in line
    ]
    transposed = [line.split()[0] for line in result.out.splitlines() if " transpose " in line]
    assert transposed == ["classifier.0.weight", "classifier.3.weight"]
    assert len(rows) + len(transposed) == 210
    renamed = ["features.0.1.running_var", "rename", "features.0.1._variance"]
    assert renamed in rows
    assert "34 num_batches_tracked ignored" in result.out


PAIRS = [
    # a square matrix: a transposition that is missed shows in values only
    (nn.Linear(6, 6), torch.nn.Linear(6, 6), (5, 6)),
    (nn.Linear(6, 4, bias_attr=False), torch.nn.Linear(6, 4, bias=False), (5, 6)),
    (nn.Conv2D(4, 6, 3, groups=2), torch.nn.Conv2d(4, 6, 3, groups=2), (2, 4, 8, 8)),
    (nn.Conv2DTranspose(4, 6, 3), torch.nn.ConvTranspose2d(4, 6, 3), (2, 4, 8, 8)),
    (nn.BatchNorm2D(4), torch.nn.BatchNorm2d(4), (2, 4, 8, 8)),
    (nn.BatchNorm1D(4), torch.nn.BatchNorm1d(4), (2, 4)),
    (nn.InstanceNorm2D(4), torch.nn.InstanceNorm2d(4, affine=True), (2, 4, 8, 8)),
    (nn.GroupNorm(2, 4), torch.nn.GroupNorm(2, 4), (2, 4, 8, 8)),
    (nn.LayerNorm(6), torch.nn.LayerNorm(6), (5, 6)),
    (nn.PReLU(4), torch.nn.PReLU(4), (2, 4, 8, 8)),
]


@pytest.mark.parametrize(("port", "reference", "shape"), PAIRS, ids=lambda x: type(x).__name__)
def test_a_layer_of_each_kind_computes_the_same(port, reference, shape):
    """Also in a container and inside of a user's own layer, where names have prefixes."""
    generator = torch.Generator().manual_seed(0)
    for tensor in reference.state_dict().values():
        if tensor.dtype == torch.float32:
            tensor.uniform_(0.5, 1.5, generator=generator)
    state = reference.state_dict()
    port.set_state_dict(convert(dict(state), port))
    port.eval()
    reference.eval()
    x = np.random.RandomState(0).rand(*shape).astype("float32")
    outputs = port(paddle.to_tensor(x)), reference(torch.from_numpy(x))
    assert np.allclose(outputs[0].numpy(), outputs[1].detach().numpy(), atol=1e-5)
    back = revert({name: x.numpy() for name, x in port.state_dict().items()}, port)
    assert set(back) == set(state)
    assert all(torch.equal(back[name], state[name]) for name in state)

    wrapped = {f"a.0.{name}": tensor for name, tensor in state.items()}
    outer = nn.Layer()
    outer.a = nn.Sequential(port)
    assert {source for source, _ in rules(outer).values()} == {
        name for name in wrapped if "num_batches" not in name
    }
    convert(wrapped, outer)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrapped_checkpoints(wrapper, prefix, run, tmp_path, data_dir):
    state = {prefix + name: tensor for name, tensor in load_pth(data_dir / WEIGHTS).items()}
    checkpoint = state
    if wrapper:  # as torchvision's references/classification/train.py saves it
        args = argparse.Namespace(lr=0.1)
        checkpoint = {wrapper: state, "optimizer": {"state": {}}, "epoch": 3, "args": args}
    torch.save(checkpoint, tmp_path / "wrapped.pth")
    assert run("torch2paddle.py", tmp_path / "wrapped.pth").status == 0
    plain = load_pdparams(data_dir / "mv3_small_paddle.pdparams")
    mine = load_pdparams(tmp_path / "wrapped.pdparams")
    assert all(np.array_equal(plain[name], mine[name]) for name in plain)


def changed(state, case):
    name = "features.0.0.weight"
    if case == "missing":
        del state[name]
    elif case == "unknown":
        state["extra.weight"] = torch.zeros(1)
    elif case == "shape":
        state[name] = state[name][:8]
    elif case == "half":
        state[name] = state[name].half()
    elif case == "bfloat16":
        state[name] = state[name].bfloat16()
    elif case == "transposed":
        state["classifier.0.weight"] = state["classifier.0.weight"].T
    elif case == "no tensor":
        state[name] = "text"
    return state


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("missing", "1 entries missing (features.0.0.weight)"),
        ("unknown", "1 entries unknown (extra.weight)"),
        ("shape", "features.0.0.weight fits [8, 3, 3, 3], the model's features.0.0.weight is [16"),
        ("half", "features.0.0.weight is float16"),
        ("bfloat16", "features.0.0.weight is bfloat16"),
        ("transposed", "classifier.0.weight"),
        ("no tensor", "entry 'features.0.0.weight' is a str"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(case, said, run, tmp_path, data_dir):
    source, target = tmp_path / "source.pth", tmp_path / "target.pdparams"
    torch.save(changed(load_pth(data_dir / WEIGHTS), case), source)
    target.write_text("mine")
    line = run("torch2paddle.py", source, target).error_line
    assert said in line and "source.pth" in line
    assert target.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.pth", "target.pdparams"]


def test_another_model_is_named(run, tmp_path, data_dir):
    large = data_dir / "mobilenet_v3_large-8738ca79.pth"
    line = run("torch2paddle.py", large, tmp_path / "x.pdparams").error_line
    assert "another model" in line
    options = ("--model", "mobilenet_v3_large")
    assert run("torch2paddle.py", large, tmp_path / "x.pdparams", *options).status == 0


def test_number_of_classes(run, tmp_path):
    import torch_ref

    model = torch_ref.mobilenet_v3_small(num_classes=10)
    torch.save(model.state_dict(), tmp_path / "ten.pth")
    assert "classifier.3" in run("torch2paddle.py", tmp_path / "ten.pth").error_line
    assert run("torch2paddle.py", tmp_path / "ten.pth", "--num-classes", "10").status == 0


def test_source_is_never_its_own_target(run, tmp_path, data_dir):
    path = tmp_path / "x.pth"
    path.write_bytes((data_dir / WEIGHTS).read_bytes())
    assert "both source and target" in run("torch2paddle.py", path, path).error_line
    assert "--reverse" in run("torch2paddle.py", "--reverse").error_line


def test_hostile_pdparams(tmp_path):
    import os
    import pickle

    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    (tmp_path / "x.pdparams").write_bytes(pickle.dumps({"weight": Hostile()}))
    with pytest.raises(CannotRun, match="mkdir"):
        revert_file(tmp_path / "x.pdparams", tmp_path / "x.pth", nn.Linear(2, 2))
    assert not (tmp_path / "owned").exists() and not (tmp_path / "x.pth").exists()


MEMORY = """
import resource, sys
sys.path.insert(0, {root!r})
from alignment import cli
import torch, paddle
from torch2paddle import convert_file, revert_file
paddle.set_device("cpu")
layers = [paddle.nn.Linear(2000, 2000) for _ in range({count})]
model = paddle.nn.Sequential(*layers)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{function}({source!r}, {target!r}, model)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize(
    "function", ["convert_file", pytest.param("revert_file", marks=pytest.mark.slow)]
)
def test_memory_is_about_twice_the_checkpoint(function, tmp_path):
    """Beside the model itself; measured on a checkpoint of 320 MB in a process of its own."""
    count = 20
    reference = torch.nn.Sequential(*(torch.nn.Linear(2000, 2000) for _ in range(count)))
    source, target = tmp_path / "big.pth", tmp_path / "big.pdparams"
    torch.save(reference.state_dict(), source)
    size = source.stat().st_size
    if function == "revert_file":
        port = nn.Sequential(*(nn.Linear(2000, 2000) for _ in range(count)))
        convert_file(source, target, port)
        source, target = target, tmp_path / "back.pth"
    code = MEMORY.format(
        root=str(ROOT), count=count, function=function, source=str(source), target=str(target)
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout.split()[-1]) < 2.2 * size
