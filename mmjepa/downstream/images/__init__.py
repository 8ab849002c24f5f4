"""Our ViT below dense heads of mmdet and mmseg; named by the downstream configs."""

from . import backbone, classifier, mixing, necks, norm

__all__ = ['backbone', 'classifier', 'mixing', 'necks', 'norm']
