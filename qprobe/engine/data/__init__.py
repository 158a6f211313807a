"""Data: generated phantoms, readers of published sets, splits by patient, batches.

``load(name, options)`` gives a :class:`Dataset`, ``hold_out`` and ``k_folds`` split its patients,
:class:`Loader` makes batches of one part.
"""

from qprobe.engine.data.augment import AugmentConfig
from qprobe.engine.data.busi import BusiConfig
from qprobe.engine.data.dataset import Dataset, HeldDataset, Sample
from qprobe.engine.data.lgg import LggConfig
from qprobe.engine.data.loader import Batch, Loader, LoaderConfig
from qprobe.engine.data.nifti import NiftiConfig, View
from qprobe.engine.data.normalise import Normalisation
from qprobe.engine.data.phantom import PhantomConfig, Setting
from qprobe.engine.data.phantom3d import Phantom3dConfig
from qprobe.engine.data.sources import Config, Options, configure, load, names, options
from qprobe.engine.data.split import Part, Split, hold_out, k_folds, patient_burdens

__all__ = [
    "AugmentConfig",
    "Batch",
    "BusiConfig",
    "Config",
    "Dataset",
    "HeldDataset",
    "LggConfig",
    "Loader",
    "LoaderConfig",
    "NiftiConfig",
    "Normalisation",
    "Options",
    "Part",
    "Phantom3dConfig",
    "PhantomConfig",
    "Sample",
    "Setting",
    "Split",
    "View",
    "configure",
    "hold_out",
    "k_folds",
    "load",
    "names",
    "options",
    "patient_burdens",
]
