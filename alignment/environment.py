"""What has to be settled before the frameworks are loaded: import it first."""

import importlib.util
import logging
import os
import warnings

from . import screen

screen.set_up()
# reprod_log's lines go to the screen through a logger. Where that is full, a logger prints a
# traceback for each of them; `screen.leave` tells it once.
logging.raiseExceptions = False

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
        screen.leave(
            screen.CANNOT_RUN,
            f"missing package: {', '.join(missing)}. Run: pip install -r requirements.txt",
        )
