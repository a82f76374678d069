"""Models of RobustBench (arXiv 2010.09670) as teachers: from files on this machine, downloaded only on request.

The package is optional. Its models take images in [0, 1] and normalise for themselves.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from torch import nn

from proard.common.errors import UserError, reason
from proard.common.paths import path_of
from proard.supernet.families.timm import import_timm
from proard.training.teachers.request import Request
from proard.training.weights import only_weights

DATA = ("cifar10", "cifar100", "imagenet")
THREATS = {"linf": "Linf", "l2": "L2"}
FOLDER = "~/.cache/proard/robustbench"


def _name(request: Request) -> tuple[str, str, str]:
    """Data set, threat model and name, as RobustBench spells them."""
    parts = str(request.config.source).removeprefix("robustbench:").split("/")
    if len(parts) == 3:
        return parts[0], parts[1], parts[2]
    if len(parts) != 1 or request.data_name not in DATA or request.norm not in THREATS:
        raise UserError(f"say for which data and threat model, such as robustbench:cifar10/Linf/{parts[-1]}")
    return request.data_name, THREATS[request.norm], parts[0]


def file_of(request: Request) -> Path | None:
    """The file of weights: the one given, or where RobustBench keeps it in its folder; None for an ensemble of files.

    Raises:
        UserError: it is not there, and was not asked to be downloaded.
    """
    data, threat, name = _name(request)
    given = None if request.config.file is None else path_of(request.config.file)
    if given is not None and given.is_file():
        return given
    path = (given or path_of(FOLDER)) / data / threat / f"{name}.pt"
    ensemble = path.with_name(f"{name}.pt_m0.pt").is_file()
    if not path.is_file() and not ensemble and not request.config.pretrained:
        raise UserError(f"no file {path}; give its weights with teacher.file, or pretrained: true to download them")
    return None if ensemble else path


def load(request: Request, file: Path | None) -> nn.Module:
    """The model, in evaluation mode; only weights are unpickled, whatever RobustBench asks for.

    Raises:
        UserError: the package is missing, it has no such model, or the weights cannot be loaded or downloaded.
    """
    load_model = _import_load_model()
    data, threat, name = _name(request)
    registered = f"{name}_{data}_{threat}".lower().replace("-", "_")  # with timm, which would download its weights
    if not request.config.pretrained and import_timm().is_model(registered):
        raise UserError("RobustBench always fetches its weights; set teacher.pretrained: true")
    with tempfile.TemporaryDirectory() as temporary, only_weights():
        folder = path_of(request.config.file or FOLDER)
        if file is not None and folder == file:  # one file, put where RobustBench looks for it
            folder = Path(temporary)
            place = folder / data / threat / f"{name}.pt"
            place.parent.mkdir(parents=True)
            try:
                os.symlink(file.absolute(), place)
            except OSError:
                shutil.copyfile(file, place)
        try:
            return load_model(model_name=name, model_dir=str(folder), dataset=data, threat_model=threat).eval()
        except KeyError as error:
            raise UserError(f"RobustBench has no model {error} for {data}, {threat}") from error
        except Exception as error:
            raise UserError(f"cannot be loaded or downloaded ({reason(error)})") from error


def _import_load_model() -> Callable[..., nn.Module]:
    """RobustBench's function.

    Raises:
        UserError: the package is missing, or something that it imports.
    """
    # RobustBench 1.1.1 imports `autoattack`, and installs it under its newer name.
    if find_spec("autoattack") is None and find_spec("pyautoattack") is not None:
        sys.modules["autoattack"] = import_module("pyautoattack")
    try:
        from robustbench.utils import load_model
    except ImportError as error:
        raise UserError(f"needs the package 'robustbench'; pip install 'proard[robustbench]' ({error})") from None
    return load_model
