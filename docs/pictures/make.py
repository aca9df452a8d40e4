"""Make cat.png and restored.jpg of this folder: python docs/pictures/make.py. The README says how the others were made."""

from pathlib import Path

import numpy as np
from skimage import data

from eqmambair.data.io import write_image
from eqmambair.data.prepare import downscale, upscale
from eqmambair.inference import Restorer, load_trained
from eqmambair.inference.comparison import comparison, telling_box
from eqmambair.zoo import find_model

HERE = Path(__file__).resolve().parent
SIDE = 48  # pixels of the enlarged detail

if __name__ == "__main__":
    truth = np.ascontiguousarray(data.chelsea()[40:280, 80:320])
    small = downscale(truth, 2)
    write_image(HERE / "cat.png", small)
    bicubic, restored = upscale(small, 2), Restorer(load_trained(find_model("eq_mambair_deep_x2")))(small)
    panels = [("bicubic x2", bicubic), ("EQ-MambaIR x2, 101,058 parameters", restored), ("original", truth)]
    write_image(HERE / "restored.jpg", comparison(panels, telling_box(bicubic, restored, truth, SIDE), SIDE))
