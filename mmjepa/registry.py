"""Child registries of MMEngine's, scope ``mmjepa``; ``locations`` are imported on first use."""

from mmengine.registry import DATA_SAMPLERS as _DATA_SAMPLERS
from mmengine.registry import DATASETS as _DATASETS
from mmengine.registry import FUNCTIONS as _FUNCTIONS
from mmengine.registry import HOOKS as _HOOKS
from mmengine.registry import LOG_PROCESSORS as _LOG_PROCESSORS
from mmengine.registry import LOOPS as _LOOPS
from mmengine.registry import METRICS as _METRICS
from mmengine.registry import MODELS as _MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as _OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as _OPTIM_WRAPPERS
from mmengine.registry import OPTIMIZERS as _OPTIMIZERS
from mmengine.registry import PARAM_SCHEDULERS as _PARAM_SCHEDULERS
from mmengine.registry import RUNNERS as _RUNNERS
from mmengine.registry import TRANSFORMS as _TRANSFORMS
from mmengine.registry import VISBACKENDS as _VISBACKENDS
from mmengine.registry import VISUALIZERS as _VISUALIZERS
from mmengine.registry import Registry

MODELS = Registry('model', parent=_MODELS, scope='mmjepa', locations=['mmjepa.models'])
DATASETS = Registry('dataset', parent=_DATASETS, scope='mmjepa', locations=['mmjepa.datasets'])
TRANSFORMS = Registry(
    'transform', parent=_TRANSFORMS, scope='mmjepa', locations=['mmjepa.datasets.transforms']
)
FUNCTIONS = Registry('function', parent=_FUNCTIONS, scope='mmjepa', locations=['mmjepa.datasets'])
DATA_SAMPLERS = Registry(
    'data sampler', parent=_DATA_SAMPLERS, scope='mmjepa', locations=['mmjepa.engine']
)
HOOKS = Registry('hook', parent=_HOOKS, scope='mmjepa', locations=['mmjepa.engine'])
LOOPS = Registry('loop', parent=_LOOPS, scope='mmjepa', locations=['mmjepa.engine'])
RUNNERS = Registry('runner', parent=_RUNNERS, scope='mmjepa', locations=['mmjepa.engine'])
OPTIM_WRAPPERS = Registry(
    'optim wrapper', parent=_OPTIM_WRAPPERS, scope='mmjepa', locations=['mmjepa.engine']
)
PARAM_SCHEDULERS = Registry(
    'parameter scheduler', parent=_PARAM_SCHEDULERS, scope='mmjepa', locations=['mmjepa.engine']
)
METRICS = Registry('metric', parent=_METRICS, scope='mmjepa', locations=['mmjepa.evaluation'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmjepa',
    locations=['mmjepa.engine'],
)
OPTIMIZERS = Registry('optimizer', parent=_OPTIMIZERS, scope='mmjepa', locations=['mmjepa.engine'])
# no components of ours yet: the children keep MMEngine from warning about the scope
VISUALIZERS = Registry(
    'visualizer', parent=_VISUALIZERS, scope='mmjepa', locations=['mmjepa.engine']
)
VISBACKENDS = Registry(
    'vis_backend', parent=_VISBACKENDS, scope='mmjepa', locations=['mmjepa.engine']
)
LOG_PROCESSORS = Registry(
    'log processor', parent=_LOG_PROCESSORS, scope='mmjepa', locations=['mmjepa.engine']
)
