"""mmdet3d 1.4 on versions of its dependencies that came after it."""

import numpy as np

# numpy 1.24 to 1.26 lack the name, which mmdet3d's ObjectSample uses; numpy 2 has it again
if 'long' not in vars(np):
    np.long = np.int_  # type: ignore[attr-defined]
