"""Configs: options that reach computed values, and checks that name the nearest match."""

import ast
import difflib
import inspect
import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.config import config as mm_config
from mmengine.logging import print_log
from mmengine.registry import Registry
from mmengine.runner import LogProcessor, Runner
from torch.utils.data import DataLoader

from mmjepa import registry

# first line of the config that a run leaves in its work dir
RESOLVED_MARK = '# resolved: every value is written out, nothing is computed from another any more'

# where a component may stand; a type that several of them know may take what any of them takes
_ROOTS: tuple[Registry, ...] = (
    registry.MODELS,
    registry.DATASETS,
    registry.TRANSFORMS,
    registry.HOOKS,
    registry.LOOPS,
    registry.DATA_SAMPLERS,
    registry.OPTIM_WRAPPERS,
    registry.OPTIMIZERS,
    registry.FUNCTIONS,
    registry.PARAM_SCHEDULERS,
    registry.METRICS,
    registry.VISUALIZERS,
    registry.VISBACKENDS,
    registry.LOG_PROCESSORS,
)
_BUILDER_KEYS = {
    'type',
    '_scope_',
    'init_cfg',
    'priority',
    '_delete_',
    'constructor',
    'paramwise_cfg',
    'convert_to_iter_based',
}


def _arguments(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters) - {'self'}


_LOADER_KEYS = _arguments(DataLoader.__init__) | {
    'collate_fn',
    'worker_init_fn',
    'num_batch_per_epoch',
    'disable_subprocess_warning',
}
# keys of the dicts without a type
_TYPELESS: dict[str, set[str]] = {
    'train_dataloader': _LOADER_KEYS,
    'val_dataloader': _LOADER_KEYS,
    'test_dataloader': _LOADER_KEYS,
    'randomness': _arguments(Runner.set_randomness),
    'log_processor': _arguments(LogProcessor.__init__),
    'auto_scale_lr': {'enable', 'base_batch_size'},
    'env_cfg': {'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'},
    'optim_wrapper.clip_grad': {
        'type',
        'max_norm',
        'norm_type',
        'error_if_nonfinite',
        'foreach',
        'clip_value',
    },
}


class ConfigError(ValueError):
    """A config or an option names something that isn't there."""


