"""Images with labels, from a folder or from the package, and the batches that training and evaluation take."""

from leanformer.data.augment import Augment
from leanformer.data.images import ImageFolder, open_data
from leanformer.data.labeled import ArrayImages, LabeledImages
from leanformer.data.loading import Batch, EvalBatches, TrainBatches
from leanformer.data.options import DataOptions
from leanformer.data.preprocess import open_image, prepare
from leanformer.data.sampling import Sampling, class_weights

__all__ = [
    "ArrayImages",
    "Augment",
    "Batch",
    "DataOptions",
    "EvalBatches",
    "ImageFolder",
    "LabeledImages",
    "Sampling",
    "TrainBatches",
    "class_weights",
    "open_data",
    "open_image",
    "prepare",
]
