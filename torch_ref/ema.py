"""torchvision's moving average of the weights: AveragedModel, buffers included."""

import torch

__all__ = ["ExponentialMovingAverage", "adjusted_decay"]


class ExponentialMovingAverage(torch.optim.swa_utils.AveragedModel):
    """`update_parameters(model)` takes in the model's weights; `module` is the average."""

    def __init__(self, model, decay):
        def average(old, new, count):
            return decay * old + (1 - decay) * new

        super().__init__(model, avg_fn=average, use_buffers=True)


def adjusted_decay(decay, batch_size, world_size, steps, epochs):
    """The decay of one update, as train.py of torchvision's references works it out."""
    share_of_new = (1.0 - decay) * (world_size * batch_size * steps / epochs)
    return 1.0 - min(1.0, share_of_new)
