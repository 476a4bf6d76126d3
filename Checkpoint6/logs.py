"""What a training tells: lines, the same as JSON, VisualDL's scalars, a bar on a terminal."""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm
from visualdl import LogWriter

from alignment.files import reason_of, shown, whole_file
from alignment.screen import printable, tell

__all__ = ["Log"]


class Log:
    """Of rank 0; on other ranks all calls do nothing.

    Writes into `folder`: train.log (the lines), train.jsonl (one JSON object for each) and vdl/
    (`visualdl --logdir`). What cannot be written, as on a full disk, is said once and left out: a
    training does not end for want of its log.

    Args:
        rank: of this process.
    """

    def __init__(self, rank: int = 0) -> None:
        self.rank = rank
        self.bar = None
        self.folder = Path()  # of `open`
        self.files: dict[str, IO[str]] = {}
        self.scalars: LogWriter = None
        self.complained = False

    def open(self, folder: Path, step: int | None = None) -> None:
        """Begins to write into `folder`.

        Args:
            step: of a resumed training, the number of steps it has taken: what train.jsonl has of
                later ones, which are about to be taken again, is removed. None: a new training.
        """
        if self.rank == 0:
            self.folder = Path(folder)
            self._attempt(self._open, step)

    def _open(self, step: int | None) -> None:
        records = self.folder / "train.jsonl"
        kept = []
        if step is not None and records.exists():
            kept = [
                line
                for line in records.read_text(encoding="utf-8").splitlines(True)
                if _before(line, step)
            ]
            with whole_file(records) as temporary:
                temporary.write_text("".join(kept), encoding="utf-8")
        mode = "w" if step is None else "a"
        self.files = {
            name: open(self.folder / name, mode, buffering=1, encoding="utf-8")  # noqa: SIM115
            for name in ("train.log", "train.jsonl")
        }
        # VisualDL reads one file of a folder: it is made anew from what is kept.
        shutil.rmtree(self.folder / "vdl", ignore_errors=True)
        self.scalars = LogWriter(logdir=str(self.folder / "vdl"))
        for line in kept:
            self._draw(json.loads(line))

    def _draw(self, entry: Mapping[str, Any]) -> None:
        for name, value in entry.items():
            if isinstance(value, float) and name != "time":
                self.scalars.add_scalar(f"{entry['kind']}/{name}", value, entry["step"])

    def _attempt(self, action: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        try:
            action(*args, **kwargs)
        except Exception as error:
            if not self.complained:
                self.complained = True
                tell(f"cannot write the log in {shown(self.folder)}: {reason_of(error)}", "")

    def say(self, text: str) -> None:
        """A line with the time before it."""
        if self.rank:
            return
        line = f"[{datetime.datetime.now():%Y/%m/%d %H:%M:%S}] {printable(text)}"
        with contextlib.suppress(OSError):  # the disk under it may be full
            if self.bar is not None:
                tqdm.write(line)
            else:
                print(line, flush=True)
        if self.files:
            self._attempt(self.files["train.log"].write, line + "\n")

    def note(self, text: str) -> None:
        """A line for the log alone."""
        if self.files:
            line = f"[{datetime.datetime.now():%Y/%m/%d %H:%M:%S}] {printable(text)}\n"
            self._attempt(self.files["train.log"].write, line)

    def warn(self, text: str) -> None:
        """A line that no rank keeps to itself."""
        self.say(text)
        if self.rank:
            tell(text, f"rank {self.rank}: ")

    def record(self, kind: str, text: str, step: int, values: Mapping[str, float]) -> None:
        """A line, its values as a JSON object, and as VisualDL's scalars `kind/name`.

        Args:
            kind: "train" or "val".
            step: how many updates the weights have had.
            values: {name: number}
        """
        self.say(text)
        if not self.files:
            return
        entry = {"time": round(time.time(), 3), "kind": kind, "step": step, **values}
        self._attempt(self.files["train.jsonl"].write, json.dumps(entry) + "\n")
        self._attempt(self._draw, entry)

    def progress(self, total: int, start: int, text: str) -> None:
        """Begins a bar of `total` iterations, on a terminal; call `advance` after each."""
        if self.rank == 0 and sys.stdout.isatty():
            self.bar = tqdm(total=total, initial=start, desc=text, leave=False, unit="it")

    def advance(self) -> None:
        if self.bar is not None:
            self.bar.update()

    def end_progress(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def close(self) -> None:
        self.end_progress()
        for file in self.files.values():
            self._attempt(file.close)
        if self.scalars is not None:
            self._attempt(self.scalars.close)


def _before(line: str, step: int) -> bool:
    """Whether a line of train.jsonl is not to come again: not if it was cut short, either."""
    try:
        entry = json.loads(line)
        return entry["step"] < step or (entry["step"] == step and entry["kind"] == "train")
    except (ValueError, KeyError, TypeError):
        return False
