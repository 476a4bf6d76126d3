import subprocess
import sys

import pytest
from conftest import ROOT

SCRIPT = ROOT / "benchmarks" / "accelerators.py"


@pytest.mark.slow
def test_what_is_right_wrong_and_failing_is_told_apart():
    """Two processes train to the same bits; Paddle's batch norm is not the port's."""
    command = [sys.executable, str(SCRIPT), "--size", "32", "--batch-size", "4", "--rounds", "1"]
    command += ["--only", "plain again", "paddle.nn.BatchNorm2D", "AdamW.step"]
    out = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout
    lines = {line[:48].strip(): line for line in out.splitlines()}
    assert lines["one rounding"].endswith("rounding")
    assert lines["plain again"].endswith("bit for bit")
    assert lines["paddle.nn.BatchNorm2D"].endswith("DIFFERENT")
    failed = lines["AdamW.step, use_multi_tensor"]
    assert "failed: TypeError: AdamW.__init__() got an unexpected keyword argument" in failed
