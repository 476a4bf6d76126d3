"""What no tool can know: the reference's qkv is the port's q, k and v, one behind the other."""

from alignment import Rule

RULES = [
    Rule.split(f"block.attn.qkv.{name}", [f"block.attn.{part}.{name}" for part in "qkv"])
    for name in ("weight", "bias")
]
