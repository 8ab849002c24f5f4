"""The core's contract for both baselines; `-rs` names the rules they leave out, and why."""

import pytest
from lidar_cases import BASELINES, CASES
from test_contract import *  # noqa: F403
from test_contract import RULES

from mmjepa.registry import MODELS


@pytest.fixture(params=BASELINES)
def case(request, tmp_path):
    """A case, unless the method says that the rule can't apply."""
    rule = request.node.originalname.removeprefix('test_')
    if rule == 'skipped_step_leaves_the_target':
        rule = 'target_moves_in_hook'
    assert rule in RULES
    reason = MODELS.get(request.param).contract.get(rule)
    if reason:
        pytest.skip(f'{request.param}: {reason}')
    case = CASES[request.param]
    case.name = request.param
    case.root = case.make_data(tmp_path / 'toy')
    return case


def test_every_registered_method_has_a_case_and_prints_its_rules(capsys):
    with capsys.disabled():
        for name in BASELINES:
            left_out = MODELS.get(name).contract
            assert set(left_out) <= set(RULES), f'{name} leaves out rules that do not exist'
            print(f'\ncontract of {name}:')
            for rule, text in RULES.items():
                print(f'  [{"-" if rule in left_out else "x"}] {rule}: {left_out.get(rule, text)}')
