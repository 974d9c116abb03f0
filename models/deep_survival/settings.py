"""What differs between the data sets; chosen on a fifth of the training part (`--evaluate validation`)."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Settings:
    """Of the networks and of the fits."""

    hidden: tuple[int, ...] = (32,)
    """units of the hidden layers"""
    activation: Literal["relu", "tanh"] = "relu"
    """after each hidden layer"""
    intervals: int = 10
    """of the baseline hazard, with equally many events in each"""
    per_interval: bool = False
    """an output for each interval (hazards need not be proportional), instead of one for all"""
    batch_size: int = 256
    """subjects of a minibatch"""
    learning_rate: float = 1e-2
    """Adam's first, which falls to zero"""
    plain_scale: float = 1.0
    """s of the weights' prior N(0, s^2 / fan-in), of which the plain network is the mode"""
    plain_epochs: int = 200
    """of the plain network, and of the linear models"""
    svi_scale: float = 4.0
    """s of the prior of the mean-field fit"""
    svi_epochs: int = 400
    """of it"""
    svi_draws: int = 300
    """draws of the guide"""
    chain_scale: float = 2.0
    """s of the prior of the chains"""
    chains: int = 8
    """chains of SGHMC, all at once, each from a mode of its own"""
    mode_epochs: int = 100
    """towards these modes"""
    step_size: float = 0.03
    """of SGHMC, times the number of subjects"""
    friction: float = 0.05
    """of SGHMC"""
    chain_batch_size: int = 512
    """subjects of SGHMC's minibatches, at most"""
    warmup: int = 1000
    """updates before the first draw"""
    updates: int = 2000
    """updates after that"""
    thinning: int = 50
    """updates a draw"""


SETTINGS = {
    "synthetic": Settings(
        plain_scale=0.5, plain_epochs=80, svi_scale=1.0, svi_epochs=150, chain_scale=1.0, mode_epochs=40, chains=6,
    ),
    "metabric": Settings(
        intervals=5, per_interval=True, plain_scale=1.0, plain_epochs=200, svi_scale=1.0, svi_epochs=400,
        chain_scale=1.5, mode_epochs=100,
    ),
    "support": Settings(
        hidden=(32, 32), per_interval=True, plain_scale=0.7, plain_epochs=70, svi_scale=1.0, svi_epochs=90,
        chain_scale=1.0, mode_epochs=40, step_size=0.02, chains=6,
    ),
    "whas": Settings(
        hidden=(64, 64), plain_scale=4.0, plain_epochs=300, svi_scale=4.0, svi_epochs=300, chain_scale=8.0,
        mode_epochs=300, step_size=0.003, warmup=500, updates=2500, chains=4,
    ),
}  # fmt: skip
