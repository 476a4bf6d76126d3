"""Evaluation dealt out to several processes gives what one process gives, to the last bit."""

import json

import numpy as np
import pytest
from conftest import ROOT

import paddle_mv3

SCRIPT = """
import json, sys
sys.path.insert(0, {root!r})
from alignment import cli
import numpy as np
import paddle
import paddle_mv3

folder, images, batch_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
paddle.set_device("cpu")
rank, world_size = 0, 1
if len(sys.argv) > 4:
    paddle.distributed.init_parallel_env()
    rank, world_size = paddle.distributed.get_rank(), paddle.distributed.get_world_size()
paddle.seed(0)
model = paddle_mv3.mobilenet_v3_small(width_mult=0.25, num_classes=10)
for layer in model.sublayers():
    if isinstance(layer, paddle.nn.BatchNorm2D):
        layer._variance.set_value(layer._variance * 1e-3)  # logits that differ
rng = np.random.default_rng(0)
x = rng.standard_normal((images, 3, 32, 32)).astype("float32")
y = rng.integers(0, 10, images)
sampler = paddle_mv3.EvalBatchSampler(images, batch_size, rank, world_size)
batches = [(paddle.to_tensor(x[i]), paddle.to_tensor(y[i])) for i in sampler]
loss = paddle_mv3.CrossEntropyLoss()
values = paddle_mv3.evaluate(model, batches, (1, 5), loss, sharded=world_size > 1)
with open(f"{{folder}}/{{world_size}}_{{rank}}.json", "w") as file:
    json.dump([value.hex() for value in values], file)
"""


# 37 images, 4 to a batch, are 10 batches; 8 are 2, so that the third rank has none.
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("images", "ranks"),
    [(37, 2), *(pytest.param(*x, marks=SLOW) for x in [(37, 3), (37, 4), (8, 3), (1, 2)])],
)
def test_evaluation_is_the_same_for_every_number_of_ranks(images, ranks, spawn, tmp_path):
    script = tmp_path / "evaluate.py"
    script.write_text(SCRIPT.format(root=str(ROOT)))
    arguments = [tmp_path, images, 4]
    assert spawn(script, *arguments).status == 0
    expected = json.loads((tmp_path / "1_0.json").read_text())
    top1, top5, loss = map(float.fromhex, expected)
    assert loss > 1 and (images == 1 or 0 < top1 < top5 < 100)
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", ranks, "--backend", "gloo"]
    result = spawn(*launch, "--log_dir", tmp_path / "log", script, *arguments, "distributed")
    assert result.status == 0, result.out + result.err
    for rank in range(ranks):
        assert json.loads((tmp_path / f"{ranks}_{rank}.json").read_text()) == expected


@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 16])
def test_each_image_is_in_one_batch(world_size):
    seen = []
    for rank in range(world_size):
        sampler = paddle_mv3.EvalBatchSampler(37, 5, rank, world_size)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        seen += batches
    assert sorted(map(tuple, seen)) == [tuple(range(i, min(i + 5, 37))) for i in range(0, 37, 5)]


def test_sums_of_ranks_add_up():
    rng = np.random.default_rng(0)
    sums = rng.random((11, 4))
    for world_size in (1, 2, 4, 20):
        tables = [
            paddle_mv3.place(sums[r::world_size], 11, r, world_size) for r in range(world_size)
        ]
        assert np.array_equal(sum(tables[::-1]), sums)
    sums[:, 0] = 1
    expected = [100 * sums[:, 1].sum() / 11, 100 * sums[:, 2].sum() / 11, sums[:, 3].sum() / 11]
    assert np.allclose(paddle_mv3.averages(sums), expected, rtol=1e-15)
    assert np.allclose(paddle_mv3.averages(sums[:, :2], topk=(1,)), expected[:1], rtol=1e-15)
