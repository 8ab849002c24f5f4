"""Work that may hang, in a thread that is left behind then."""

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeVar

from ..bad_sample import BadSampleError

Result = TypeVar('Result')


def within(seconds: float | None, work: Callable[[], Result], path: str) -> Result:
    """What ``work`` returns, or raises, if it does so in time.

    Nothing can stop a thread inside a decoder: it stays, with what memory it holds, until the
    process ends, which does not wait for it.

    Args:
        seconds: None waits for ever, without a thread.
        work: must not hold Python's interpreter lock while it hangs; decoders don't.
        path: of the file, for the error.

    Raises:
        BadSampleError: the time is over.
    """
    if seconds is None:
        return work()
    answers: SimpleQueue[tuple[Result | None, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            answers.put((work(), None))
        except BaseException as error:
            answers.put((None, error))

    Thread(target=run, daemon=True, name=f'decoding {path}').start()
    try:
        result, error = answers.get(timeout=seconds)
    except Empty:
        raise BadSampleError(
            path,
            f'no frames after {seconds:g} s, its decoder is left behind',
            "Convert it, set on_error='skip', or raise timeout if the machine is slow",
        ) from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # None only where work returns it
