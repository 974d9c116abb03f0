"""The main job: one network as a plain network, by SVI with a node prior, and by SGLD, side by side.

python -m models.lenet --data digits
"""

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pyro
import torch
import torch.nn.functional as F
import tyro
from pyro.infer import MCMC
from pyro.infer.autoguide import AutoDelta
from torch import Tensor, nn
from tqdm import tqdm

import pyro_bdl as bdl
from models import reporting
from models.networks import lenet_5_caffe, lenet_300_100
from models.outside import outside_images
from models.reporting import Method
from models.schedules import falling
from pyro_bdl.distributions.kl import log_alpha
from pyro_bdl.errors import InputError

NETWORKS = {"lenet-300-100": lenet_300_100, "lenet-5-caffe": lenet_5_caffe}


@dataclass(frozen=True)
class Settings:
    """What differs between small and large sets; chosen on validation data."""

    batch_size: int
    epochs: int
    learning_rate: float
    svi_learning_rate: float
    kl_warmup: float
    kl_weight: float
    svi_draws: int
    prior_scale: float
    sgld_step: float
    sgld_map_epochs: int
    sgld_warmup_epochs: int
    sgld_epochs: int
    sgld_draws: int
    function_points: int
    loo_draws: int


SETTINGS = {
    "digits": Settings(
        batch_size=64, epochs=120, learning_rate=2e-3, svi_learning_rate=2e-3, kl_warmup=30, kl_weight=1.0,
        svi_draws=200, prior_scale=4.0,
        sgld_step=3e-4, sgld_map_epochs=0, sgld_warmup_epochs=60, sgld_epochs=60, sgld_draws=50,
        function_points=4, loo_draws=200,
    ),
    "mnist": Settings(
        batch_size=128, epochs=80, learning_rate=1e-3, svi_learning_rate=2e-3, kl_warmup=10, kl_weight=0.2,
        svi_draws=100, prior_scale=4.0,
        sgld_step=1e-8, sgld_map_epochs=25, sgld_warmup_epochs=5, sgld_epochs=15, sgld_draws=25,
        function_points=4, loo_draws=100,
    ),
}  # fmt: skip
SETTINGS["fashion_mnist"] = SETTINGS["mnist"]


@dataclass
class Options:
    """Fit the same network in three ways and compare: plain, SVI (group normal-Jeffreys), SGLD (Gaussian prior)."""

    data: Literal["digits", "mnist", "fashion_mnist"] = "digits"
    """the images: scikit-learn's 1,797 digits (embedded), or the full sets"""
    data_dir: Path | None = None
    """where the files of the full sets are; else PYRO_BDL_DATA, else they are downloaded"""
    net: Literal["lenet-300-100", "lenet-5-caffe"] = "lenet-300-100"
    """the network; lenet-5-caffe wants images of 28 x 28"""
    out: Path = Path("out")
    """where figures and ArviZ data are written"""
    seed: int = 0
    """seeds the networks' initial values, the order of the data and all noise"""
    evaluate: Literal["test", "validation"] = "test"
    """the part that the table is about; settings are chosen on validation, which `test` keeps out of training too"""
    epochs: int | None = None
    """epochs of the plain network and of SVI; default by data set"""
    svi_prior: Literal["group-normal-jeffreys", "gaussian"] = "group-normal-jeffreys"
    """the prior of the variational fit; gaussian is SGLD's"""
    kl_weight: float | None = None
    """the weight of the KL in SVI: 1 is the evidence lower bound, less a cold posterior; default by data set"""
    chains: int = 4
    """chains of SGLD"""
    sgld_step: float | None = None
    """SGLD's first step size e (drift e/2, noise variance e); default by data set"""
    prior_scale: float | None = None
    """s of the Gaussian prior N(0, s^2 / fan-in); default by data set"""
    learning_rate: float | None = None
    """Adam's first learning rate, which falls linearly to zero; default by data set and method"""
    methods: tuple[Literal["plain", "svi", "sgld"], ...] = ("plain", "svi", "sgld")
    """which fits to run"""
    progress: Annotated[bool, tyro.conf.FlagConversionOff] = True
    """show progress bars"""


