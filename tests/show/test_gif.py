import numpy as np
import pytest
from show_checks import cloud

from streamumap.errors import InputError
from streamumap.show.annotations import ShowOptions
from streamumap.show.gif import animate_run


def test_the_run_on_its_way(real, tmp_path):
    from PIL import Image

    with pytest.raises(InputError, match="expected snapshots to animate, found none; .* --snapshots 30"):
        animate_run(real.run, tmp_path / "m.gif")
    (real.run / "snapshots").mkdir()
    for epoch in (10, 20, 100):
        np.save(real.run / "snapshots" / f"epoch_{epoch:06d}.npy", cloud(300) * epoch)
    animate_run(real.run, tmp_path / "m.gif", ShowOptions(colors=("feature:3",)), 200)
    with Image.open(tmp_path / "m.gif") as gif:
        assert gif.n_frames == 4 and gif.info["loop"] == 0 and gif.size == (250, 200)
        assert gif.convert("RGB").getpixel((0, 0)) == (255, 255, 255), "the page is not white"
