"""The pair that is compared: the one file to edit for a model of your own.

The engine, alignment/, imports nothing that is named here: the scripts hand it over.
"""

import paddle_mv3
import torch_ref
from alignment.training.pair import TrainingPair
from paddle_mv3.data.sampler import BATCH, IMAGE, generator

# Two packages, each with MODELS, {name: function that builds the network}. What else is read of
# them is said in alignment/training/pair.py.
port = paddle_mv3  # in PaddlePaddle
reference = torch_ref  # in PyTorch


def draw_image(dataset, seed, draw, size):
    """What the port's transform draws for one use of an image of a size, (width, height)."""
    return dataset.transform.draw(*size, generator(seed, draw, IMAGE))


def draw_batch(mix, seed, first, shape):
    """What the port's mixing draws for the batch that begins with the draw `first`."""
    return mix.draw(shape, generator(seed, first, BATCH))


def training():
    """All that Checkpoint6/align_training.py needs: both trainers too.

    They are imported here, as who compares no trainings has no use for VisualDL and the like. It
    takes Paddle's signal handlers away: to be called before there are others.
    """
    from Checkpoint6 import data, distributed, train
    from torch_ref import train as reference_train

    return TrainingPair(
        port=port,
        reference=reference,
        port_trainer=train,
        reference_trainer=reference_train,
        port_data=data,
        distributed=distributed,
        draw_image=draw_image,
        draw_batch=draw_batch,
    )
