"""SpeechNet of reference.py, written by hand in PaddlePaddle."""

import paddle.nn.functional as F
from paddle import nn


class Attention(nn.Layer):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        batch, frames, width = x.shape
        q, k, v = (
            layer(x).reshape([batch, frames, self.heads, -1]).transpose([0, 2, 1, 3])
            for layer in (self.q, self.k, self.v)
        )
        scores = q @ k.transpose([0, 1, 3, 2]) / (width // self.heads) ** 0.5
        x = F.softmax(scores, -1) @ v
        return self.proj(x.transpose([0, 2, 1, 3]).reshape([batch, frames, width]))


class Block(nn.Layer):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, epsilon=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, epsilon=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Dropout(0.1),
            nn.Linear(2 * width, width),
        )

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SpeechNet(nn.Layer):
    """(batch, 40 mel bands, frames) -> logits (batch, 10)."""

    def __init__(self, bands=40, width=64, heads=4, classes=10):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1D(bands, width, 5, padding=2, bias_attr=False),
            nn.BatchNorm1D(width, momentum=0.9),
            nn.ReLU(),
            nn.Conv1D(width, width, 3, stride=2, padding=1, bias_attr=False),
            nn.BatchNorm1D(width, momentum=0.9),
            nn.ReLU(),
        )
        self.block = Block(width, heads)
        self.head = nn.Linear(width, classes)

    def forward(self, spectrogram):
        x = self.stem(spectrogram).transpose([0, 2, 1])
        return self.head(self.block(x).mean(1))


def loss(logits, labels):
    return F.cross_entropy(logits, labels)
