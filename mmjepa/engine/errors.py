"""Errors whose messages say what to do, as one line on a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mmjepa
from mmjepa.datasets.bad_sample import BadSampleError

from .checkpoint import CheckpointError
from .config import ConfigError
from .hooks.loss_guard import NonFiniteLossError

# their messages say what to do; a traceback would only hide that
USER_ERRORS = (
    BadSampleError,
    CheckpointError,
    ConfigError,
    FileNotFoundError,
    NonFiniteLossError,
    PermissionError,
)
# these, too, if it was this package that raised them: elsewhere they mean a defect
_OWN_ERRORS = (ImportError, ValueError)
_PACKAGE = Path(mmjepa.__file__).parent


@contextmanager
def one_line_errors(instead_of_skip: str | None = None) -> Iterator[None]:
    """Ends the process with ``error: ...`` and exit code 1 instead of a traceback.

    Args:
        instead_of_skip: what to advise where a message advises ``on_error='skip'``, of commands
            that read every file they are given.

    Raises:
        SystemExit: in place of an error that carries its own remedy; others pass.
    """
    try:
        yield
    except USER_ERRORS as error:
        raise SystemExit(f'error: {_message(error, instead_of_skip)}') from None
    except _OWN_ERRORS as error:
        if not _raised_here(error):
            raise
        raise SystemExit(f'error: {_message(error, instead_of_skip)}') from None


def _message(error: Exception, instead_of_skip: str | None) -> str:
    text = str(error)
    if text.startswith('Caught '):  # a data worker's error, with the worker's traceback
        text = text.rstrip().splitlines()[-1].partition(': ')[2]
    return text.replace("set on_error='skip'", instead_of_skip) if instead_of_skip else text


def _raised_here(error: Exception) -> bool:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and _PACKAGE in Path(frame.tb_frame.f_code.co_filename).parents
