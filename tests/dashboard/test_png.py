import base64
from io import BytesIO

import numpy as np
from PIL import Image

from qprobe.dashboard.png import picture


def test_pillow_reads_the_same_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 11, 3), dtype=np.uint8)
    data = base64.b64decode(picture(pixels).partition(",")[2])
    with Image.open(BytesIO(data)) as read:
        np.testing.assert_array_equal(np.asarray(read.convert("RGB")), pixels)
