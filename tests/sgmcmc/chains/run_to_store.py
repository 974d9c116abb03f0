"""A run in a process of its own: `python -m tests.sgmcmc.chains.run_to_store FOLDER KERNEL METHOD SAMPLES`.

The tests kill it, or start several by torchrun.
"""

import signal
import sys
from typing import Any

import pyro_bdl as bdl
from pyro_bdl.sgmcmc.chains import run
from tests.sgmcmc.chains.problems import KERNELS

SETTINGS: dict[str, Any] = {"warmup_steps": 3, "num_chains": 3, "seed": 4, "moments": True, "progress": False}


def main(folder: str, kernel: str, method: Any, samples: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    run.SECONDS = 0.05  # a save every few draws
    run.FIRST = 2
    bdl.sample_chains(
        KERNELS[kernel](), num_samples=int(samples), store=folder, resume=True, chain_method=method, **SETTINGS
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
