"""Data, network, model and guide of `models.bayesian_compression`, and how they are fitted."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from pyro.infer.autoguide import AutoDelta
from torch import Tensor, nn

import pyro_bdl as bdl
from models.augmentation import FlipsAndCrops
from models.batch_norm import absorb_statistics
from models.compression_figures import Recorder
from models.compression_settings import DATA, NETWORKS, PRIORS, Options, Settings
from models.schedules import falling
from pyro_bdl.data.dataset import Dataset
from pyro_bdl.errors import InputError

MIXTURE = "mixture."


class Problem:
    """Data, network, model and guide of one run."""

    def __init__(self, options: Options) -> None:
        self.options, self.settings = options, options.settings
        if options.guide == "point" and options.prior != "soft-weight-sharing":
            raise InputError("--guide point", expected="soft weight sharing, whose clusters code it", got=options.prior)
        if options.codebook == "mixture" and options.prior != "soft-weight-sharing":
            raise InputError("--codebook mixture", expected="soft weight sharing", got=options.prior)
        make = NETWORKS[options.net]
        if options.net == "vgg":
            make = partial(make, width=options.width)
        elif options.width != 1.0:
            raise InputError("--width", expected=f"1 for {options.net}", got=str(options.width))
        self.parts = bdl.data.load(options.data or DATA.get(options.net, "mnist"), root=options.data_dir, seed=0)
        if self.settings.colour_images:
            self.parts = standardised(self.parts)
        self.parts = to_device(self.parts, options.device)
        self.x, self.y = self.parts.x_train, self.parts.y_train
        self.augmented = None
        if self.settings.colour_images and self.x.shape[1] == 3:
            size = self.settings.batch_size
            self.augmented = FlipsAndCrops(self.x, self.y, batch_size=size, seed=options.seed)
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            self.net = make(self.x.shape[1:], len(self.parts.classes or ())).to(options.device)
        if self.settings.pretraining and options.posterior is None:
            pretrain(self.net, self.epoch, self.settings, seed=options.seed)
        absorb_statistics(self.net)
        self.prior = PRIORS[options.prior]()
        if isinstance(self.prior, bdl.priors.SoftWeightSharing):
            self.prior.hyper_weight = self.settings.kl_weight
        self.model = bdl.Classifier(bdl.BayesianModule(self.net, self.prior).to(options.device))
        self.guide: Any = (
            AutoDelta(self.model, init_loc_fn=bdl.guides.init_to_network)
            if options.guide == "point"
            else bdl.guides.AutoMeanField(self.model, init_scale=self.settings.init_scale)
        )
        self.guide(self.x[:1], self.y[:1])  # so that it meets its model

    def epoch(self) -> Iterable[Any]:
        """The batches of one epoch, in a new order."""
        if self.augmented is not None:
            return self.augmented
        return ((self.x[rows], self.y[rows]) for rows in torch.randperm(len(self.x)).split(self.settings.batch_size))

    @property
    def codebook(self) -> Any:
        """That of the file, as `compress` takes it."""
        chosen = self.options.codebook
        return self.mixture if chosen == "mixture" or (chosen is None and self.options.guide == "point") else chosen

    @property
    def mixture(self) -> bdl.priors.SoftWeightSharing | None:
        """That of soft weight sharing."""
        return self.prior if isinstance(self.prior, bdl.priors.SoftWeightSharing) else None

    def state(self) -> dict[str, Tensor]:
        """Posterior and mixture."""
        mixture = {} if self.mixture is None else self.mixture.state_dict()
        return {**self.guide.state_dict(), **{MIXTURE + name: value for name, value in mixture.items()}}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """What `state` gave."""
        self.guide.load_state_dict({name: v for name, v in state.items() if not name.startswith(MIXTURE)})
        if self.mixture is not None:
            own = {name.removeprefix(MIXTURE): v for name, v in state.items() if name.startswith(MIXTURE)}
            self.mixture.load_state_dict(own)

    def optimizer(self, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
        """Adam; the mixture's parameters at rates of their own."""
        rate, (of_means, of_others) = self.settings.learning_rate, self.settings.mixture_rates
        prior = self.mixture
        means = [] if prior is None else [prior.means]
        others = [] if prior is None else [prior.log_variances, prior.logits, prior.zero_log_variance]
        own = {id(p) for p in (*means, *others)}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if id(p) not in own]},
            {"params": means, "lr": of_means * rate}, {"params": others, "lr": of_others * rate},
        ]  # fmt: skip
        return torch.optim.Adam([group for group in groups if group["params"]], lr=rate, fused=True)

    def fit(self, recorder: Recorder | None) -> bdl.Fit:
        """The variational fit."""
        options, settings = self.options, self.settings
        return bdl.fit_svi(
            self.model, self.guide, self.augmented or (self.x, self.y), epochs=settings.epochs,
            batch_size=None if self.augmented else settings.batch_size,
            optimizer=self.optimizer, schedule=falling, estimator="plain" if options.guide == "point" else "local",
            kl_weight=lambda t: settings.kl_weight if t < 0.5 else settings.last_kl_weight,
            kl_warmup=min(settings.kl_warmup, settings.epochs / 2),
            progress=options.progress, seed=options.seed, callbacks=[] if recorder is None else [recorder],
            shrink=options.shrink, checkpoint=options.checkpoint,
        )  # fmt: skip

    @property
    def retraining(self) -> bdl.Retraining | None:
        """How what is left adapts to its code, if it does."""
        options, settings = self.options, self.settings
        epochs = options.retraining
        if epochs is None:
            epochs = max(settings.epochs // 2, 1) if options.draw else 0
        weight = options.retraining_kl_weight or settings.last_kl_weight
        if not epochs:
            return None
        return bdl.Retraining(
            (self.x, self.y), epochs=epochs, learning_rate=options.retraining_rate, kl_weight=weight,
            batch_size=settings.batch_size, seed=options.seed,
        )  # fmt: skip


def standardised(parts: Dataset) -> Dataset:
    """Images less their mean, over their deviation, channel by channel of the training images."""
    x = parts.x_train
    mean, scale = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)
    return replace(
        parts, **{name: (getattr(parts, name) - mean) / scale for name in ("x_train", "x_validation", "x_test")}
    )


def to_device(parts: Dataset, device: str) -> Dataset:
    """All tensors of a data set on a device."""
    tensors = {name: value for name, value in vars(parts).items() if isinstance(value, Tensor)}
    moved: Any = {name: value.to(device) for name, value in tensors.items()}
    return replace(parts, **moved)


def pretrain(net: nn.Module, data: Callable[[], Iterable[Any]], settings: Settings, *, seed: int) -> None:
    """A plain network, by Adam on the cross-entropy of the batches that `data` gives in each epoch."""
    first, last = settings.pretraining_rates
    optimizer = torch.optim.Adam(net.parameters(), lr=first, fused=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for epoch in range(settings.pretraining):
            optimizer.param_groups[0]["lr"] = first + (last - first) * epoch / settings.pretraining
            for x, y in data():
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimizer.step()
