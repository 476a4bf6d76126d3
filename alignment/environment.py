"""What has to be settled before the frameworks are loaded: import it first."""

import importlib.util
import os
import sys
import warnings

# Each framework has its own threads, which by default wait in a busy loop: beside other work on the
# machine the steps took five times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Paddle wishes for a compiler cache at import; nothing is compiled here. And it says at every
# training step that batch norm keeps running statistics.
warnings.filterwarnings("ignore", message="No ccache found")
warnings.filterwarnings("ignore", message="When training, we now always track")


def require(*packages):
    """Leaves with exit status 2 and one line, if one of these cannot be imported."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"error: missing package: {', '.join(missing)}. Run: pip install -r requirements.txt",
            file=sys.stderr,
        )
        raise SystemExit(2)
