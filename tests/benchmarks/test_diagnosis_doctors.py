import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "benchmarks"

SCRIPT = """
from diagnosis_doctors import of_findings
from qprobe.records.schema import Finding

def finding(site, severity, low, cause):
    return Finding(
        analyzer="a", claim="c", cause=cause, severity=severity, sites=(site,), roles=(),
        effect=low, unit="dB", low=low, high=low, n=1, control="", remedy="", reference="",
    )

found = of_findings([
    finding("worst", "critical", 0.5, "too_few_bits"),
    finding("large", "warn", 2.0, "channel_outlier"),
    finding("small", "warn", 1.0, "scale_wrong"),
    finding("note", "info", 9.0, "not_explained"),
])
print([site for site, _ in found.ranked], str(found.ranked[0][1]), found.alarm)
print(of_findings([finding("note", "info", 9.0, "not_explained")]).alarm, of_findings([]).alarm)
"""


def test_findings_keep_their_order_and_only_warnings_are_alarms():

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=FOLDER, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "['worst', 'large', 'small', 'note'] too_few_bits True",
        "False False",
    ]
