"""Step 04, loss: the same logits and the same labels give the same loss.

    python 04_test_loss.py

Writes result/loss_paddle.npy, result/loss_ref.npy and result/log/loss_diff.log.
"""

from alignment import cli  # isort: skip  (first: it says which package is missing)

import paddle
import torch
from reprod_log import ReprodLogger

import paddle_mv3
import torch_ref
from alignment import thresholds
from alignment.diff import DiffHelper, save
from alignment.fake import load_fake_data
from alignment.weights import load_paddle, load_torch
from torch2paddle import prepare

BATCH_SIZE = 4  # of one image, the sum of the losses is their mean


def main(args):
    torch_file, paddle_file = prepare(args)
    inputs, labels = load_fake_data(args.data_dir, BATCH_SIZE)
    criterion_paddle = paddle.nn.CrossEntropyLoss()
    criterion_torch = torch.nn.CrossEntropyLoss()

    paddle_model = paddle_mv3.MODELS[args.model]()
    load_paddle(paddle_model, paddle_file)
    paddle_model.eval()
    with paddle.no_grad():
        paddle_out = paddle_model(paddle.to_tensor(inputs))
        loss_paddle = criterion_paddle(paddle_out, paddle.to_tensor(labels))

    torch_model = torch_ref.MODELS[args.model]()
    load_torch(torch_model, torch_file)
    torch_model.eval().to(args.torch_device)
    with torch.no_grad():
        torch_out = torch_model(torch.from_numpy(inputs).to(args.torch_device))
        loss_torch = criterion_torch(torch_out, torch.from_numpy(labels).to(args.torch_device))

    paddle_log, torch_log = ReprodLogger(), ReprodLogger()
    paddle_log.add("loss", loss_paddle.numpy())
    torch_log.add("loss", loss_torch.cpu().numpy())
    save(paddle_log, args.result_dir / "loss_paddle.npy")
    save(torch_log, args.result_dir / "loss_ref.npy")

    diff_helper = DiffHelper()
    torch_info = diff_helper.load_info(args.result_dir / "loss_ref.npy")
    paddle_info = diff_helper.load_info(args.result_dir / "loss_paddle.npy")
    diff_helper.compare_info(torch_info, paddle_info)
    return diff_helper.report(
        path=args.result_dir / "log" / "loss_diff.log",
        diff_threshold=thresholds.LOSS,
        hint="step 01 first; then the loss: mean or sum, label smoothing, softmax applied twice, "
        "class weights, ignored labels",
    )


if __name__ == "__main__":
    cli.run(main, cli.parser(__doc__))
