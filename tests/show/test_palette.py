import numpy as np
import pytest

from streamumap.show.palette import DARK, LIGHT, linear, to_srgb


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_the_palette_is_distinct(theme):
    colours = to_srgb(linear([*theme.palette, theme.other, theme.page]))
    apart = np.linalg.norm(colours[:, None] - colours[None], axis=2) + np.eye(len(colours))
    assert len(theme.palette) == 20 and apart.min() > 0.12
