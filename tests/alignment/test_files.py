"""Archives, downloads, live weights, labels."""

import hashlib
import http.server
import io
import os
import tarfile
import threading

import numpy as np
import pytest
import torch
from conftest import ROOT

import torch_ref
from alignment.files import CannotRun, unpack, whole_file
from alignment.stages.fake import draw_labels
from alignment.weights import make_alive

WEIGHTS = "mobilenet_v3_small-047dcff4.pth"


def archive(path, entries):
    with tarfile.open(path, "w") as tar:
        for name, kind, target in entries:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            info.size = 4 if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(b"data"))


FILE, SYMLINK, LINK, DEVICE = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE


@pytest.mark.parametrize(
    "entry",
    [
        ("../evil", FILE, ""),
        ("lite_data/../../evil", FILE, ""),
        ("lite_data/link", SYMLINK, "/etc/passwd"),
        ("lite_data/link", SYMLINK, "../../evil"),
        ("lite_data/link", LINK, "../../evil"),
        ("lite_data/device", DEVICE, ""),
    ],
    ids=str,
)
def test_hostile_archive_leaves_nothing(entry, tmp_path):
    archive(tmp_path / "x.tar", [("lite_data/a", FILE, ""), entry])
    (tmp_path / "in").mkdir()
    with pytest.raises(CannotRun, match=r"cannot unpack .*x\.tar"):
        unpack(tmp_path / "x.tar", tmp_path / "in" / "lite_data")
    assert os.listdir(tmp_path / "in") == []
    assert sorted(os.listdir(tmp_path)) == ["in", "x.tar"]


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "other folder"])
def test_damaged_archive_leaves_nothing(damage, tmp_path):
    path = tmp_path / "x.tar"
    if damage == "other folder":
        archive(path, [("/abs/a", FILE, "")])
    else:
        whole = (ROOT / "lite_data.tar").read_bytes()
        path.write_bytes({"cut": whole[:1_000_000], "noise": whole[1000:], "empty": b""}[damage])
    with pytest.raises(CannotRun, match=r"cannot unpack .*x\.tar"):
        unpack(path, tmp_path / "lite_data")
    assert os.listdir(tmp_path) == ["x.tar"]


