"""The commands of latent-variable models run, write what they promise, go on where they stopped, and learn."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pyro_bdl as bdl
from models import semi_supervised_vae, vae
from models.distortions import distorted
from models.semi_supervised_settings import Changes, Options
from pyro_bdl.errors import InputError
from tests.fresh_state import fresh_state  # noqa: F401

QUICK: dict[str, Any] = {"progress": False, "learning_rate": 3e-3}
SHORT: dict[str, Any] = QUICK | {"epochs": 4, "log_marginal_samples": 50, "batch_size": 200}

VAES: dict[str, dict[str, Any]] = {
    "the default": {},
    "importance weighted": {"objective": "iwae", "samples": 3},
    "doubly reparameterised": {"objective": "dreg", "samples": 3},
    "score function": {"objective": "score-function"},
    "two layers": {"layers": 2, "latent_size": 10},
    "convolutional": {"network": "convolutional", "latent_size": 8},
    "Bayesian decoder": {"decoder_prior": "group-normal-jeffreys", "latent_size": 8},
    "free bits": {"beta": 0.5, "free_bits": 0.1, "kl_warmup": 0.5},
}


@pytest.mark.parametrize("case", VAES)
@pytest.mark.filterwarnings("ignore::pyro_bdl.errors.PosteriorCollapseWarning")  # after four epochs it may be
def test_vae_command(case: str, tmp_path: Path) -> None:
    rows = vae.run(vae.Options(**SHORT | VAES[case] | {"out": tmp_path}))
    nats = rows[0]["-log p(x), nats"]
    assert 10 < nats < 64 * math.log(2)  # better than even odds for each pixel
    written = {path.name for path in tmp_path.iterdir()}
    assert {
        "vae.json",
        "reconstructions.png",
        "samples.png",
        "latent_plane.png",
        "latent_kl.png",
        "latent.nc",
    } <= written
    assert json.loads((tmp_path / "vae.json").read_text())["rows"][0]["-log p(x), nats"] == nats


def test_vae_goes_on(tmp_path: Path) -> None:
    """A run that was stopped ends with the very bits of one that was not."""
    x = bdl.data.load("digits").x_train[:300]
    options = vae.Options(**SHORT | {"out": tmp_path, "objective": "iwae", "samples": 2, "latent_size": 4})
    whole, _ = vae.fit(options, x)
    options.checkpoint = tmp_path / "vae.ckpt"
    stopped = bdl.fit_svi

    def stop(*args: Any, **kwargs: Any) -> Any:
        return stopped(*args, **kwargs, callbacks=[lambda progress: progress.epoch == 1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vae.bdl, "fit_svi", stop)
        vae.fit(options, x)
    resumed, history = vae.fit(options, x)
    assert len(history.losses) == 4
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.filterwarnings("ignore::pyro_bdl.errors.PosteriorCollapseWarning")
def test_vae_begins_with_the_weights_of_an_earlier_fit(tmp_path: Path) -> None:
    x = bdl.data.load("digits").x_train
    earlier = vae.Options(**SHORT | {"out": tmp_path})
    vae.run(earlier)
    first, history = vae.fit(earlier, x)
    later = replace(earlier, start=tmp_path / "vae.safetensors", objective="iwae", samples=2, epochs=1)
    assert vae.fit(later, x)[1].losses[0] < history.losses[1]
    with pytest.raises(InputError, match=r"start: expected weights of networks of these sizes.*\.safetensors"):
        vae.fit(replace(later, latent_size=7), x)
    (tmp_path / "none.safetensors").write_text("none")
    for bad in (tmp_path / "none.safetensors", tmp_path / "missing.safetensors", tmp_path):
        with pytest.raises(InputError, match=f"start: expected a safetensors file of weights, got {bad}"):
            vae.fit(replace(later, start=bad), x)
    assert vae.fit(replace(later, objective="score-function", samples=1), x)[0].baseline is not None
    assert {*load_file(tmp_path / "vae.safetensors")} == {*first.state_dict()}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "beta of another bound": ({"objective": "iwae", "beta": 4.0}, "beta and free bits with iwae"),
    "free bits of another bound": ({"objective": "dreg", "free_bits": 3.0}, "beta and free bits with dreg"),
    "no epochs": ({"epochs": 0}, "epochs: expected at least 1, got 0"),
    "a warm-up in epochs": ({"kl_warmup": 30.0}, "kl_warmup: expected a share of the epochs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_no_option_of_an_autoencoder_is_ignored(case: str) -> None:
    options, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        vae.fit(vae.Options(**SHORT | options), torch.zeros(10, 1, 8, 8))


@pytest.mark.parametrize(
    ("variant", "classifier"), [("m1", "dense"), *itertools.product(["m2", "m1+m2"], ["dense", "convolutional"])]
)
@pytest.mark.filterwarnings("ignore::pyro_bdl.errors.PosteriorCollapseWarning")
def test_semi_supervised_command(variant: Any, classifier: Any, tmp_path: Path) -> None:
    quick = Changes(epochs=10, hidden=(64,), latent_size=8)
    options = Options(
        variant=variant, classifier=classifier, out=tmp_path, m1=replace(quick, epochs=30), m2=quick, progress=False
    )
    rows = semi_supervised_vae.run(options)
    assert rows[0]["error %"] < 60  # chance is 90
    written = {path.name for path in tmp_path.iterdir()}
    assert {"semi_supervised_vae.json", "bound.png", "latent.nc", "mistakes.png"} <= written
    assert ("analogies.png" in written) == (variant != "m1")
    for model in ("m1", "m2"):
        assert (f"{model}.safetensors" in written) == (model in variant)


def test_another_semi_supervised_fit_does_not_go_on_with_this_one(tmp_path: Path) -> None:
    """One of another seed, weight of classification or labels, though the files begin with the same name."""
    first = Options(m2=Changes(epochs=1, hidden=(8,), latent_size=2), checkpoint=tmp_path / "fit", progress=False)

    def fit(options: Options) -> list[float]:
        problem = semi_supervised_vae.Problem.load(options)
        return semi_supervised_vae.run_m2(problem)[1]["losses"]

    others = [replace(first, seed=1), replace(first, alpha=9.0), replace(first, labels=50)]
    with torch.random.fork_rng():
        losses = []
        for options in (first, *others):
            torch.manual_seed(0)
            losses.append(fit(options))
    assert len({loss[0] for loss in losses}) == 4


def test_distortions_are_small_and_differ() -> None:
    """The centre of a square stays within a 14th of the side; no two images are alike."""
    x = torch.zeros(200, 1, 28, 28)
    x[..., 10:18, 10:18] = 1.0
    torch.manual_seed(0)
    moved = distorted(x)
    places = torch.arange(28.0) - 13.5
    mass = moved.sum((1, 2, 3))
    for axis in (2, 3):
        centres = (moved.sum((1, 5 - axis)) * places).sum(1) / mass
        assert centres.abs().max() <= 2.3  # two pixels, and what interpolation adds
        assert centres.std() > 1.0
    assert (mass / 64 - 1).abs().max() < 0.35  # two tenths longer and wider, or shorter and narrower
    assert len(mass.unique()) > 190
