"""The tests of the project. One thread a process, set before numpy or torch is imported.

Small tensors gain nothing from threads, and lose much by them wherever cores are shared, as between the workers of pytest-xdist.
Processes that tests start inherit this, so that they compute the same bits.
"""

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
