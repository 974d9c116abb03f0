"""The figures: what they draw is what they were given, they touch no global state, and they refuse bad input."""

import io
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pyro_bdl.diagnostics import plots
from pyro_bdl.diagnostics.calibration import reliability_bins
from pyro_bdl.diagnostics.ood import auroc, predictive_entropy
from pyro_bdl.errors import InputError

RNG = np.random.default_rng(0)
DRAWS = RNG.dirichlet(np.ones(3), size=(20, 40))
LABELS = RNG.integers(3, size=40)
STRANGE = RNG.dirichlet(np.full(3, 9.0), size=(20, 15))
IMAGES = RNG.uniform(size=(40, 8, 8))
CHAINS = RNG.normal(size=(4, 200))
X = np.linspace(-1, 1, 30)
F = RNG.normal(size=(50, 30)) + X

FIGURES: dict[str, Callable[[], Figure]] = {
    "loss_curve": lambda: plots.loss_curve({"a": RNG.normal(size=500), "b": RNG.normal(size=40)}, steps_per_epoch=5),
    "loss_curve, a steep start": lambda: plots.loss_curve(np.r_[1e6, RNG.normal(size=500)]),
    "loss_curve, constant": lambda: plots.loss_curve(torch.ones(3)),
    "reliability_diagram": lambda: plots.reliability_diagram({"a": DRAWS, "b": DRAWS[0]}, LABELS),
    "entropy_histograms": lambda: plots.entropy_histograms({"m": {"in": DRAWS, "out": STRANGE}}, classes=3),
    "entropy_histograms, of zero": lambda: plots.entropy_histograms({"m": {"in": np.zeros(5), "out": np.zeros(3)}}),
    "most_uncertain": lambda: plots.most_uncertain(IMAGES, DRAWS, LABELS, count=6),
    "most_uncertain, in colour": lambda: plots.most_uncertain(
        RNG.normal(size=(40, 3, 8, 8)), DRAWS, LABELS, count=1, class_names=["cat", "dog", "horse"]
    ),
    "node_scales": lambda: plots.node_scales({"fc1": RNG.lognormal(size=30), "fc2": [1.0]}, threshold=0.5),
    "node_scales, many layers": lambda: plots.node_scales({f"fc{i}": RNG.lognormal(size=9) for i in range(6)}),
    "trace_and_rank": lambda: plots.trace_and_rank({"f(0)": CHAINS, "f(1)": torch.tensor(CHAINS[:1])}),
    "trace_and_rank, constant": lambda: plots.trace_and_rank({"f(0)": np.zeros((2, 10))}),
    "regression_band": lambda: plots.regression_band(
        X, F, noise_sd=0.3, data=(X[::3], X[::3]), reference=(X, np.ones(30))
    ),
    "regression_band, alone": lambda: plots.regression_band(X, F),
}


@pytest.mark.parametrize("name", FIGURES)
def test_draws_without_a_warning(name: str) -> None:
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    assert out.getvalue().startswith(b"\x89PNG")
    assert all(ax.get_xlabel() or not ax.axison or "rank" not in name for ax in figure.axes[-1:])


