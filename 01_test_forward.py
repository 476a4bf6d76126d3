"""Step 01, forward: the same weights and the same input give the same logits.

    python 01_test_forward.py
    python 01_test_forward.py --model mobilenet_v3_large

Writes result/forward_paddle.npy, result/forward_torch.npy and result/log/forward_diff.log.
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


def main(args):
    torch_file, paddle_file = prepare(args)
    inputs, _ = load_fake_data(args.data_dir)

    # The port. Eval mode: no dropout, batch norm with its running statistics.
    paddle_model = paddle_mv3.MODELS[args.model]()
    load_paddle(paddle_model, paddle_file)
    paddle_model.eval()
    with paddle.no_grad():
        paddle_out = paddle_model(paddle.to_tensor(inputs))

    # The reference.
    torch_model = torch_ref.MODELS[args.model]()
    load_torch(torch_model, torch_file)
    torch_model.eval().to(args.torch_device)
    with torch.no_grad():
        torch_out = torch_model(torch.from_numpy(inputs).to(args.torch_device))

    # Both sides are recorded under the same key …
    paddle_log, torch_log = ReprodLogger(), ReprodLogger()
    paddle_log.add("logits", paddle_out.numpy())
    torch_log.add("logits", torch_out.cpu().numpy())
    save(paddle_log, args.result_dir / "forward_paddle.npy")
    save(torch_log, args.result_dir / "forward_torch.npy")

    # … and compared.
    diff_helper = DiffHelper()
    torch_info = diff_helper.load_info(args.result_dir / "forward_torch.npy")
    paddle_info = diff_helper.load_info(args.result_dir / "forward_paddle.npy")
    diff_helper.compare_info(torch_info, paddle_info)
    return diff_helper.report(
        path=args.result_dir / "log" / "forward_diff.log",
        diff_threshold=thresholds.LOGITS,
        hint="the model (activations, padding, stride, residuals, batch norm epsilon), "
        "then the weights (torch2paddle.py converts them again and shows what became what)",
    )


if __name__ == "__main__":
    cli.run(main, cli.parser(__doc__))
