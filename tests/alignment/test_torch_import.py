"""torch's compiler: imported when something is compiled, and then it works."""

import subprocess
import sys

import pytest
from conftest import ROOT

OPTIMIZERS = """
from alignment import cli
import torch_ref, torch, sys
parameter = torch.nn.Parameter(torch.ones(2))
for optimizer in (torch.optim.SGD, torch.optim.RMSprop, torch.optim.AdamW):
    optimizer = optimizer([parameter], lr=0.5)
    parameter.grad = torch.ones(2)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.zero_grad()
assert parameter[0] < 1 and "torch._dynamo.eval_frame" not in sys.modules
"""


def python(code):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    "use",
    [
        "assert torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)) == 2",
        "import torch._dynamo.config as config; assert config.verbose is False",
        "from torch._dynamo import disable; assert disable(len)('ab') == 2",
        "f = lambda: 1; assert torch._dynamo.disable(f) is not f",
        "import inspect; inspect.getmodule(optimizer.step); torch._dynamo.config",
    ],
)
def test_the_compiler_waits_until_it_is_wanted(use):
    after = "assert torch._dynamo.eval_frame and torch._dynamo is sys.modules['torch._dynamo']\n"
    after += "parameter.grad = torch.ones(2); optimizer.step()"
    result = python(f"{OPTIMIZERS}\n{use}\n{after}")
    assert result.returncode == 0, result.stderr