def test_no_window_and_no_global_state() -> None:
    code = (
        "import sys, matplotlib; before = dict(matplotlib.rcParams)\n"
        "import numpy as np; from pyro_bdl.diagnostics import plots\n"
        "plots.loss_curve(np.arange(5.0)).savefig(sys.stdout.buffer)\n"
        "assert dict(matplotlib.rcParams) == before\n"
        "import matplotlib.pyplot as plt; assert plt.get_fignums() == []\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_importing_the_metrics_loads_no_heavy_library() -> None:
    code = (
        "import sys, pyro_bdl.diagnostics\n"
        "heavy = ('arviz', 'arviz_base', 'matplotlib', 'sklearn', 'torchmetrics', 'scipy')\n"
        "print([module for module in heavy if module in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_reliability_bars_are_the_bins() -> None:
    bins = reliability_bins(DRAWS, LABELS, num_bins=10)
    upper, lower = plots.reliability_diagram({"m": DRAWS}, LABELS, num_bins=10).axes
    filled = bins.count > 0
    np.testing.assert_allclose([bar.get_height() for bar in upper.patches], bins.accuracy[filled])
    np.testing.assert_allclose([bar.get_height() for bar in lower.patches], bins.count[filled])
    assert "calibration error" in upper.get_title(loc="left")


def test_entropy_legend_gives_the_area_under_the_curve() -> None:
    figure = plots.entropy_histograms({"m": {"in": DRAWS, "out": predictive_entropy(STRANGE)}})
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    area = auroc(predictive_entropy(DRAWS), predictive_entropy(STRANGE))
    assert texts == ["in (inside)", f"out: AUROC {area:.3f}"]


def test_most_uncertain_shows_the_highest_entropy_first() -> None:
    first = int(predictive_entropy(DRAWS).argmax())
    upper, lower = plots.most_uncertain(IMAGES, DRAWS, LABELS, count=1).axes
    np.testing.assert_array_equal(upper.images[0].get_array(), IMAGES[first])
    np.testing.assert_allclose([bar.get_height() for bar in lower.patches], DRAWS[:, first].mean(0))
    assert upper.get_title().startswith(f"true {LABELS[first]}")


def test_node_scales_counts_what_is_kept() -> None:
    figure = plots.node_scales({"fc": [0.1, 2.0, 0.5, 0.3]}, threshold=0.3)
    assert figure.axes[0].get_title(loc="left") == "fc\n3 of 4 nodes kept"
    kept, pruned = (part.get_offsets()[:, 1].tolist() for part in figure.axes[0].collections)
    assert (kept, pruned) == ([2.0, 0.5, 0.3], [0.1])


def test_ranks_show_a_chain_that_is_elsewhere() -> None:
    stuck = CHAINS + np.array([0, 0, 0, 3.0])[:, None]
    figure = plots.trace_and_rank({"agree": CHAINS, "stuck": stuck}, bins=10)
    shares = [
        [np.asarray(p.get_data().values) for p in ax.patches if hasattr(p, "get_data")] for ax in figure.axes[1::2]
    ]
    for by_chain in shares:
        np.testing.assert_allclose(np.sum(by_chain, 1), 1.0)
        np.testing.assert_allclose(np.sum(by_chain, 0), 4 / 10)  # all ranks together are uniform by construction
    assert shares[0][3][-1] < 0.25
    assert shares[1][3][-1] > 0.35


def test_observation_band_is_that_of_the_mixture() -> None:
    figure = plots.regression_band(X, np.zeros((5, 30)), noise_sd=2.0, level=0.9)
    band = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([band.min(), band.max()], [-1.6448536 * 2, 1.6448536 * 2], rtol=1e-6)


def test_points_in_any_order_give_one_picture() -> None:
    shuffled = RNG.permutation(30)
    one, two = (plots.regression_band(X[i], F[:, i]).axes[0].lines[0].get_ydata() for i in (np.arange(30), shuffled))
    np.testing.assert_allclose(one, two)


BAD: list[tuple[Callable[[], Figure], str]] = [
    (lambda: plots.loss_curve({}), "losses"),
    (lambda: plots.loss_curve([1.0, np.nan]), "losses: expected finite"),
    (lambda: plots.loss_curve([[1.0]]), "losses: expected shape"),
    (lambda: plots.loss_curve([1.0], steps_per_epoch=0), "steps_per_epoch"),
    (lambda: plots.reliability_diagram({}, LABELS), "methods"),
    (lambda: plots.reliability_diagram({"m": DRAWS}, LABELS[:3]), "labels"),
    (lambda: plots.entropy_histograms({"m": {}}), "methods"),
    (lambda: plots.entropy_histograms({"m": {"in": [np.nan]}}), "m, in: expected finite"),
    (lambda: plots.most_uncertain(IMAGES[:3], DRAWS, LABELS), "images"),
    (lambda: plots.most_uncertain(IMAGES[:, None].repeat(2, 1), DRAWS, LABELS), "1 or 3 channels"),
    (lambda: plots.most_uncertain(IMAGES, DRAWS, LABELS, class_names=["a"]), "class_names"),
    (lambda: plots.most_uncertain(IMAGES, DRAWS, LABELS, count=0), "count"),
    (lambda: plots.most_uncertain(IMAGES, DRAWS, LABELS, level=90), "level"),
    (lambda: plots.most_uncertain(IMAGES, DRAWS[0], LABELS), "draws, N, classes"),
    (lambda: plots.node_scales({}), "layers"),
    (lambda: plots.node_scales({"fc": [0.0, 1.0]}), "positive"),
    (lambda: plots.node_scales({"fc": [1.0]}, threshold=-1), "threshold"),
    (lambda: plots.trace_and_rank({}), "variables"),
    (lambda: plots.trace_and_rank({"f": CHAINS[0]}), r"\(chain, draw\)"),
    (lambda: plots.trace_and_rank({"f": CHAINS}, bins=1), "bins"),
    (lambda: plots.regression_band(X, F[:, :3]), "draws: expected shape"),
    (lambda: plots.regression_band(X, F, noise_sd=0.0), "noise_sd"),
    (lambda: plots.regression_band(X, F, noise_sd=np.ones(4)), "noise_sd"),
    (lambda: plots.regression_band(X, F, data=(X, X[:2])), "data"),
    (lambda: plots.regression_band(X, F, reference=(X, X[:2])), "reference"),
]


@pytest.mark.parametrize(("figure", "message"), BAD)
def test_bad_input(figure: Callable[[], Figure], message: str) -> None:
    with pytest.raises(InputError, match=message):
        figure()
