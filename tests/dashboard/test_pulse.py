from dataclasses import replace

from qprobe.dashboard.pulse import pulse_of
from qprobe.records import Status


def test_a_pulse_changes_with_what_is_written_ends_or_vanishes(library):
    runs = library.runs()
    first = runs[0]
    grown = replace(first, stamp=(first.stamp[0], first.stamp[1] + 1, *first.stamp[2:]))
    ended = replace(first, status=Status.INTERRUPTED)
    states = [runs, [grown, *runs[1:]], [ended, *runs[1:]], runs[1:], []]
    assert len({pulse_of(state) for state in states}) == len(states)
    assert pulse_of(runs) == pulse_of(library.runs(now=True))
