"""What autoencoders refuse, in which words, and that the parameters stay as they were."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI
from torch import Tensor, nn

import pyro_bdl as bdl
from pyro_bdl.errors import InputError
from pyro_bdl.latent import Categorical, Concatenated, ContinuousBernoulli, Gaussian, Poisson, Summed
from pyro_bdl.minibatches import Batch
from tests.latent.programs import CLASSES, PIXELS, black_and_white, semi_supervised

X = black_and_white(12, PIXELS).float()
Y = torch.arange(12) % CLASSES


def linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs)


def vae(*arguments: Any, **options: Any) -> Any:
    given = arguments or (linear(PIXELS, 4), linear(2, PIXELS), 2)
    return bdl.VariationalAutoencoder(*given, **options)


def m2(**options: Any) -> Any:
    return semi_supervised(**options).float()


def changed(data: Tensor, value: Any) -> Tensor:
    data = data.clone()
    data[(-1,) * data.dim()] = value
    return data


Case = tuple[Callable[[], Any], str]
MADE: dict[str, Case] = {
    "latent_size 0": (lambda: vae(linear(4, 4), linear(2, 4), 0), r"sizes of at least 1, got 1, 1 and the sizes \[0\]"),
    "latent_size 2.5": (lambda: vae(linear(4, 4), linear(2, 4), 2.5), r"the sizes \[2.5\]"),
    "no latent sizes": (lambda: vae([], [], []), "got 0, 0 and"),
    "lengths": (lambda: vae([linear(4, 4)] * 2, [linear(2, 4)], [2, 1]), r"as many of each.* got 2, 1 and .*\[2, 1\]"),
    "a Bayesian encoder": (lambda: vae(bdl.BayesianModule(linear(4, 4)), linear(2, 4), 2), "got a BayesianModule"),
    "no network": (lambda: vae(lambda x: x, linear(2, 4), 2), "encoder: expected a network .* got function"),
    "another gradient": (lambda: vae(gradient="reinforce"), "score-function.* got 'reinforce'"),
    "a baseline without score function": (lambda: vae(baseline=linear(4, 1)), "got 'reparameterised' with a baseline"),
    "one class": (lambda: m2(classes=1), "classes: expected at least 2, got 1"),
    "latent_size 0 of M2": (lambda: m2(latent_size=0), "latent_size: expected at least 1, got 0"),
    "latent_size 2.5 of M2": (lambda: m2(latent_size=2.5), "latent_size: expected an integer, got 2.5"),
    "3.0 classes": (lambda: m2(classes=3.0), "classes: expected an integer, got 3.0"),
    "an infinite probability": (
        lambda: m2(class_probabilities=torch.tensor([1.0, math.inf, 1.0])),
        "3 positive numbers",
    ),
    "two probabilities": (lambda: m2(class_probabilities=torch.ones(2)), "3 positive numbers"),
    "a probability of 0": (lambda: m2(class_probabilities=torch.tensor([1.0, 0.0, 1.0])), "3 positive numbers"),
    "a Bayesian classifier": (lambda: m2(classifier=bdl.BayesianModule(linear(4, 3))), "got a BayesianModule"),
    "alpha below 0": (
        lambda: bdl.SemiSupervisedPair(m2(), alpha=-0.1),
        "alpha: expected a finite number, 0 or more",
    ),
    "alpha nan": (lambda: bdl.SemiSupervisedPair(m2(), alpha=math.nan), "alpha: expected a finite number"),
    "size 0": (lambda: vae(size=0), "size: expected at least 1, got 0"),
    "size -1 of M2": (lambda: m2(size=-1), "size: expected at least 1, got -1"),
    "size 2.5": (lambda: vae(size=2.5), "size: expected an integer, got 2.5"),
    "2.5 labelled data": (lambda: bdl.SemiSupervisedPair(m2(), size=2.5), "size: expected an integer, got 2.5"),
    "no labelled data at all": (lambda: bdl.SemiSupervisedPair(m2(), size=0), "size: expected at least 1, got 0"),
}


@pytest.mark.parametrize("case", MADE)
def test_refused_when_made(case: str) -> None:
    make, message = MADE[case]
    with pytest.raises(InputError, match=message):
        make()


def both(made: Any = None, **options: Any) -> Any:
    made = made or m2()
    pair = bdl.SemiSupervisedPair(made, **options)
    pair.parameters = made.parameters
    return pair


def beside() -> Any:
    return vae(Concatenated(linear(PIXELS + 2, 4)), Concatenated(linear(2 + 2, PIXELS)), 2)


def summed() -> Any:
    return vae(Summed([PIXELS, 2], 4, nn.Tanh()), Summed([2, 2], PIXELS, nn.Tanh()), 2)


MANY = "size=12, the number of data points|x: expected at most 10 rows, the size of the data, got 12"

# Of each call the pair of model and guide, the data, and what is said.
CALLS: dict[str, tuple[Callable[[], Any], tuple[Tensor, ...], str]] = {
    "no rows": (vae, (X[:0],), "at least one row|at least one data point"),
    "no rows of M2": (m2, (X[:0],), "at least one row|at least one data point"),
    "grey for black and white": (vae, (changed(X, 0.5),), "observations of x: expected values in .*, got 0.5"),
    "a 2 for black and white": (vae, (changed(X, 2.0),), "observations of x: .* got 2.0"),
    "a 2 for M2": (m2, (changed(X, 2.0),), "observations of x: .* got 2.0"),
    "a 2 for labelled M2": (m2, (changed(X, 2.0), Y), "observations of x: .* got 2.0"),
    "1.5 for grey": (lambda: vae(likelihood=ContinuousBernoulli()), (changed(X, 1.5),), "of x: .* got 1.5"),
    "-1 for counts": (lambda: vae(likelihood=Poisson()), (changed(X, -1.0),), "of x: .* got -1.0"),
    "0.5 for counts": (lambda: vae(likelihood=Poisson()), (changed(X, 0.5),), "of x: .* got 0.5"),
    "4 for classes": (
        lambda: vae(linear(4, 4), linear(2, 12), 2, likelihood=Categorical(3)), (changed(X, 4.0),), "of x: .* got 4",
    ),
    "a narrow encoder": (lambda: vae(linear(4, 3), linear(2, 4), 2), (X,), r"encoder: expected outputs .*\(batch, 4\)"),
    "a narrow decoder": (
        lambda: vae(linear(4, 4), linear(2, 3), 2), (X,), r"decoder's output: expected 4 .* got rows of shape \(3,\)",
    ),
    "a decoder without scales": (
        lambda: vae(likelihood=Gaussian()), (X,), r"decoder's output: expected 8 numbers .* got rows of shape \(4,\)",
    ),
    "an upper decoder": (
        lambda: vae([linear(4, 4), linear(2, 2)], [linear(2, 4), linear(1, 3)], [2, 1]), (X,),
        r"the decoder: expected outputs of shape \(batch, 4\)",
    ),
    "a classifier of two": (lambda: m2(classifier=linear(4, 2)), (X,), r"classifier's output: .* shape \(12, 3\)"),
    "an encoder of M2": (
        lambda: m2(encoder=Concatenated(linear(7, 3))), (X,), r"the encoder: expected outputs of shape \(batch, 4\)",
    ),
    "a decoder of M2": (
        lambda: m2(decoder=Concatenated(linear(5, 3))), (X,), "decoder's output: expected 4 numbers a row",
    ),
    "the label 3": (m2, (X, changed(Y, 3)), r"labels: expected integers in \[0, 3\), got the label 3"),
    "the label -1": (m2, (X, changed(Y, -1)), r"labels: expected integers in \[0, 3\), got the label -1"),
    "labels as floats": (m2, (X, Y.float()), r"labels: expected integers in \[0, 3\), got torch.float32"),
    "a label each": (m2, (X, Y[:, None]), r"labels: expected one for each of the 12 rows, got shape \(12, 1\)"),
    "no labelled rows": (both, (X, X[:0], Y[:0]), r"at least one row of shape \(4,\), got shape \(0, 4\)"),
    "no unlabelled rows": (both, (X[:0], X, Y), "at least one row|at least one data point"),
    "fewer labels": (both, (X, X, Y[:11]), r"labels: expected one for each of the 12 rows, got shape \(11,\)"),
    "labels as floats beside": (both, (X, X, Y.float()), r"labels: expected integers in \[0, 3\), got torch.float32"),
    "the label 3 beside": (both, (X, X, changed(Y, 3)), r"labels: expected integers in \[0, 3\), got the label 3"),
    "more labelled than there are": (lambda: both(size=5), (X, X, Y), "labelled data: expected 1 to 5 rows of shape"),
    "labelled rows of another size": (both, (X, X[:, :3], Y), r"rows? of shape \(4,\), got shape \(12, 3\)"),
    "not a number": (vae, (changed(X, math.nan),), r"expected finite numbers, got nan at \[11, 3\]"),
    "not a number for M2": (m2, (changed(X, math.nan),), r"expected finite numbers, got nan at \[11, 3\]"),
    "not a number for labelled M2": (m2, (changed(X, math.nan), Y), r"expected finite numbers, got nan at \[11, 3\]"),
    "not a number shown": (m2, (X, Y, changed(X, math.nan)), "tensor 2 of a batch: expected finite numbers"),
    "infinity among the labelled": (both, (X, changed(X, math.inf), Y), "tensor 1 .* finite numbers, got inf"),
    "a condition of one number": (beside, (X, Y.float()), r"an input: expected rows of numbers, got shape \(12,\)"),
    "a condition of one number for a sum": (
        summed, (X, Y.float()), r"an input: expected rows of 2 numbers, got shape \(12,\)",
    ),
    "more rows than there are": (lambda: vae(size=10), (X,), MANY),
    "more rows for M2": (lambda: m2(size=10), (X,), MANY),
    "more rows beside labelled ones": (lambda: both(m2(size=10)), (X, X[:3], Y[:3]), MANY),
    "a 2 among the labelled": (both, (X, changed(X, 2.0), Y), "observations of labelled.x: .* got 2.0"),
}  # fmt: skip


def refuses(case: str, run: Callable[[Any, tuple[Tensor, ...]], Any]) -> None:
    make, data, message = CALLS[case]
    pair = make()
    before = [parameter.detach().clone() for parameter in pair.parameters()]
    assert before
    with pytest.raises(InputError, match=f"(?s){message}"):
        run(pair, data)
    assert all(torch.equal(p, b) for p, b in zip(pair.parameters(), before, strict=True))


@pytest.mark.parametrize("case", CALLS)
def test_pyros_svi(case: str) -> None:
    """Under Pyro's own validation, which is on."""

    def step(pair: Any, data: tuple[Tensor, ...]) -> None:
        SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.1}), bdl.MeanFieldELBO()).step(*data)

    refuses(case, step)