class Problem:
    """The data and the network of one run."""

    def __init__(self, options: Options) -> None:
        self.options, self.settings = options, SETTINGS[options.data]
        self.parts = bdl.data.load(options.data, root=options.data_dir, seed=0)
        self.x, self.y = self.parts.x_train, self.parts.y_train
        on_test = options.evaluate == "test"
        self.x_held = self.parts.x_test if on_test else self.parts.x_validation
        self.y_held = self.parts.y_test if on_test else self.parts.y_validation
        self.outside = outside_images(options.data, options.data_dir)
        self.classes = len(self.parts.classes or ())
        self.epochs = given(options.epochs, self.settings.epochs)
        self.gaussian = bdl.priors.Gaussian(given(options.prior_scale, self.settings.prior_scale), fan_in=True)
        node = options.svi_prior == "group-normal-jeffreys"
        self.svi_prior = bdl.priors.GroupNormalJeffreys() if node else self.gaussian
        self.learning_rate = given(options.learning_rate, self.settings.learning_rate)
        self.svi_learning_rate = given(options.learning_rate, self.settings.svi_learning_rate)

    def network(self, seed: int) -> nn.Sequential:
        """A fresh network (He initialisation of torch)."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return NETWORKS[self.options.net](self.x.shape[1:], self.classes)


def given(option: Any, default: Any) -> Any:
    """An option, or its default by data set."""
    return default if option is None else option


def signal_to_noise(scale: Any) -> Tensor:
    """mean^2 / variance of a node's scale, 1 / alpha; at least 1e-6, for the figure."""
    return log_alpha(scale.loc, scale.variance).neg().exp().clamp_min(1e-6)


def train(problem: Problem, net: nn.Module, epochs: int, *, bar: str) -> list[float]:
    """Minimise the cross-entropy by Adam; the mean loss of each epoch in nats."""
    size, rate = problem.settings.batch_size, problem.learning_rate
    optimizer = torch.optim.Adam(net.parameters(), lr=rate, fused=True)
    losses: list[float] = []
    for epoch in tqdm(range(epochs), bar, unit="epoch", disable=not problem.options.progress):
        batches = torch.randperm(len(problem.x)).split(size)
        total = 0.0
        for count, rows in enumerate(batches):
            optimizer.param_groups[0]["lr"] = rate * falling((epoch + count / len(batches)) / epochs)
            optimizer.zero_grad()
            loss = F.cross_entropy(net(problem.x[rows]), problem.y[rows])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        losses.append(total / len(problem.x))
    return losses


def fit_plain(problem: Problem) -> Method:
    """Cross-entropy and Adam."""
    net = problem.network(problem.options.seed)
    begin = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(problem.options.seed)
        train(problem, net, problem.epochs, bar="plain")
    seconds = time.perf_counter() - begin

    @torch.no_grad()
    def logits(x: Tensor) -> Tensor:
        return net(x)[None]

    return Method("plain", logits, seconds)


def fit_by_svi(problem: Problem) -> Method:
    """A group normal-Jeffreys (or other) prior and a mean-field guide with local reparameterisation."""
    options, settings = problem.options, problem.settings
    bnn = bdl.BayesianModule(problem.network(options.seed), problem.svi_prior)
    model = bdl.Classifier(bnn)
    guide = bdl.guides.AutoMeanField(model)
    fit = bdl.fit_svi(
        model, guide, (problem.x, problem.y), epochs=problem.epochs, batch_size=settings.batch_size,
        optimizer=lambda p: torch.optim.Adam(p, lr=problem.svi_learning_rate, fused=True),
        schedule=falling, kl_warmup=min(settings.kl_warmup, problem.epochs / 2),
        kl_weight=given(options.kl_weight, settings.kl_weight),
        progress=options.progress, seed=options.seed,
    )  # fmt: skip
    draws = bdl.guide_draws(guide, problem.x[:1], num_samples=settings.svi_draws, seed=options.seed)
    scales = {
        name.removesuffix(".weight.scale"): signal_to_noise(fn.base_dist)
        for name, fn in guide.distributions().items()
        if name.endswith(".scale")
    }

    def arviz() -> Any:
        return bdl.from_pyro_svi(
            model, guide, num_samples=settings.loo_draws, model_args=(problem.x, problem.y), seed=options.seed,
            var_names=[], functions=functions(problem, bnn), log_likelihood=True, progress=options.progress,
        )  # fmt: skip

    return Method(
        f"SVI, {options.svi_prior}", lambda x: bdl.predict(bnn, draws, x, batch_size=4096), fit.seconds,
        losses=[loss / len(problem.x) for loss in fit.losses], arviz=arviz, node_scales=scales,
    )  # fmt: skip


