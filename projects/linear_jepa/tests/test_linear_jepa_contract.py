"""The core's contract; `-rs` names the rules that are left out, and why.

Rules about a target that moves are checked with `policy=ema`, all others with the config's own.
"""

from dataclasses import replace

import pytest
from linear_cases import CASES
from test_contract import *  # noqa: F403
from test_contract import RULES

from mmjepa.registry import MODELS

OF_A_COPY = ('target_no_grad', 'target_moves_in_hook', 'hook_required')


@pytest.fixture
def case(request, tmp_path):
    """The case, unless the method says that the rule can't apply."""
    rule = request.node.originalname.removeprefix('test_')
    if rule == 'skipped_step_leaves_the_target':
        rule = 'target_moves_in_hook'
    assert rule in RULES
    if reason := MODELS.get('LinearJEPA').contract.get(rule):
        pytest.skip(f'LinearJEPA: {reason}')
    case = CASES['LinearJEPA']
    if rule in OF_A_COPY:
        case = replace(case, options={**case.options, 'policy': 'ema', 'lr': 0.1, 'tau': 1.0})
    case.name = 'LinearJEPA'
    case.root = case.make_data(tmp_path / 'toy')
    return case


def test_every_registered_method_has_a_case_and_prints_its_rules(capsys):
    left_out = MODELS.get('LinearJEPA').contract
    assert set(left_out) <= set(RULES), 'rules are left out that do not exist'
    with capsys.disabled():
        print('\ncontract of LinearJEPA:')
        for rule, text in RULES.items():
            print(f'  [{"-" if rule in left_out else "x"}] {rule}: {left_out.get(rule, text)}')