class OptionAction(DictAction):
    """``--cfg-options KEY=VALUE ...``: MMEngine's action with a clear error."""

    def __call__(
        self,
        parser: ArgumentParser,
        namespace: Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Parse the pairs."""
        for pair in values:
            if '=' not in pair:
                parser.error(f'{option_string}: {pair!r} has no value, give KEY=VALUE')
        super().__call__(parser, namespace, values, option_string)


def _nearest(name: str, known: Any, shown: int = 3) -> str:
    matches = difflib.get_close_matches(name, list(known), shown, cutoff=0.5)
    if matches:
        return f'; nearest: {", ".join(matches)}'
    some = sorted(known)
    return f'; known: {", ".join(some[:15])}{", ..." if len(some) > 15 else ""}' if some else ''


def _is_dict_display(node: ast.expr) -> bool:
    return isinstance(node, ast.Dict) or (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict'
    )


class _Assign(mm_config.RemoveAssignFromAST):
    """Also replaces the values of top-level variables that options name."""

    options: dict[str, Any] = {}
    whole: set[str] = set()  # dicts that are replaced, not merged into
    found: set[str] = set()

    def _option(self, name: Any, like: ast.stmt) -> ast.Assign:
        self.found.add(name)
        old = getattr(like, 'value', None)
        number = isinstance(old, ast.Constant) and type(old.value) in (int, float)
        if number and isinstance(self.options[name], str):
            raise ConfigError(f'option {name}: {self.options[name]!r} is not a number')
        new = ast.parse(f'{name} = {self.options[name]!r}').body[0]
        assert isinstance(new, ast.Assign)
        return ast.fix_missing_locations(ast.copy_location(new, like))

    def visit_Assign(self, node: ast.Assign) -> Any:
        kept = super().visit_Assign(node)
        if not isinstance(kept, ast.Assign):
            return kept
        if _is_dict_display(node.value) and getattr(node.targets[0], 'id', None) not in self.whole:
            return kept
        stored = {
            n.id
            for target in node.targets
            for n in ast.walk(target)
            if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        }
        named = [self._option(name, node) for name in sorted(stored & self.options.keys())]
        # the replaced value isn't computed: it may need what isn't there
        alone = len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)
        return named if named and alone else [kept, *named]

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        name = getattr(node.target, 'id', None)
        return self._option(name, node) if name in self.options else node

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        name = getattr(node.target, 'id', None)
        return self._option(name, node) if name in self.options else node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        return node  # its variables are its own


@contextmanager
def _variables(options: dict[str, Any], whole: Iterable[str] = ()) -> Iterator[set[str]]:
    """While active, MMEngine's config reader replaces the named top-level variables."""
    members = dict(options=options, whole=set(whole), found=set())
    cls: Any = type('Assign', (_Assign,), members)
    old = mm_config.RemoveAssignFromAST
    mm_config.RemoveAssignFromAST = cls
    try:
        yield cls.found
    finally:
        mm_config.RemoveAssignFromAST = old


def load_config(path: str | Path, options: dict[str, Any] | None = None) -> Config:
    """Read a config file and apply options.

    Options that name a top-level variable (``data_root``, ``batch_size``) or an entry of one
    (``sample_groups.Car``) are applied before the file runs, so every value computed from them
    follows; those of the run's own parts (``model.target.policy``) afterwards, as MMEngine does.

    Args:
        path: ``.py`` config.
        options: names or dotted paths to values.

    Returns:
        The resolved config.

    Raises:
        ConfigError: no such file, or an option that is neither a top-level variable nor a path in
            the config (the nearest matches are named).
    """
    path = Path(path)
    if not path.is_file():
        there = [str(p) for p in sorted(path.parent.glob('*.py'))]
        raise ConfigError(f'no config file {path}{_nearest(str(path), there)}')
    options = dict(options or {})
    variables = {k: v for k, v in options.items() if '.' not in k}
    _check_linked(path, variables)
    with _variables(variables) as found:
        config = Config.fromfile(path)
    _warn_unreached(path, config, variables)
    _drop_own_scope(config._cfg_dict)
    later = {k: v for k, v in options.items() if k not in found}
    for name in later:
        _check_option(config, name)
    config.merge_from_dict(later)
    if heads := _dict_variables(config, later):
        _check_linked(path, dict.fromkeys(heads))
        values = {name: config[name].to_dict() for name in heads}
        with _variables({**variables, **values}, whole=heads):
            config = Config.fromfile(path)
        _drop_own_scope(config._cfg_dict)
        config.merge_from_dict(later)
    return config


def _dict_variables(config: Config, names: Iterable[str]) -> list[str]:
    """Dicts among the named variables from which values may be computed; no parts of a run."""
    heads = {name.split('.')[0] for name in names} - _arguments(Runner.__init__)
    return sorted(name for name in heads if isinstance(config.get(name), dict))


def _warn_unreached(path: Path, config: Config, options: dict[str, Any]) -> None:
    """Warn where a config sets a variable from which its base has computed values already."""
    own = {}
    try:
        body = ast.parse(path.read_text(encoding='utf-8')).body
    except SyntaxError:  # templates, json
        return
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            with suppress(ValueError):
                own[node.targets[0].id] = ast.literal_eval(node.value)
    if own.pop(mm_config.BASE_KEY, None) is None:
        return
    with _variables({**own, **options}):
        reaching = Config.fromfile(path)
    differing = sorted(_differences(config._cfg_dict, reaching._cfg_dict))
    if differing:
        print_log(
            f'{path} sets variables from which its base has computed other values before: '
            f'{"; ".join(differing[:5])}{"; ..." if len(differing) > 5 else ""}. Set these values '
            'too, or give the variables as --cfg-options, which reach everything',
            logger='current',
            level=logging.WARNING,
        )


def _differences(ours: Any, wanted: Any, place: str = '') -> Iterator[str]:
    if isinstance(ours, dict) and isinstance(wanted, dict) and ours.keys() == wanted.keys():
        for key in ours:
            yield from _differences(ours[key], wanted[key], f'{place}.{key}' if place else str(key))
    elif isinstance(ours, list) and isinstance(wanted, list) and len(ours) == len(wanted):
        for i, (a, b) in enumerate(zip(ours, wanted, strict=True)):
            yield from _differences(a, b, f'{place}.{i}')
    elif ours != wanted:
        yield f'{place} stays {ours!r}, not {wanted!r}'


def default_work_dir(config: str | Path) -> str:
    """``work_dirs/adl_jepa/kitti`` for ``configs/adl_jepa/kitti.py``."""
    parts = Path(config).with_suffix('').parts
    if 'configs' in parts:
        parts = parts[len(parts) - parts[::-1].index('configs') :]
    else:
        parts = parts[-1:]
    return str(Path('work_dirs', *parts))


def _check_linked(path: Path, variables: dict[str, Any]) -> None:
    """Raise where an option would change a variable but nothing that was computed from it."""
    simple = sorted(k for k, v in variables.items() if not isinstance(v, dict))
    if not simple or path.suffix != '.py':
        return
    if path.read_text(encoding='utf-8').startswith(RESOLVED_MARK):
        raise ConfigError(
            f'{path} is the resolved copy that a run left: no value follows from {simple[0]} there '
            'any more. Take the original config, or name the value itself '
            '(e.g. train_dataloader.batch_size)'
        )
    if Config._is_lazy_import(str(path)):
        raise ConfigError(
            f'{path} is an import-style config (read_base, or an import statement), where options '
            f'reach no computed value such as those from {simple[0]}. Name the value itself, or '
            'inherit by _base_ = [...] without imports'
        )


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
    """Raise unless an option is a path in the config, or names what a component there takes."""
    node: Any = config._cfg_dict
    parts = name.split('.')
    for depth, part in enumerate(parts):
        place = '.'.join(parts[:depth])
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                raise ConfigError(
                    f'option {name}: {place} is a list of {len(node)}, {part!r} is no position '
                    'in it (from 0)'
                )
            node = node[int(part)]
            continue
        if not isinstance(node, dict):
            raise ConfigError(f'option {name}: {place} is {node!r}, give it a value as a whole')
        if part not in node:
            known = _known_keys(node, place)
            if depth > 0 and (known is None or part in known | _BUILDER_KEYS):
                return
            what = f'entry {part!r} in {place}' if depth else f'variable {part!r}'
            raise ConfigError(
                f'option {name}: no {what}{_nearest(part, set(node) | (known or set()))}'
            )
        node = node[part]


def _known_keys(node: dict, place: str) -> set[str] | None:
    """Keys that a dict may have; None where it can't be said."""
    if 'type' in node:
        return _parameters(node)
    return _TYPELESS.get(place, set())


def _classes_of(node: dict) -> list[Any]:
    kind = node['type']
    if not isinstance(kind, str):
        return [kind]
    found = [root.get(kind) for root in _ROOTS]
    return [cls for i, cls in enumerate(found) if cls is not None and cls not in found[:i]]


def _parameters(node: dict) -> set[str] | None:
    """Names that a component's constructor takes; None where it can't be said."""
    names: set[str] = set()
    classes = _classes_of(node)
    for cls in classes:
        taken = _parameters_of(cls)
        if taken is None:
            return None
        names |= taken
    return names if classes else None


def _parameters_of(cls: Any) -> set[str] | None:
    names: set[str] = set()
    functions = (
        [
            vars(c)['__init__']
            for c in inspect.getmro(cls)
            if '__init__' in vars(c) and c is not object
        ]
        if inspect.isclass(cls)
        else [cls]
    )
    for function in functions:
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            return None
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names - {'self'}
    return None if functions else set()


def check_config(config: Config) -> None:
    """Check every component's keys against its constructor; those of other scopes are left out.

    Raises:
        ConfigError: a key that a constructor doesn't take; names key, place and nearest matches.
    """
    _check_node(config._cfg_dict, '', config.get('default_scope', 'mmjepa'))


def _check_node(node: Any, place: str, scope: str) -> None:
    if isinstance(node, dict):
        scope = node.get('_scope_', scope)
        if isinstance(node.get('type'), str):
            # the same name may stand for another class in another scope
            ours = scope == 'mmjepa' or node['type'].startswith('mmjepa.')
            allowed = _parameters(node) if ours else None
            what = node['type']
        else:
            allowed, what = _TYPELESS.get(place), place
        for key in node:
            if allowed is not None and key not in allowed | _BUILDER_KEYS:
                raise ConfigError(
                    f'{place or "config"}: {what} takes no {key!r}{_nearest(key, allowed)}'
                )
        for key, value in node.items():
            _check_node(value, f'{place}.{key}' if place else str(key), scope)
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            _check_node(value, f'{place}.{i}', scope)
