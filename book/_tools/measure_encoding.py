"""What it takes to encode CamVid once: processor time of a frozen DINOv2 ViT-S/14, on one core.

    OMP_NUM_THREADS=1 python book/_tools/measure_encoding.py

Writes data/runs/camvid_encoding/results.json for the chapter on real streets. Needs neither the
photographs nor the weights: a forward pass takes as long on random numbers of the same shape.
"""

import statistics
import time

import torch
from records import RUNS, about, options, write

from setr_lite.model import SETR
from setr_lite.recipes import get_recipe

IMAGES = 20
SIZE = (364, 490)  # 360 x 480, padded to whole patches of 14


def main(words=None):
    parser = options(__doc__)
    parser.add_argument("--images", type=int, default=IMAGES)
    images = parser.parse_args(words).images
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = get_recipe("camvid_dinov2_linear").model
    encoder = SETR.from_config(model).encoder.eval()
    facts = about("OMP_NUM_THREADS=1 python book/_tools/measure_encoding.py") | {"seed": 0}
    found = []
    with torch.no_grad():
        for _ in range(images + 1):  # the first one warms up
            image = torch.randn(1, 3, *SIZE)
            began = time.process_time()
            encoder(image)
            found.append(time.process_time() - began)
    facts["processor_seconds"] = [round(value, 3) for value in found[1:]]
    facts["median"] = round(statistics.median(found[1:]), 3)
    write(RUNS / "camvid_encoding" / "results.json", facts)


if __name__ == "__main__":
    main()