@pytest.mark.parametrize("case", CALLS)
def test_fit_svi(case: str) -> None:
    def fit(pair: Any, data: tuple[Tensor, ...]) -> None:
        bdl.fit_svi(pair.model, pair.guide, [Batch(data)], epochs=2, progress=False)

    refuses(case, fit)


# Of M2, without a fit.
ASKED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "the style of label 3": (lambda vae: vae.style(X[:2], torch.tensor([0, 3])), "got the label 3"),
    "the style of label -1": (lambda vae: vae.style(X[:2], torch.tensor([0, -1])), "got the label -1"),
    "the style of a label as float": (lambda vae: vae.style(X[:1], torch.ones(1)), "got torch.float32"),
    "the mean of label 3": (lambda vae: vae.decode(torch.zeros(2, 2), torch.tensor([0, 3])), "got the label 3"),
    "the mean of label 1.9": (lambda vae: vae.decode(torch.zeros(1, 2), torch.tensor([1.9])), "got torch.float32"),
    "the mean of true": (lambda vae: vae.decode(torch.zeros(1, 2), torch.tensor([True])), "got torch.bool"),
}


@pytest.mark.parametrize("case", ASKED)
def test_labels_are_checked_wherever_they_are_taken(case: str) -> None:
    ask, message = ASKED[case]
    with pytest.raises(InputError, match=rf"labels: expected integers in \[0, 3\), {message}"):
        ask(m2())


