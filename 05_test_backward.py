"""Step 05, backward: the same loss gives the same gradients, and so the same losses to come.

    python 05_test_backward.py

Three iterations of training. Writes result/losses_paddle.npy, result/losses_ref.npy and
result/log/backward_diff.log.
"""

from alignment import cli  # isort: skip  (first: it says which package is missing)

import numpy as np
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

BATCH_SIZE, MAX_ITER = 4, 3
LR, MOMENTUM, GAMMA = 1e-3, 0.9, 0.5  # the learning rate is halved after every iteration


def paddle_sgd(model):
    scheduler = paddle.optimizer.lr.StepDecay(LR, step_size=1, gamma=GAMMA)
    optimizer = paddle.optimizer.Momentum(scheduler, MOMENTUM, parameters=model.parameters())
    return model, paddle.nn.CrossEntropyLoss(), optimizer, scheduler


def torch_sgd(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=GAMMA)
    return model, torch.nn.CrossEntropyLoss(), optimizer, scheduler


def train_paddle(inputs, labels, model, criterion, optimizer, scheduler):
    log = ReprodLogger()
    model.train()
    for idx in range(MAX_ITER):
        loss = criterion(model(inputs), labels)
        log.add(f"loss_{idx}", loss.numpy())
        log.add(f"lr_{idx}", np.array([optimizer.get_lr()]))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        scheduler.step()
    return log


def train_torch(inputs, labels, model, criterion, optimizer, scheduler):
    log = ReprodLogger()
    model.train()
    for idx in range(MAX_ITER):
        loss = criterion(model(inputs), labels)
        log.add(f"loss_{idx}", loss.detach().cpu().numpy())
        log.add(f"lr_{idx}", np.array([optimizer.param_groups[0]["lr"]]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return log


def main(args):
    torch_file, paddle_file = prepare(args)
    inputs, labels = load_fake_data(args.data_dir, BATCH_SIZE)

    # Without dropout: each framework would draw its own mask.
    model = paddle_mv3.MODELS[args.model](dropout=0.0)
    load_paddle(model, paddle_file)
    batch = paddle.to_tensor(inputs), paddle.to_tensor(labels)
    paddle_log = train_paddle(*batch, *paddle_sgd(model))

    model = torch_ref.MODELS[args.model](dropout=0.0)
    load_torch(model, torch_file)
    model.to(args.torch_device)
    batch = (torch.from_numpy(array).to(args.torch_device) for array in (inputs, labels))
    torch_log = train_torch(*batch, *torch_sgd(model))

    save(paddle_log, args.result_dir / "losses_paddle.npy")
    save(torch_log, args.result_dir / "losses_ref.npy")

    diff_helper = DiffHelper()
    torch_info = diff_helper.load_info(args.result_dir / "losses_ref.npy")
    paddle_info = diff_helper.load_info(args.result_dir / "losses_paddle.npy")
    diff_helper.compare_info(torch_info, paddle_info)
    return diff_helper.report(
        path=args.result_dir / "log" / "backward_diff.log",
        diff_threshold={"loss_*": thresholds.TRAIN_LOSS, "lr_*": thresholds.LEARNING_RATE},
        hint="loss_0: steps 01 and 04, then train mode (batch norm). loss_1: gradients, the "
        "optimizer. loss_2: momentum. lr_*: the schedule, and when it is stepped",
    )


if __name__ == "__main__":
    cli.run(main, cli.parser(__doc__))
