"""Which of ten spoken words is it? Convolutions over a mel spectrogram, then attention."""

from torch import nn


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        batch, frames, width = x.shape
        qkv = self.qkv(x).reshape(batch, frames, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / (width // self.heads) ** 0.5
        x = scores.softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(batch, frames, width))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Dropout(0.1),
            nn.Linear(2 * width, width),
        )

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SpeechNet(nn.Module):
    """(batch, 40 mel bands, frames) -> logits (batch, 10)."""

    def __init__(self, bands=40, width=64, heads=4, classes=10):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(bands, width, 5, padding=2, bias=False),
            nn.BatchNorm1d(width, momentum=0.1),
            nn.ReLU(),
            nn.Conv1d(width, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm1d(width, momentum=0.1),
            nn.ReLU(),
        )
        self.block = Block(width, heads)
        self.classifier = nn.Linear(width, classes)

    def forward(self, spectrogram):
        x = self.stem(spectrogram).transpose(1, 2)
        return self.classifier(self.block(x).mean(1))


def loss(logits, labels):
    return nn.functional.cross_entropy(logits, labels)
