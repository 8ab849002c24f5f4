"""Configs: options that reach computed values, and checks that name the nearest match."""

import ast
import difflib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.config import config as mm_config
from mmengine.registry import Registry

from mmjepa import registry

# where a component may stand, and the registry that builds it; deeper dicts are tried in all
_ROOTS: tuple[Registry, ...] = (
    registry.MODELS, registry.DATASETS, registry.TRANSFORMS, registry.HOOKS, registry.LOOPS,
    registry.DATA_SAMPLERS, registry.OPTIM_WRAPPERS, registry.PARAM_SCHEDULERS, registry.METRICS,
)
_BUILDER_KEYS = {'type', '_scope_', 'init_cfg', 'priority', '_delete_', 'constructor',
                 'paramwise_cfg', 'convert_to_iter_based'}


class ConfigError(ValueError):
    """A config or an option names something that isn't there."""


def _nearest(name: str, known: Any, shown: int = 3) -> str:
    matches = difflib.get_close_matches(name, list(known), shown, cutoff=0.5)
    if matches:
        return f'; nearest: {", ".join(matches)}'
    some = sorted(known)
    return f'; known: {", ".join(some[:15])}{", ..." if len(some) > 15 else ""}' if some else ''


def _is_dict_display(node: ast.expr) -> bool:
    return isinstance(node, ast.Dict) or (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict')


class _Assign(mm_config.RemoveAssignFromAST):
    """Also replaces the values of top-level variables that options name."""

    options: dict[str, Any] = {}
    found: set[str] = set()

    def visit_Assign(self, node: ast.Assign) -> Any:  # noqa: N802 (ast's name)
        kept = super().visit_Assign(node)
        target = node.targets[0]
        if isinstance(kept, ast.Assign) and isinstance(target, ast.Name) \
                and target.id in self.options and not _is_dict_display(node.value):
            self.found.add(target.id)
            kept.value = ast.copy_location(
                ast.parse(repr(self.options[target.id]), mode='eval').body, node.value)
            ast.fix_missing_locations(kept)
        return kept


@contextmanager
def _variables(options: dict[str, Any]) -> Iterator[set[str]]:
    """While active, MMEngine's config reader replaces the named top-level variables."""
    cls = type('Assign', (_Assign,), dict(options=options, found=set()))
    old = mm_config.RemoveAssignFromAST
    mm_config.RemoveAssignFromAST = cls
    try:
        yield cls.found
    finally:
        mm_config.RemoveAssignFromAST = old


def load_config(path: str | Path, options: dict[str, Any] | None = None) -> Config:
    """Read a config file and apply options.

    Options that name a top-level variable (``data_root``, ``batch_size``) are applied before the
    file runs, so every value computed from them follows; the others (``model.target.policy``)
    afterwards, as MMEngine does.

    Args:
        path: ``.py`` config.
        options: names or dotted paths to values.

    Returns:
        The resolved config.

    Raises:
        ConfigError: no such file, or an option that is neither a top-level variable nor a path in
            the config (the nearest matches are named).
    """
    if not Path(path).is_file():
        raise ConfigError(f'no config file {path}')
    options = dict(options or {})
    with _variables({k: v for k, v in options.items() if '.' not in k}) as found:
        config = Config.fromfile(path)
    _drop_own_scope(config._cfg_dict)
    later = {k: v for k, v in options.items() if k not in found}
    for name in later:
        _check_option(config, name)
    config.merge_from_dict(later)
    # the text saved with checkpoints must give this config again
    return config


def _drop_own_scope(node: Any) -> None:
    """Remove the ``_scope_`` that ``_base_ = ['mmjepa::...']`` adds to every component.

    It says what ``default_scope`` says already, and MMEngine hands it to the collate function.
    """
    if isinstance(node, dict):
        if node.get('_scope_') == 'mmjepa':
            del node['_scope_']
        for value in node.values():
            _drop_own_scope(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            _drop_own_scope(value)


def _check_option(config: Config, name: str) -> None:
    """Raise unless every parent of a dotted option exists, and the leaf could."""
    node: Any = config
    parts = name.split('.')
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(node, (list, tuple)):
            if not part.isdigit() or int(part) >= len(node):
                raise ConfigError(
                    f'option {name}: {".".join(parts[:depth])} is a list of {len(node)}, '
                    f'{part!r} is no position in it')
            node = node[int(part)]
            continue
        if not isinstance(node, dict) and not isinstance(node, Config):
            raise ConfigError(f'option {name}: {".".join(parts[:depth])} has no entries')
        if part not in node:
            known = set(node.keys())
            if last and depth > 0 and 'type' in node:
                known |= _parameters(node) or {part}
                if part in known:
                    return
            if not (last and depth > 0 and 'type' not in node):
                raise ConfigError(
                    f'option {name}: no {"entry" if depth else "variable"} {part!r}'
                    f'{_nearest(part, known)}')
            return
        node = node[part]


def _class_of(node: dict) -> Any:
    kind = node['type']
    if not isinstance(kind, str):
        return kind
    for root in _ROOTS:
        found = root.get(kind)
        if found is not None:
            return found
    return None


def _parameters(node: dict) -> set[str] | None:
    """Names that a component's constructor takes; None where it can't be said."""
    cls = _class_of(node)
    if cls is None:
        return None
    names: set[str] = set()
    classes = [c for c in inspect.getmro(cls) if '__init__' in vars(c)] \
        if inspect.isclass(cls) else [cls]
    for current in classes:
        function = vars(current)['__init__'] if inspect.isclass(current) else current
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            return None
        names |= {p.name for p in parameters
                  if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names - {'self'}
    return None


def check_config(config: Config) -> None:
    """Check every component's keys against its constructor.

    Raises:
        ConfigError: a key that a constructor doesn't take; names key, place and nearest matches.
    """
    _check_node(config._cfg_dict, '')


def _check_node(node: Any, place: str) -> None:
    if isinstance(node, dict):
        if isinstance(node.get('type'), str):
            allowed = _parameters(node)
            for key in node:
                if allowed is not None and key not in allowed | _BUILDER_KEYS:
                    raise ConfigError(
                        f'{place or "config"}: {node["type"]} takes no {key!r}'
                        f'{_nearest(key, allowed)}')
        for key, value in node.items():
            _check_node(value, f'{place}.{key}' if place else key)
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            _check_node(value, f'{place}.{i}')
