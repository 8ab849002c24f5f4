"""Small files, whole or not at all; errors of the plan."""

import json
import os
from pathlib import Path
from typing import Any


class PlanError(ValueError):
    """The plan cannot be carried out; the message says why and the remedy."""


def write_text(path: Path, text: str) -> None:
    """Writes beside ``path``, then renames: nobody sees a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.tmp{os.getpid()}.{path.name}')
    try:
        temporary.write_text(text, encoding='utf-8')
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Like :func:`write_text`, as JSON."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + '\n')


def read_json(path: Path) -> Any:
    """Content of a JSON file, None where there is none.

    Raises:
        PlanError: it is no JSON.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except json.JSONDecodeError as error:
        raise PlanError(f'{path} is damaged ({error}); remove it and start again') from None
