"""What a file was made from: noted beside it, by hashes, so that an edit of a source is seen.

Times will not do: a checkout, a copy or an archive sets them as it likes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .files import CannotRun, missing, read_json, require_file, whole_file

CURRENT, STALE, UNKNOWN = "current", "stale", "unknown"


def sha256_of(path: str | os.PathLike) -> str:
    """Hexadecimal. Raises: CannotRun, if `path` is no file that can be read."""
    require_file(path)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def note_origin(path: Path, made: Path, sources: Sequence[Path], made_for: Any) -> None:
    """Writes `path` with the suffix .json: hashes of the file, of its sources, of `made_for`.

    To be called before `made` becomes `path`. The note on what lies there until then is kept too:
    a `kill -9` between the two leaves nothing whose origin is not known.

    Args:
        made: path of the file that will be moved to `path`.
        sources: paths of the files that it was made from or by.
        made_for: what else it depends on; anything that JSON can hold.
    """
    before = None if missing(path) else sha256_of(path)
    kept = [entry for entry in _noted(path) if entry["file"] == before]
    entries = [_origin(made, sources, made_for), *kept[:1]]
    with whole_file(_note_of(path)) as temporary:
        temporary.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def origin_of(path: Path, sources: Sequence[Path], made_for: Any) -> str:
    """CURRENT if `path` would be made the same again, STALE if it is missing or would not.

    UNKNOWN if it is there and is not what `note_origin` was called for: somebody else's.
    """
    if missing(path):
        return STALE
    now = _origin(path, sources, made_for)
    for noted in _noted(path):
        if noted["file"] == now["file"]:
            return CURRENT if noted == now else STALE
    return UNKNOWN


def _noted(path: Path) -> list[dict[str, Any]]:
    """The notes beside `path`, the newest first; [] where there are none that can be read."""
    try:
        entries = read_json(_note_of(path))
    except CannotRun:
        return []
    entries = entries if isinstance(entries, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and "file" in entry]


def _origin(path: Path, sources: Sequence[Path], made_for: Any) -> dict[str, Any]:
    text = json.dumps(made_for, sort_keys=True)
    return {
        "file": sha256_of(path),
        "made from": {source.name: sha256_of(source) for source in sources},
        "made for": hashlib.sha256(text.encode()).hexdigest(),
    }


def _note_of(path: Path) -> Path:
    return path.with_suffix(".json")
