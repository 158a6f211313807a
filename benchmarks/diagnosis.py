"""Who finds a planted defect: the right layer, the right cause, no alarm about healthy models.

    python benchmarks/diagnosis.py [--quick] [--json] [--analyzers outliers gradients ...]

Trains a tiny model of each architecture, plants every kind of defect of qprobe.faults at random
sites in three strengths, and shows each to the baselines and to one doctor made of the analyzers
that are named. A defect counts where it is detectable: where it moves the loss (a gradient defect:
cosine or projection of dw) beyond the 95 % interval; the others are listed as below detection.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diagnosis_cases import ARCHITECTURES, Case, cases, trained
from diagnosis_doctors import BASELINES, Diagnosis, Doctor, analyzers
from interleaved import machine

from qprobe.analyzers.base import ANALYZERS
from qprobe.inference import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one doctor said about one case."""

    case: Case
    doctor: str
    diagnosis: Diagnosis

    @property
    def rank(self) -> int | None:
        """Place of the first right site, from 1; None where it is not named."""
        for place, (site, _) in enumerate(self.diagnosis.ranked, start=1):
            if site in self.case.sites:
                return place
        return None

    @property
    def named(self) -> str:
        """The cause that is named first."""
        return self.diagnosis.ranked[0][1] if self.diagnosis.ranked else "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One doctor over all cases; shares of ``n`` detectable ones and of ``well`` others."""

    doctor: str
    n: int
    top1: float
    top3: float
    alarm: float
    cause: float
    well: int
    false_alarm: float


def score(doctor: str, verdicts: Sequence[Verdict]) -> Score:
    """Count one doctor's hits; a share of nothing is refused by the caller's ``n``."""
    mine = [verdict for verdict in verdicts if verdict.doctor == doctor]
    sick = [verdict for verdict in mine if verdict.case.detectable]
    well = [verdict for verdict in mine if verdict.case.cause is None]
    return Score(
        doctor=doctor,
        n=len(sick),
        top1=_share([verdict.rank == 1 for verdict in sick]),
        top3=_share([verdict.rank is not None and verdict.rank <= 3 for verdict in sick]),
        alarm=_share([verdict.diagnosis.alarm for verdict in sick]),
        cause=_share([verdict.named == verdict.case.cause for verdict in sick]),
        well=len(well),
        false_alarm=_share([verdict.diagnosis.alarm for verdict in well]),
    )


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / max(1, len(hits))


def confusion(doctor: str, verdicts: Sequence[Verdict]) -> dict[str, Counter[str]]:
    """For each planted cause, which causes were named first, over detectable cases."""
    table: dict[str, Counter[str]] = {}
    for verdict in verdicts:
        if verdict.doctor == doctor and verdict.case.detectable:
            table.setdefault(str(verdict.case.cause), Counter())[str(verdict.named)] += 1
    return table


def by_kind(verdicts: Sequence[Verdict], doctors: Sequence[str]) -> list[str]:
    """Table rows: planted, detectable, and the top-1 share of every doctor."""
    rows = []
    for kind in dict.fromkeys(verdict.case.kind for verdict in verdicts):
        of_kind = [verdict for verdict in verdicts if verdict.case.kind == kind]
        planted = [verdict for verdict in of_kind if verdict.doctor == doctors[0]]
        if planted[0].case.cause is None:
            continue
        cells = []
        for doctor in doctors:
            seen = [v for v in of_kind if v.doctor == doctor and v.case.detectable]
            cells.append(f"{_share([v.rank == 1 for v in seen]):.0%}" if seen else "–")
        found = sum(verdict.case.detectable for verdict in planted)
        rows.append(f"| {kind} | {len(planted)} | {found} | {' | '.join(cells)} |")
    return rows