def a_mode(problem: Problem) -> dict[str, Tensor]:
    """A mode of the posterior under the Gaussian prior, from a fresh network (that network itself at 0 epochs)."""
    options, settings = problem.options, problem.settings
    fresh = bdl.BayesianModule(problem.network(int(torch.randint(2**31, ()))), problem.gaussian)
    model = bdl.Classifier(fresh)
    guide = AutoDelta(model, init_loc_fn=bdl.guides.init_to_network)
    # A program of its own, if within another, with parameters of its own: Pyro's global store would hand this guide
    # those of the one before.
    with torch.enable_grad(), pyro.poutine.block(), pyro.get_param_store().scope():
        guide(problem.x[:1], problem.y[:1])
        if settings.sgld_map_epochs:
            bdl.fit_svi(
                model, guide, (problem.x, problem.y), epochs=settings.sgld_map_epochs, estimator="plain",
                batch_size=settings.batch_size, schedule=falling, progress=options.progress,
                optimizer=lambda p: torch.optim.Adam(p, lr=problem.learning_rate, fused=True),
            )  # fmt: skip
        return guide.median()


def fit_by_sgld(problem: Problem) -> Method:
    """SGLD under a Gaussian prior, each chain from a mode of its own, or from a fresh network."""
    options, settings = problem.options, problem.settings
    bnn = bdl.BayesianModule(problem.network(options.seed), problem.gaussian)
    model = bdl.Classifier(bnn)
    per_epoch = -(-len(problem.x) // settings.batch_size)
    thinning = max(1, settings.sgld_epochs * per_epoch // settings.sgld_draws)
    kernel = bdl.SGLD(
        model, step_size=given(options.sgld_step, settings.sgld_step),
        data=(problem.x, problem.y), batch_size=settings.batch_size, init=lambda *_: a_mode(problem), thinning=thinning,
    )  # fmt: skip
    mcmc = MCMC(
        kernel, settings.sgld_draws, warmup_steps=settings.sgld_warmup_epochs * per_epoch // thinning,
        num_chains=options.chains, disable_progbar=not options.progress,
    )  # fmt: skip
    begin = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        mcmc.run()
    seconds = time.perf_counter() - begin
    draws = mcmc.get_samples()

    def arviz() -> Any:
        thin = max(1, options.chains * settings.sgld_draws // settings.loo_draws)
        return bdl.from_pyro(
            mcmc, var_names=[], functions=functions(problem, bnn), log_likelihood=True, thin=thin,
            model_args=(problem.x, problem.y), progress=options.progress,
        )  # fmt: skip

    return Method("SGLD", lambda x: bdl.predict(bnn, draws, x, batch_size=4096), seconds, arviz=arviz)


def functions(problem: Problem, bnn: bdl.BayesianModule) -> dict[str, Any]:
    """The network's logits at a few held-out images: what R-hat and effective sample sizes are about."""
    return {"logits": (bnn, problem.x_held[: problem.settings.function_points])}


FITS = {"plain": fit_plain, "svi": fit_by_svi, "sgld": fit_by_sgld}


def main(options: Options) -> list[dict[str, Any]]:
    """Fit, compare, write; the rows of the table."""
    # Pyro says that more chains than processors run one after another: so they shall.
    warnings.filterwarnings("ignore", message="num_chains=", category=UserWarning)
    if not options.methods:
        raise InputError("--methods", expected="at least one of plain, svi, sgld", got="none")
    problem = Problem(options)
    methods = [FITS[name](problem) for name in options.methods]
    held = problem.x_held, problem.y_held
    return reporting.report(methods, *held, problem.outside, problem.parts.classes, options.out)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
