"""One line on the terminal where the message says what to do, a traceback where it doesn't."""

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from mmjepa.datasets import BadSampleError, PointSweepDataset
from mmjepa.engine.checkpoint import CheckpointError
from mmjepa.engine.config import ConfigError
from mmjepa.engine.errors import one_line_errors
from mmjepa.engine.hooks.loss_guard import NonFiniteLossError


@pytest.mark.parametrize(
    'error',
    [
        BadSampleError('a.bin', 'is empty', 'Fetch it again'),
        CheckpointError('a.pth is damaged'),
        ConfigError('no variable'),
        FileNotFoundError('no such file'),
        NonFiniteLossError('loss nan'),
        PermissionError('not readable'),
    ],
    ids=lambda error: type(error).__name__,
)
def test_user_errors_become_one_line(error):
    with pytest.raises(SystemExit) as caught, one_line_errors():
        raise error
    assert caught.value.code == f'error: {error}'  # a text: exit code 1, printed on stderr
    assert caught.value.__suppress_context__


def test_commands_that_cannot_skip_advise_something_else():
    error = BadSampleError('a.jpg', 'is empty', "Fetch it again, or set on_error='skip'")
    with pytest.raises(SystemExit) as caught, one_line_errors('give another file'):
        raise error
    assert caught.value.code == 'error: a.jpg: is empty. Fetch it again, or give another file'


def test_value_errors_only_of_this_package(tmp_path):
    with pytest.raises(SystemExit, match='error: load_dim must be at least 3'), one_line_errors():
        PointSweepDataset(tmp_path, load_dim=2)
    with pytest.raises(ValueError, match='cannot reshape'), one_line_errors():
        np.zeros(3).reshape(2)


class Bad(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise BadSampleError('a.bin', 'is empty', 'Fetch it again')


def test_no_traceback_of_a_data_worker():
    iterator = iter(DataLoader(Bad(), num_workers=1, multiprocessing_context='fork'))
    with pytest.raises(SystemExit) as caught, one_line_errors():
        next(iterator)
    iterator._shutdown_workers()  # left to the garbage collector it takes 5 s
    assert caught.value.code == 'error: a.bin: is empty. Fetch it again'
