"""Exponential moving average of a model's weights."""

import copy

import paddle

__all__ = ["ExponentialMovingAverage", "adjusted_decay"]


def adjusted_decay(decay, batch_size, world_size, steps, epochs):
    """The decay of one update, so that the average reaches as far back in epochs whatever the rest.

    1 - min(1, (1 - decay) * world_size * batch_size * steps / epochs), as torchvision's
    references/classification/train.py (--model-ema-decay, --model-ema-steps).

    Args:
        decay: as for a batch of as many images as there are epochs, updated at every step.
        batch_size: images of one rank in one iteration.
        steps: iterations from one update to the next.
    """
    return 1.0 - min(1.0, (1.0 - decay) * world_size * batch_size * steps / epochs)


class ExponentialMovingAverage:
    """`module`, a copy of `model` whose every tensor is decay * average + (1 - decay) * model's.

    Running statistics are averaged as well. The first update, and each while `n_averaged` is 0,
    copies: torchvision sets it to 0 again during warm-up.
    torch.optim.swa_utils.AveragedModel with use_buffers, as in torchvision's references.

    Args:
        model: a Layer; of one in 16 bits the average is kept in float32.
        decay: in [0, 1]; see `adjusted_decay`.
    """

    def __init__(self, model, decay):
        if not 0 <= decay <= 1:
            raise ValueError(f"decay is {decay}: give a number in [0, 1]")
        self.decay = decay
        self.n_averaged = 0
        self.module = copy.deepcopy(model)
        if any(t.dtype in (paddle.float16, paddle.bfloat16) for t in self.module.parameters()):
            # In 16 bits, what an update adds would be rounded away.
            self.module.to(dtype="float32")
        self.module.eval()

    @paddle.no_grad()
    def update(self, model):
        """Takes in the weights and statistics that `model` has now."""
        source = model.state_dict()
        for name, average in self.module.state_dict().items():
            if self.n_averaged == 0 or not paddle.is_floating_point(average):
                average.copy_(source[name].astype(average.dtype), True)
            else:
                average.scale_(self.decay)
                average.add_(source[name].astype(average.dtype) * (1.0 - self.decay))
        self.n_averaged += 1

    def state_dict(self):
        return {"n_averaged": self.n_averaged, "module": self.module.state_dict()}

    def set_state_dict(self, state):
        self.n_averaged = state["n_averaged"]
        self.module.set_state_dict(state["module"])
