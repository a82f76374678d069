"""Images: read, split, put in batches and augmented.

``load_data`` gives the three splits of a configured set as :class:`ImageSet`; a set yields batches for lists of
indices, which ``epoch_batches`` and ``sequential_batches`` make; ``augment`` changes a training batch on its device.
"""

from proard.data.arrays import Loaded, given_arrays, given_test_images, in_memory
from proard.data.augmentation import augment
from proard.data.batches import epoch_batches, sequential_batches
from proard.data.decode import decode_image
from proard.data.extra import TrainingImages, training_images
from proard.data.images import ImageSet, StreamedImageSet, WorkerDied
from proard.data.sets import data_sets
from proard.data.splits import DataSplits, TestSplit, load_data, load_test_split, tested_on

__all__ = [
    "DataSplits",
    "ImageSet",
    "Loaded",
    "StreamedImageSet",
    "TestSplit",
    "TrainingImages",
    "WorkerDied",
    "augment",
    "data_sets",
    "decode_image",
    "epoch_batches",
    "given_arrays",
    "given_test_images",
    "in_memory",
    "load_data",
    "load_test_split",
    "sequential_batches",
    "tested_on",
    "training_images",
]
