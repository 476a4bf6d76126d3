"""A tagger with the plainest recurrent layer, that takes floats and an initial state."""

import torch
from paddle import nn

from . import Broken

INPUTS = {"x": "float32[4,9,6]", "state": "float32[2,4,10]"}


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = torch.nn.RNN(6, 10, num_layers=2, nonlinearity="relu", batch_first=True)
        self.tag = torch.nn.Linear(10, 5)

    def forward(self, x, state):
        x, state = self.rnn(x, state)
        return self.tag(x), state


class Port(nn.Layer):
    def __init__(self, activation="relu", bias_ih_attr=None):
        super().__init__()
        self.rnn = nn.SimpleRNN(
            6, 10, num_layers=2, activation=activation, bias_ih_attr=bias_ih_attr
        )
        self.tag = nn.Linear(10, 5)

    def forward(self, x, state):
        x, state = self.rnn(x, state)
        return self.tag(x), state


class StateForgotten(Port):
    def forward(self, x, state):
        x, state = self.rnn(x)
        return self.tag(x), state


class OutputsSwapped(Port):
    def forward(self, x, state):
        x, state = self.rnn(x, state)
        return state, self.tag(x)


class OldState(Port):
    def forward(self, x, state):
        x, _ = self.rnn(x, state)
        return self.tag(x), state


def tanh():
    return Port(activation="tanh")


def one_bias():
    """Paddle keeps the bias as a frozen zero, and then names the parameters of the RNN wrongly."""
    return Port(bias_ih_attr=False)


BROKEN = [
    Broken("tanh", tanh, "rnn", "tanh | relu"),
    Broken("state not given", StateForgotten, "rnn", "rnn"),
    Broken("the old state returned", OldState, ["output[1]", "the model"], "output[1]"),
    Broken("outputs swapped", OutputsSwapped, ["output", "the model"], "(2, 4, 10) | (4, 9, 5)"),
    Broken("one bias only", one_bias, "rnn", ["rnn", "bias"]),
]
