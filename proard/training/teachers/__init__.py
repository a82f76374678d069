"""Teachers: what students are distilled from, be it the largest student of the run or a network from elsewhere."""

from proard.training.teachers.external import ExternalTeacher, check_accuracy, load_teacher
from proard.training.teachers.own import BatchTeacher, freeze_largest, restore_largest

__all__ = ["BatchTeacher", "ExternalTeacher", "check_accuracy", "freeze_largest", "load_teacher", "restore_largest"]
