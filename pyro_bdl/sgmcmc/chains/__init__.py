"""Many chains at once: in one process or several, to disk, and on from where they stopped."""

from pyro_bdl.sgmcmc.chains.draws import Chains
from pyro_bdl.sgmcmc.chains.sampling import sample_chains

__all__ = ["Chains", "sample_chains"]
