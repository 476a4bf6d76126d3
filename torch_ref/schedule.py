"""PyTorch's learning-rate schedulers, put together as torchvision's references do."""

from torch.optim import lr_scheduler as schedulers

__all__ = ["create_lr_scheduler"]


def create_lr_scheduler(
    optimizer,
    lr_scheduler="steplr",
    epochs=90,
    lr_warmup_epochs=0,
    lr_warmup_method="constant",
    lr_warmup_decay=0.01,
    lr_step_size=30,
    lr_gamma=0.1,
    lr_min=0.0,
):
    """A scheduler that is stepped once an epoch. Arguments: paddle_mv3.WarmupSchedule."""
    if lr_scheduler == "steplr":
        main = schedulers.StepLR(optimizer, step_size=lr_step_size, gamma=lr_gamma)
    elif lr_scheduler == "cosineannealinglr":
        main = schedulers.CosineAnnealingLR(
            optimizer, T_max=epochs - lr_warmup_epochs, eta_min=lr_min
        )
    elif lr_scheduler == "exponentiallr":
        main = schedulers.ExponentialLR(optimizer, gamma=lr_gamma)
    else:
        raise ValueError(f"no learning-rate scheduler {lr_scheduler!r}")
    if not lr_warmup_epochs:
        return main
    if lr_warmup_method == "linear":
        warmup = schedulers.LinearLR(
            optimizer, start_factor=lr_warmup_decay, total_iters=lr_warmup_epochs
        )
    elif lr_warmup_method == "constant":
        warmup = schedulers.ConstantLR(
            optimizer, factor=lr_warmup_decay, total_iters=lr_warmup_epochs
        )
    else:
        raise ValueError(f"no warm-up method {lr_warmup_method!r}")
    return schedulers.SequentialLR(optimizer, [warmup, main], milestones=[lr_warmup_epochs])
