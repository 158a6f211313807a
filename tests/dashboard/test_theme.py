import re
from urllib.parse import unquote

import numpy as np
import pytest
from plotly.colors import sample_colorscale, unlabel_rgb

from qprobe.dashboard import theme


def luminance(colour):
    """WCAG 2.2, relative luminance of #rrggbb."""
    parts = np.frombuffer(bytes.fromhex(colour[1:]), dtype=np.uint8) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_icon_of_the_tab_is_part_of_the_page():
    (address,) = re.findall(r'<link rel="icon" href="data:image/svg\+xml,(.*?)">', theme.INDEX)
    cells = re.findall(r'<rect .*?fill="(#[0-9a-f]{6})"/>', unquote(address))
    assert len(cells) == 4
    assert len(set(cells)) == 3  # two alike, one grey, one that fails
    assert "{%favicon%}" not in theme.INDEX  # nor asked for at every page


def test_contrast_is_what_the_standard_says():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("dark", [False, True])
def test_what_is_told_under_the_pointer_can_be_read(dark):
    label = theme.template(dark).layout.hoverlabel
    assert contrast(label.bgcolor, label.font.color) >= 7
    for line in theme.lines(dark):  # each with its sample of colour
        assert contrast(label.bgcolor, line) >= 3


def test_a_value_can_be_read_on_every_colour_of_a_map():
    for share in np.linspace(0, 1, 101):
        (drawn,) = sample_colorscale(theme.SEQUENTIAL, [share])
        colour = "#" + bytes(round(part) for part in unlabel_rgb(drawn)).hex()
        assert contrast(colour, theme.ink_on(share)) >= 4.5, share