def test_unpacking_twice_at_once(tmp_path):
    threads = [
        threading.Thread(target=unpack, args=(ROOT / "lite_data.tar", tmp_path / "lite_data"))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.listdir(tmp_path) == ["lite_data"]


def test_lite_data_holds_what_it_promises():
    assert (ROOT / "lite_data.tar").stat().st_size < 6e6
    with tarfile.open(ROOT / "lite_data.tar") as tar:
        names = tar.getnames()
        attribution = tar.extractfile("lite_data/ATTRIBUTION.txt").read().decode()
    for split in ("train", "val"):
        classes = {}
        for name in names:
            if name.startswith(f"lite_data/{split}/"):
                classes.setdefault(name.split("/")[2], []).append(name)
        assert len(classes) >= 8 and min(map(len, classes.values())) >= 16
        assert all(name in attribution for name in classes)
        first = sorted(classes[min(classes)])[:20]
        for kind in ("cmyk", "exif", "grey", "panorama", "png", "tiny"):
            assert any(kind in name for name in first), (split, kind)


def test_whole_file_keeps_the_old_one_when_writing_fails(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(CannotRun, match="cannot write"), whole_file(path) as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x"]
    with whole_file(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["x"]


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A file server on this machine; torch_ref's addresses point to it."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_pretrained_weights_are_downloaded_once(server, run, tmp_path, data_dir, monkeypatch):
    folder, address = server
    content = (data_dir / WEIGHTS).read_bytes()
    name = f"model-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (folder / name).write_bytes(content)
    monkeypatch.setitem(torch_ref.WEIGHTS, "mobilenet_v3_small", f"{address}/{name}")
    options = ("--pretrained", "--data-dir", tmp_path / "data")
    first = run("01_test_forward.py", *options)
    assert first.status == 0, first.err
    assert "downloading" in first.out
    assert (tmp_path / "data" / "pretrained" / name).read_bytes() == content
    assert not (tmp_path / "data" / WEIGHTS).exists()
    (folder / name).unlink()
    second = run("01_test_forward.py", *options)
    assert second.status == 0 and "downloading" not in second.out


@pytest.mark.parametrize("fault", ["wrong hash", "not found", "no server"])
def test_download_that_fails_leaves_nothing(fault, server, run, tmp_path, monkeypatch):
    folder, address = server
    if fault == "wrong hash":
        (folder / "model-00000000.pth").write_bytes(b"something else")
    if fault == "no server":
        address = "http://127.0.0.1:1"
    url = f"{address}/model-00000000.pth"
    monkeypatch.setitem(torch_ref.WEIGHTS, "mobilenet_v3_small", url)
    result = run("01_test_forward.py", "--pretrained", "--data-dir", tmp_path / "data")
    assert result.status == 2 and "Traceback" not in result.err
    assert f"cannot download {url}" in result.err.splitlines()[-1]
    assert not list((tmp_path / "data").rglob("*.pth"))
    assert not list((tmp_path / "data").rglob(".*"))


def test_real_addresses_carry_the_hash_that_is_checked():
    for model, url in torch_ref.WEIGHTS.items():
        assert url.startswith(f"https://download.pytorch.org/models/{model}-")
    assert torch_ref.WEIGHTS["mobilenet_v3_small"].endswith(WEIGHTS)


@pytest.mark.parametrize("name", list(torch_ref.MODELS))
def test_in_live_weights_every_parameter_and_statistic_matters(name):
    """Moving any one tensor by a tenth moves the logits by 30 times what a step lets pass."""
    from alignment import thresholds

    model = make_alive(torch_ref.MODELS[name]())
    images = torch.from_numpy(np.random.RandomState(0).rand(1, 3, 224, 224).astype("float32"))
    generator = torch.Generator().manual_seed(1)
    layers = [*model.features, torch.nn.Sequential(model.avgpool, torch.nn.Flatten())]
    layers.append(model.classifier)
    with torch.no_grad():
        inputs = [images - 0.5]  # of each of the layers: those before a change stay
        for layer in layers:
            inputs.append(layer(inputs[-1]))
        logits = model(images - 0.5)
        assert torch.equal(inputs[-1], logits)
        assert 0.1 < logits.abs().mean() < 2
        for key, tensor in model.state_dict().items():
            if key.endswith("num_batches_tracked"):
                continue
            before = tensor.clone()
            assert before.std() > 0, key
            tensor.mul_(torch.empty_like(tensor).uniform_(0.9, 1.1, generator=generator))
            place = key.split(".")
            begin = int(place[1]) if place[0] == "features" else len(layers) - 1
            output = inputs[begin]
            for layer in layers[begin:]:
                output = layer(output)
            moved = (output - logits).abs().mean()
            tensor.copy_(before)
            assert moved > 30 * thresholds.LOGITS, key


def test_live_weights_come_from_their_seed():
    first, again, other = (
        make_alive(torch_ref.mobilenet_v3_small(), seed=seed).state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    different = [name for name in first if not torch.equal(first[name], other[name])]
    assert len(different) == sum(not name.endswith("tracked") for name in first)


def test_drawn_labels_make_accuracies_that_can_differ():
    logits = np.random.default_rng(0).standard_normal((134, 1000))
    ranks = (logits > np.take_along_axis(logits, draw_labels(logits)[:, None], 1)).sum(axis=1)
    assert set(ranks) <= {0, 2, 4, 5}
    for rank, share in ((0, 0.4), (4, 0.3), (5, 0.3)):
        assert abs((ranks == rank).mean() - share) < 0.15
