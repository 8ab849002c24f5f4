"""T-JEPA for tables: importing the package registers its parts."""

from .dataset import TabularDataset
from .encoder import TabularEncoder
from .masks import FeatureMasks, FeatureSubsetMaskGenerator
from .model import TJEPA
from .predictor import TabularPredictor
from .preprocessor import TabularPreprocessor
from .rows import RowFileDataset
from .tokenizer import FeatureTokenizer

__all__ = [
    'TJEPA',
    'FeatureMasks',
    'FeatureSubsetMaskGenerator',
    'FeatureTokenizer',
    'RowFileDataset',
    'TabularDataset',
    'TabularEncoder',
    'TabularPredictor',
    'TabularPreprocessor',
]
