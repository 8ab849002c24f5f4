"""Log lines from data workers, each said once."""

import logging

from mmengine.logging import print_log
from torch.utils.data import get_worker_info

_said: set[str] = set()


def log_once(message: str, key: str | None = None, level: int = logging.INFO) -> None:
    """Logs a message the first time its key comes by, from the first worker only.

    Args:
        message: the line.
        key: what makes it the same message; default: the message.
        level: of :mod:`logging`.
    """
    worker = get_worker_info()
    if (worker is None or worker.id == 0) and (key or message) not in _said:
        _said.add(key or message)
        print_log(message, logger='current', level=level)
