"""Backbones, the classifier around them, and the registry of names. Importing this registers every base model."""

from leanformer.models import cswin, l2vit, pvt, swiftformer, swin, vit
from leanformer.models.backbone import Backbone, BackboneConfig, FeatureInfo
from leanformer.models.classifier import ImageClassifier
from leanformer.models.preprocess import Preprocess
from leanformer.models.registry import find, list_models, register

__all__ = [
    "Backbone",
    "BackboneConfig",
    "FeatureInfo",
    "ImageClassifier",
    "Preprocess",
    "cswin",
    "find",
    "l2vit",
    "list_models",
    "pvt",
    "register",
    "swiftformer",
    "swin",
    "vit",
]
