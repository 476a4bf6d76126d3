"""What a user of the five numbered scripts relies on."""

import re
import shutil

import numpy as np
import pytest
from conftest import ROOT, STEPS
from reprod_log import ReprodDiffHelper

from alignment.stages.fake import gen_fake_data

# The contract: script, records of Paddle and of the reference, log, keys in their order.
CONTRACT = {
    "01_test_forward.py": ("forward_paddle", "forward_torch", "forward_diff", ["logits"]),
    "02_test_data.py": (
        "data_paddle",
        "data_ref",
        "data_diff",
        ["length", *(f"dataloader_{i}" for i in range(5))],
    ),
    "03_test_metric.py": ("metric_paddle", "metric_ref", "metric_diff", ["acc_top1", "acc_top5"]),
    "04_test_loss.py": ("loss_paddle", "loss_ref", "loss_diff", ["loss"]),
    "05_test_backward.py": (
        "losses_paddle",
        "losses_ref",
        "backward_diff",
        [f"{key}_{i}" for i in range(3) for key in ("loss", "lr")],
    ),
}
# What is compared beside the records, line by line.
DETAILS = {
    "01_test_forward.py": ["forward_initialisation.log"],
    "02_test_data.py": ["data_augmentation.log"],
    "05_test_backward.py": ["backward_training.log", "backward_recipe.log"],
}
LINE = re.compile(r"\[\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\] root INFO: (.*)")


@pytest.mark.parametrize("script", STEPS)
def test_step_is_aligned_and_keeps_the_contract(script, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(script, "-v")
    assert result.status == 0, result.out + result.err

    port, reference, log, keys = CONTRACT[script]
    helper = ReprodDiffHelper()  # reprod_log's own, as a user would
    infos = [helper.load_info(f"result/{name}.npy") for name in (reference, port)]
    for info in infos:
        assert [key for key in info if key in keys] == keys
    helper.compare_info(*infos)
    assert list(helper.diff_dict) == list(infos[0])

    whole = (tmp_path / "result" / "log" / f"{log}.log").read_text().splitlines()
    lines = [line for line in whole if LINE.fullmatch(line)]
    messages = [LINE.fullmatch(line).group(1) for line in lines]
    assert messages[-1] == "diff check passed"
    for key in keys:
        at = messages.index(f"{key}: ")
        assert re.fullmatch(r"\tmean diff: check passed: True, value: \S+", messages[at + 1])
    # Each line once in the file and once on the screen, the verdict under them.
    assert len(lines) == 2 * len(infos[0]) + 1
    on_screen = [line for line in result.out.splitlines() if LINE.fullmatch(line)]
    assert on_screen == lines
    verdict = whole[len(lines) :]
    assert verdict[0].startswith("aligned: ")
    below = result.out.splitlines()[result.out.splitlines().index(lines[-1]) + 1 :]
    assert below == verdict[: len(below)]
    assert result.err == ""
    assert len(below) <= 7
    for details in DETAILS.get(script, ()):
        lines = (tmp_path / "result" / "log" / details).read_text().splitlines()
        assert len(lines) > 100 and not any("<-- differs" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["01_test_forward.py", "04_test_loss.py", "05_test_backward.py"])
def test_the_large_model_is_aligned(script, run):
    assert run(script, "--model", "mobilenet_v3_large").status == 0


def test_the_checks_are_not_vacuous(run, tmp_path):
    """Logits of a size to be judged; accuracies neither 0 nor 100; a batch; a schedule."""
    for script in STEPS:
        assert run(script).status == 0
    load = ReprodDiffHelper().load_info
    assert np.abs(load(tmp_path / "result" / "forward_torch.npy")["logits"]).mean() > 0.1
    metric = load(tmp_path / "result" / "metric_ref.npy")
    assert 10 < metric["acc_top1"] < metric["acc_top5"] < 90
    losses = load(tmp_path / "result" / "losses_ref.npy")
    assert losses["lr_0"] > losses["lr_1"] > losses["lr_2"] > 0
    assert abs(losses["loss_0"] - losses["loss_2"]) > 1e-3
    data = load(tmp_path / "result" / "data_ref.npy")
    assert data["length"][0] % 4 != 0, "the last batch has to be incomplete"
    assert len(np.unique(data["all_labels"])) >= 8


def test_fresh_checkout_makes_what_it_lacks(spawn, tmp_path):
    """From another directory, with nothing but the code and the committed data."""
    for name in (
        "alignment",
        "paddle_mv3",
        "torch_ref",
        "torch2paddle.py",
        "lite_data.tar",
        *STEPS,
    ):
        (tmp_path / name).symlink_to(ROOT / name)
    # A copy of cli.py finds ROOT through its own place, so the package is copied, not linked.
    (tmp_path / "alignment").unlink()
    shutil.copytree(ROOT / "alignment", tmp_path / "alignment")
    code = "import runpy, sys; sys.argv = [sys.argv[1]]; sys.path.insert(0, {!r})\n{}"
    code = code.format(str(tmp_path), "runpy.run_path(sys.argv[0], run_name='__main__')")
    (tmp_path / "elsewhere").mkdir()
    result = spawn("-c", code, tmp_path / "03_test_metric.py", cwd=tmp_path / "elsewhere")
    assert result.status == 0, result.err
    weights = "mobilenet_v3_small-047dcff4.pth"
    made = [weights, "mv3_small_paddle.json", "mv3_small_paddle.pdparams"]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == made
    assert (tmp_path / "lite_data" / "val").is_dir()
    assert (tmp_path / "result" / "log" / "metric_diff.log").is_file()
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("script", [*STEPS, "torch2paddle.py"])
def test_help(script, run):
    result = run(script, "--help")
    assert result.status == 0
    for option in ("--model", "--device", "--data-dir", "--result-dir", "--pretrained"):
        assert option in result.out


def test_user_image_folder_with_workers_and_batches(run, tmp_path, image_dir):
    mine = tmp_path / "mine"
    for name in ("rocket", "cat"):
        (mine / name).mkdir(parents=True)
        for file in sorted((image_dir / name).iterdir())[:5]:
            (mine / name / file.name).write_bytes(file.read_bytes())
    options = ("--image-dir", mine, "--workers", "2", "--batches", "2")
    result = run("02_test_data.py", *options)
    assert result.status == 0, result.out + result.err
    info = ReprodDiffHelper().load_info(tmp_path / "result" / "data_paddle.npy")
    assert info["length"].tolist() == [10, 3]
    assert info["all_labels"].tolist() == [0] * 5 + [1] * 3


def test_committed_fake_data_is_what_the_recipe_makes():
    images, labels = gen_fake_data()
    for name, array in (("fake_data", images), ("fake_label", labels)):
        committed = np.load(ROOT / "data" / f"{name}.npy")
        assert committed.dtype == array.dtype and np.array_equal(committed, array)
    assert images.dtype == np.float32 and images.shape == (1, 3, 224, 224)
    assert images.min() >= -0.5 and images.max() < 0.5
    assert labels.dtype == np.int64 and labels.tolist() == [0]


def test_a_small_fake_batch_is_the_beginning_of_a_large_one():
    assert np.array_equal(gen_fake_data(4)[0][:1], gen_fake_data(1)[0])
