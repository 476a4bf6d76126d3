"""An older commit, to be measured beside the files as they are."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

__all__ = ["ROOT", "check_out"]

ROOT = Path(__file__).resolve().parent.parent


def check_out(ref, folder):
    """The files of a commit, in `folder`; ends with status 2 if there is no such commit."""
    done = subprocess.run(["git", "-C", ROOT, "archive", ref], capture_output=True)
    if done.returncode:
        print(f"error: --against {ref}: {done.stderr.decode().strip()}", file=sys.stderr)
        sys.exit(2)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return Path(folder)
