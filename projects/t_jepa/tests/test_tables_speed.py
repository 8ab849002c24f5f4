"""tools/speed.py: ratios and parts of a step; options as in training."""

import importlib.util

import pytest


@pytest.fixture
def speed(repo):
    path = repo / 'projects/t_jepa/tools/speed.py'
    spec = importlib.util.spec_from_file_location('t_jepa_speed', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ratios_and_steps(speed, capsys):
    options = ['--options', 'depth=2', 'predictor_depth=1']
    args = ['--batch-size', '8', '--steps', '1', '--config', 'california', *options]
    assert speed.main(args) == 0
    text = capsys.readouterr().out
    assert text.count('ratio') == 4 and 'step of california, 8 x 8 on cpu' in text
    assert all(
        part in text for part in ('masks', 'predictor', 'backward pass', 'optimizer and EMA')
    )


def test_a_misspelt_option_is_one_line(speed):
    with pytest.raises(SystemExit, match='depht'):
        speed.main(['--steps', '1', '--config', 'california', '--options', 'depht=2'])
