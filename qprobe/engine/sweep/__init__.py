"""Many trainings as one: a grid of cells, run once each by workers that may die, and their index.

>>> from qprobe.engine.config import TrainConfig
>>> cells = grid(TrainConfig(epochs=5), {"recipe": ["bf16", "nvfp4"], "seed": [0, 1]})
>>> [(cell.seed, cell.recipe) for cell in cells]
[(0, 'bf16'), (0, 'nvfp4'), (1, 'bf16'), (1, 'nvfp4')]
"""

from qprobe.engine.sweep.attend import Ended, Ending
from qprobe.engine.sweep.backend import Backend, Executor
from qprobe.engine.sweep.campaign import Event, Kind, Outcome, State, SweepResult, sweep
from qprobe.engine.sweep.cell import RUN_FILE, Cell, RunCell
from qprobe.engine.sweep.cluster import RayCluster
from qprobe.engine.sweep.estimate import Combination, Estimate, estimate
from qprobe.engine.sweep.grid import grid, split_axes
from qprobe.engine.sweep.index import Entry, Standing, index
from qprobe.engine.sweep.processes import Processes

__all__ = [
    "RUN_FILE",
    "Backend",
    "Cell",
    "Combination",
    "Ended",
    "Ending",
    "Entry",
    "Estimate",
    "Event",
    "Executor",
    "Kind",
    "Outcome",
    "Processes",
    "RayCluster",
    "RunCell",
    "Standing",
    "State",
    "SweepResult",
    "estimate",
    "grid",
    "index",
    "split_axes",
    "sweep",
]