def report(verdicts: Sequence[Verdict], doctors: Sequence[str]) -> str:
    lines = [
        "| who | detectable | top-1 | top-3 | alarm | cause | healthy, benign | false alarms |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for one in (score(doctor, verdicts) for doctor in doctors):
        shares = (one.top1, one.top3, one.alarm, one.cause)
        cells = " | ".join(f"{share:.0%}" for share in shares)
        lines.append(f"| {one.doctor} | {one.n} | {cells} | {one.well} | {one.false_alarm:.0%} |")
    lines += ["", f"| kind | planted | detectable | {' | '.join(doctors)} |"]
    lines += ["|---|--:|--:|" + "--:|" * len(doctors), *by_kind(verdicts, doctors)]
    for doctor in doctors:
        if doctor not in BASELINES:
            lines += ["", f"Causes named by {doctor}:", *_confusion_rows(doctor, verdicts)]
    return "\n".join(lines)


def _confusion_rows(doctor: str, verdicts: Sequence[Verdict]) -> list[str]:
    table = confusion(doctor, verdicts)
    return [
        f"- {planted}: {', '.join(f'{name} {n}' for name, n in named.most_common())}"
        for planted, named in table.items()
    ]


def read(path: Path) -> list[Verdict]:
    """Verdicts that an earlier run has logged."""
    found = []
    for one in map(json.loads, path.read_text("utf-8").splitlines()):
        case, diagnosis = one["case"], one["diagnosis"]
        effect = case["effect"] and Interval(**case["effect"])
        ranked = tuple((site, cause) for site, cause in diagnosis["ranked"])
        found.append(
            Verdict(
                case=Case(**{**case, "sites": tuple(case["sites"]), "effect": effect}),
                doctor=one["doctor"],
                diagnosis=Diagnosis(ranked=ranked, alarm=diagnosis["alarm"]),
            )
        )
    return found


def examine(folder: Path, doctors: dict[str, Doctor], options: argparse.Namespace) -> list[Verdict]:
    """Train, plant, ask."""
    verdicts = []
    steps, samples, per_kind = (3, 16, 1) if options.quick else (300, 64, options.per_kind)
    chosen = ARCHITECTURES[:1] if options.quick else options.architectures
    for architecture in chosen:
        wards = trained(folder, architecture, steps, samples)
        for ward, case in cases(wards, per_kind, options.seed):
            for name, doctor in doctors.items():
                diagnosis = doctor(ward.subject())
                verdicts.append(Verdict(case=case, doctor=name, diagnosis=diagnosis))
                if options.log:
                    with options.log.open("a", encoding="utf-8") as log:
                        print(json.dumps(asdict(verdicts[-1])), file=log)
    return verdicts


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="one model, hardly trained")
    options.add_argument("--json", action="store_true", help="every verdict as data")
    options.add_argument("--per-kind", type=int, default=3, help="plantings a kind and model")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--models", type=Path, help="keep the trained models here")
    options.add_argument("--architectures", nargs="+", default=ARCHITECTURES, metavar="NAME")
    options.add_argument("--analyzers", nargs="*", default=[], metavar="NAME")
    options.add_argument("--batches", type=int, help="batches that analyzers look at; all")
    options.add_argument("--log", type=Path, help="append each verdict here as it comes, as JSON")
    options.add_argument("--reports", nargs="+", type=Path, help="only the tables of earlier logs")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    if chosen.reports:
        verdicts = [one for path in chosen.reports for one in read(path)]
        print(report(verdicts, list(dict.fromkeys(one.doctor for one in verdicts))))
        return
    doctors = dict(BASELINES)
    if chosen.analyzers:
        doctors["qprobe"] = analyzers(chosen.analyzers, chosen.batches)
    with tempfile.TemporaryDirectory() as scratch:
        verdicts = examine(chosen.models or Path(scratch), doctors, chosen)
    if chosen.json:
        print(json.dumps([asdict(verdict) for verdict in verdicts]))
        return
    print("Machine:", ", ".join(f"{name} {value}" for name, value in machine().items()))
    print(f"Analyzers there are: {', '.join(ANALYZERS.names()) or 'none'}\n")
    print(report(verdicts, list(doctors)))


if __name__ == "__main__":
    main()
