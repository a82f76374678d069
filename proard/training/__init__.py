"""Training: `Trainer` is the loop, `train` the command. (Not ``proard.train``, which is that function.)"""

from proard.training.trainer import Trainer

__all__ = ["Trainer", "train"]
