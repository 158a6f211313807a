"""One cell of a sweep: a configuration, the folder it is trained in, and what is known of it."""

import json
import os
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from qprobe import records
from qprobe.engine.config import TrainConfig
from qprobe.errors import InputError
from qprobe.records import Status

#: What a training calls its run file.
RUN_FILE = "run.qprobe"
#: What was planned for a folder, so that a cell without a run is known to be missing.
PLAN_FILE = "cell.json"
#: Why the last attempt failed, with its traceback.
ERROR_FILE = "error.txt"

#: Trains one cell in a folder, going on from what is there, and returns the path of its run file.
RunCell = Callable[[TrainConfig, Path], Path]


class Look(NamedTuple):
    """Where a cell stands; ``status`` is None where nothing was ever run."""

    status: Status | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A training of a sweep. ``hash`` identifies it; the folder's name is for people."""

    config: TrainConfig
    hash: str
    folder: Path

    @classmethod
    def of(cls, config: TrainConfig, root: Path) -> Self:
        """The cell of a configuration in the folder of a sweep.

        >>> Cell.of(TrainConfig(arch="swin", recipe="nvfp4-sr", seed=2), Path("runs")).name
        'swin-500k-phantom-nvfp4-sr-seed2-...'
        """
        full = config.hash
        parts = [config.arch, config.size, config.data, config.recipe, f"seed{config.seed}"]
        if config.fold is not None:
            parts.append(f"fold{config.fold}")
        readable = re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(parts))[:120]
        return cls(config=config, hash=full, folder=root / f"{readable}-{full[:12]}")

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.name

    def plan(self) -> None:
        """Make the folder and note what belongs into it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        plan = self.folder / PLAN_FILE
        if not plan.exists():
            config = self.config.resolved().as_json()
            write_atomically(plan, json.dumps({"hash": self.hash, "config": config}, indent=1))

    def look(self) -> Look:
        """What the run file says, or the error that kept it from coming into being."""
        run = self.folder / RUN_FILE
        if run.exists():
            with records.open(run) as reader:
                meta = reader.meta
            found = meta.config.get("hash")
            if found != self.hash:
                raise InputError(
                    f"{run} is of the configuration {found}, and the cell's is {self.hash}; "
                    "move it away, or train into another folder."
                )
            return Look(meta.status, meta.reason)
        error = self.folder / ERROR_FILE
        if error.exists():
            return Look(Status.FAILED, error.read_text(encoding="utf-8").partition("\n")[0])
        return Look(None, None)

    def is_finished(self) -> bool:
        """Whether this very training is complete."""
        return self.look().status is Status.FINISHED

    def note_failure(self, error: BaseException) -> str:
        """Write down why an attempt failed; returns the first line."""
        said = " ".join(f"{type(error).__name__}: {error}".split())
        trace = "".join(traceback.format_exception(error))
        write_atomically(self.folder / ERROR_FILE, f"{said}\n\n{trace}")
        return said

    def forget_failure(self) -> None:
        """A new attempt starts."""
        (self.folder / ERROR_FILE).unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """The file has its old text or the new one, whenever the process is killed."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
