"""Who finds a planted defect: the right layer, the right cause, no alarm about healthy models.

    python benchmarks/diagnosis.py [--quick] [--json] [--analyzers outliers gradients ...]

Trains a small model of each family (ours; MONAI's and Hugging Face's where those are installed),
plants every kind of defect of qprobe.faults at random sites in three strengths, and shows each to
the baselines and to one doctor made of the analyzers that are named. A defect counts where it is
detectable: where it moves the loss (a gradient defect: cosine or projection of dw) beyond the 95 %
interval; nobody is asked about the others, which are listed as below detection.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from diagnosis_cases import Case, Count, Ward, cases
from diagnosis_doctors import BASELINES, Diagnosis, Doctor, analyzers
from diagnosis_models import FAMILIES
from diagnosis_report import Examined, report
from interleaved import machine

from qprobe.analyzers.base import ANALYZERS
from qprobe.inference import Interval


def read(path: Path) -> Iterator[Examined]:
    """What an earlier run has logged."""
    for one in map(json.loads, path.read_text("utf-8").splitlines()):
        case = one["case"]
        effect = case["effect"] and Interval(**case["effect"])
        yield Examined(
            case=Case(**{**case, "sites": tuple(case["sites"]), "effect": effect}),
            diagnoses={
                doctor: Diagnosis(
                    ranked=tuple((site, cause) for site, cause in said["ranked"]),
                    alarm=said["alarm"],
                )
                for doctor, said in one["diagnoses"].items()
            },
        )


def examine(
    folder: Path, doctors: dict[str, Doctor], options: argparse.Namespace
) -> Iterator[Examined]:
    """Train, plant, ask; about what is below detection only if it was asked for."""
    defects = 1 if options.quick else options.per_kind
    count = Count(defects, defects if options.benign is None else options.benign)
    for name in options.families:
        family = FAMILIES[name]
        patient = family.trained(folder, quick=options.quick)
        wards = [Ward.of(patient, recipe) for recipe in family.recipes]
        for ward, case in cases(wards, count, options.seed):
            counts = case.detectable or case.well or options.undetectable
            said = {who: doctor(ward.subject()) for who, doctor in doctors.items() if counts}
            yield Examined(case=case, diagnoses=said)


def there(names: list[str]) -> list[str]:
    """The families whose libraries are installed; of each other one it is said that it is not."""
    for name in names:
        if not FAMILIES[name].there:
            print(f"{name} left out: {FAMILIES[name].needs} is not installed.", file=sys.stderr)
    return [name for name in names if FAMILIES[name].there]


def parsed() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="hardly trained, one of each kind")
    options.add_argument("--json", action="store_true", help="every case as data")
    options.add_argument("--per-kind", type=int, default=3, help="plantings a kind and model")
    options.add_argument("--benign", type=int, help="changes that are no defect; as --per-kind")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--models", type=Path, help="keep the trained models here")
    options.add_argument(
        "--families", nargs="+", choices=FAMILIES, metavar="NAME",
        help=f"all, or --quick the first, of {', '.join(FAMILIES)}",
    )  # fmt: skip
    options.add_argument("--analyzers", nargs="*", default=[], metavar="NAME")
    options.add_argument("--batches", type=int, help="batches that analyzers look at; all")
    options.add_argument("--undetectable", action="store_true", help="ask about those as well")
    options.add_argument("--log", type=Path, help="append each case here as it comes, as JSON")
    options.add_argument("--reports", nargs="+", type=Path, help="only the tables of earlier logs")
    chosen = options.parse_args()
    chosen.families = there(chosen.families or list(FAMILIES)[: 1 if chosen.quick else None])
    return chosen


def main() -> None:
    chosen = parsed()
    torch.set_num_threads(1)
    if chosen.reports:
        print(report([one for path in chosen.reports for one in read(path)]))
        return
    doctors = dict(BASELINES)
    if chosen.analyzers:
        doctors["qprobe"] = analyzers(chosen.analyzers, chosen.batches)
    every = []
    with tempfile.TemporaryDirectory() as scratch:
        for one in examine(chosen.models or Path(scratch), doctors, chosen):
            every.append(one)
            if chosen.log:
                with chosen.log.open("a", encoding="utf-8") as log:
                    print(json.dumps(asdict(one)), file=log)
    if chosen.json:
        print(json.dumps([asdict(one) for one in every]))
        return
    print("Machine:", ", ".join(f"{name} {value}" for name, value in machine().items()))
    print(f"Analyzers there are: {', '.join(ANALYZERS.names()) or 'none'}\n")
    print(report(every))


if __name__ == "__main__":
    main()