@pytest.mark.parametrize("outputs", [2, 5])
def test_a_classifier_of_other_classes_does_not_classify(outputs: int) -> None:
    with pytest.raises(InputError, match=rf"classifier's output: expected shape \(12, 3\), got \(12, {outputs}\)"):
        m2(classifier=linear(PIXELS, outputs)).classify(X)


@pytest.mark.parametrize(
    "name",
    ["grey for black and white", "no rows", "not a number", "a condition of one number", "more rows than there are"],
)
def test_log_marginal(name: str) -> None:
    refuses(name, lambda pair, data: bdl.log_marginal(pair.model, pair.guide, *data, num_samples=3))


def test_latent_kl() -> None:
    refuses("more rows than there are", lambda pair, data: bdl.diagnostics.latent_kl(pair.model, pair.guide, *data))


def test_more_are_generated_than_there_are_data() -> None:
    assert vae(size=10).generate(100).shape == (100, PIXELS)


def test_a_bad_batch_after_good_ones_leaves_all_as_before() -> None:
    pair = vae()
    before = [parameter.detach().clone() for parameter in pair.parameters()]
    with pytest.raises(InputError, match="observations of x"):
        bdl.fit_svi(pair.model, pair.guide, [X[:4], X[4:8], changed(X[8:], 0.5)], epochs=3, progress=False)
    assert all(torch.equal(p, b) for p, b in zip(pair.parameters(), before, strict=True))


def test_frozen_networks_stay_as_they_are() -> None:
    """A parameter that asks for no gradient is not learned, by Pyro's store either."""
    pair = vae()
    pair.encoder.requires_grad_(False)
    before = [parameter.detach().clone() for parameter in pair.encoder.parameters()]
    bdl.fit_svi(pair.model, pair.guide, X, epochs=3, progress=False)
    SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.1}), bdl.MeanFieldELBO()).step(X)
    assert all(torch.equal(p, b) for p, b in zip(pair.encoder.parameters(), before, strict=True))
    assert not any(parameter.requires_grad for parameter in pair.encoder.parameters())
