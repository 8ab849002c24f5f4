"""What a checkpoint's meta tells of its model, read from the config's text; nothing is executed."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any


def method_of(meta: Any) -> str | None:
    """Type of the model that a checkpoint's meta speaks of."""
    if not isinstance(meta, Mapping):
        return None
    if isinstance(meta.get('method'), str):
        return meta['method']
    kind = model_of(meta).get('type')
    return str(kind).rsplit('.', 1)[-1] if kind else None


def model_of(meta: Any) -> dict[str, Any]:
    """Plain values in ``model = dict(...)`` of the config in ``meta['cfg']``; {} without one."""
    text = meta.get('cfg') if isinstance(meta, Mapping) else None
    try:
        body = ast.parse(text).body if isinstance(text, str) else []
    except SyntaxError:
        return {}
    for node in body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == 'model':
            model = _value(node.value)
            return model if isinstance(model, dict) else {}
    return {}


def _value(node: ast.expr) -> Any:
    """Value of literals and ``dict(...)`` calls; None for anything else."""
    if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'dict':
        return {k.arg: _value(k.value) for k in node.keywords if k.arg}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {_value(k): _value(v) for k, v in pairs if isinstance(k, ast.Constant)}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None
