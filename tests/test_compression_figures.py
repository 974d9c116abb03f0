"""The figures of compression: they show what they were given, stay within their bounds and refuse bad input."""

import doctest
import importlib
import io
import itertools
import pkgutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from PIL import Image
from torch import nn

import pyro_bdl as bdl
from models import compression_figures as figures
from models.compression_figures.patterns import FULL, colours, pattern, size_of
from models.compression_figures.pixels import pixel_counts
from models.compression_figures.sparsity import share
from models.compression_figures.thinning import thinning_frame
from pyro_bdl.compress import compress
from pyro_bdl.compression.compressed import CompressedNetwork
from pyro_bdl.compression.pruning import weight_log_alpha
from pyro_bdl.errors import InputError
from pyro_bdl.weight_moments import weight_posterior

RNG = np.random.default_rng(0)
LAYERS = {
    "conv1.weight": RNG.normal(size=(6, 1, 3, 3)),
    "conv1.bias": RNG.normal(size=6),
    "fc1.weight": RNG.normal(size=(5, 24)) * (RNG.uniform(size=(5, 24)) < 0.3),
}


@pytest.fixture(scope="module")
def small() -> tuple[CompressedNetwork, torch.Tensor]:
    """A network of which two filters, one hidden unit and some inputs are noise."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 7), nn.ReLU(), nn.Linear(7, 3))
    with torch.no_grad():
        for layer, rows in ((net[0], [1, 4]), (net[3], [2])):
            layer.weight[rows] *= 1e-5
            layer.bias[rows] = 0
        net[3].weight[:, [0, 7, 35]] *= 1e-5
    model = bdl.Classifier(bdl.BayesianModule(net))
    guide = bdl.guides.AutoMeanField(model)
    x = torch.randn(4, 1, 6, 6)
    guide(x, torch.zeros(4, dtype=torch.long))
    return compress(net, guide, example_input=x[:1]), x


@pytest.fixture(scope="module")
def recorded() -> tuple[figures.Recorder, bdl.Fit, Any]:
    torch.manual_seed(0)
    x = torch.randn(60, 1, 3, 3)
    y = (x[:, 0, 1, 1] > 0).long()
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 2))
    model = bdl.Classifier(bdl.BayesianModule(net, bdl.priors.GroupNormalJeffreys()))

    def accuracy(network: nn.Module) -> float:
        torch.randn(3)  # an evaluation that draws must not change the fit
        return float((network(x).argmax(-1) == y).float().mean())

    def fit(*callbacks: Any) -> tuple[bdl.Fit, Any]:
        guide = bdl.guides.AutoMeanField(model)
        done = bdl.fit_svi(
            model, guide, (x, y), epochs=60, batch_size=30, seed=0, progress=False, callbacks=callbacks,
            optimizer=lambda p: torch.optim.Adam(p, lr=0.05),
        )  # fmt: skip
        return done, guide

    recorder = figures.Recorder(net, x[:1], accuracy=accuracy, every=2, frames=12)
    done, guide = fit(recorder)
    alone, _ = fit()
    assert done.losses == alone.losses
    return recorder, done, guide


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=50)
    return out.getvalue()


def test_doctests() -> None:
    modules = [importlib.import_module(f"{figures.__name__}.{m.name}") for m in pkgutil.iter_modules(figures.__path__)]
    results = [doctest.testmod(module) for module in modules]
    assert sum(r.failed for r in results) == 0
    assert sum(r.attempted for r in results) > 10


def test_full_size_gives_the_outputs_of_the_file(small: tuple[CompressedNetwork, torch.Tensor]) -> None:
    compressed, x = small
    assert compressed.report().architecture.startswith("3-")  # two filters are gone
    full = figures.full_size(compressed)
    net = nn.Sequential(
        nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 7), nn.ReLU(), nn.Linear(7, 3)
    ).double()
    net.load_state_dict(full)
    with torch.no_grad():
        torch.testing.assert_close(net(x.double()).float(), compressed.module(x), atol=1e-5, rtol=1e-5)
    assert sum(int((v != 0).sum()) for v in full.values()) == compressed.report().nonzero


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([(), (3,), (2, 3), (2, 2, 2)]), st.integers(8, 50),
       st.floats(0, 1), st.sampled_from(["float32", "float64", "bool"]))  # fmt: skip
def test_cells_account_for_every_weight(
    outputs: int, inputs: int, kernel: tuple[int, ...], side: int, density: float, dtype: str
) -> None:
    weight = (np.random.default_rng(0).uniform(size=(outputs, inputs, *kernel)) < density).astype(dtype)
    drawn = pattern("w", weight, side=side)
    rows, columns = drawn.cells.shape
    assert rows <= side
    assert columns <= side
    assert drawn.left == np.count_nonzero(weight)
    assert (drawn.cells > 0).any() == bool(weight.any())
    assert (drawn.cells == FULL).all() == bool(weight.all())
    # Blocks differ by at most one row and column, and shares are rounded up by at most 1/255.
    if drawn.cells.size == weight.size:
        assert np.count_nonzero(drawn.cells) == drawn.left
    elif outputs % rows == 0 and inputs % columns == 0 and "" not in drawn.axes:
        excess = drawn.cells.mean() / FULL - drawn.left / weight.size
        assert -1e-12 <= excess <= 1 / FULL + 1e-12
    picture = colours(drawn)
    assert np.isfinite(picture).all()
    assert picture.min() >= 0
    assert picture.max() <= 1


def test_one_weight_among_many_shows_where_it_stands() -> None:
    weight = np.zeros((1000, 3000))
    weight[999, 0] = 1e-30
    drawn = pattern("w", weight, side=100)
    assert np.argwhere(drawn.cells).tolist() == [[99, 0]]
    picture = colours(drawn)
    assert picture[99, 0, 0] < picture[99, 1, 0] - 0.1


def test_filters_are_laid_out_in_order() -> None:
    weight = np.zeros((6, 1, 2, 3))
    weight[4, 0, 1, 2] = 1  # of 2 rows of 3 filters, the one in the middle below
    drawn = pattern("conv", weight, side=20)
    assert np.argwhere(drawn.cells).tolist() == [[2 * 1 + 1, 3 * 1 + 2]]
    assert np.argwhere(drawn.empty == 0).tolist() == [[r, c] for r in (2, 3) for c in (3, 4, 5)]
    wide = np.zeros((3, 10, 2, 2))
    wide[2, 7, 0, 1] = 1
    assert np.argwhere(pattern("conv", wide, side=30).cells).tolist() == [[4, 15]]
    assert np.argwhere(pattern("conv", wide, side=10).cells).tolist() == [[2, 7]]
    assert np.argwhere(pattern("conv", wide, side=10, transposed=True).cells).tolist() == [[7, 2]]
    assert size_of(pattern("conv", wide, side=10)) == "3 filters of 10 × 2 × 2"


def test_grey_is_a_unit_without_weights() -> None:
    weight = np.ones((3, 4))
    weight[1] = 0
    weight[:, 2] = 0
    weight[0, 0] = 0
    drawn = pattern("fc", weight, side=10)
    assert (drawn.empty > 0).tolist() == [[False, False, True, False], [True] * 4, [False, False, True, False]]


def test_pixels_sum_over_channels() -> None:
    weight = np.zeros((2, 2 * 3 * 4))
    weight[0, 5] = weight[1, 5] = weight[1, 12 + 5] = 1.0  # row 1, column 1, in both channels
    counts = pixel_counts(weight, (2, 3, 4))
    assert counts is not None
    assert counts[1, 1] == 3
    assert counts.sum() == 3
    assert pixel_counts(LAYERS["conv1.weight"], (1, 4, 6)) is None


@pytest.mark.parametrize(
    ("left", "text"), [(0, "0%"), (1, "0.001%"), (99_999, "99%"), (100_000, "100%"), (2160, "2.2%")]
)
def test_a_share_is_not_rounded_to_nothing_or_all(left: int, text: str) -> None:
    assert share(left, 100_000) == text


def test_figures_of_a_compressed_network(small: tuple[CompressedNetwork, torch.Tensor]) -> None:
    compressed, _ = small
    sparse = figures.sparsity_patterns(compressed)
    assert _png(sparse).startswith(b"\x89PNG")
    full = figures.full_size(compressed)
    headings = [ax.get_title(loc="left") for ax in sparse.axes]
    left = int((full["3.weight"] != 0).sum())
    assert headings[1] == f"3: 80 inputs, 7 outputs\n{share(left, 560)} of 560 weights left"
    histogram = figures.weight_histograms(full, full, compressed)
    assert _png(histogram).startswith(b"\x89PNG")
    stems = histogram.axes[3].collections[0].get_segments()  # type: ignore[attr-defined]
    values, counts = np.unique(full["0.weight"].numpy(), return_counts=True)
    np.testing.assert_allclose([s[:, 0].mean() for s in stems], values)
    np.testing.assert_allclose([s[:, 1].max() for s in stems], counts)


def test_values_that_are_no_grid_are_a_histogram() -> None:
    drawn = {"w": np.random.default_rng(0).standard_normal((40, 50))}
    lower = figures.weight_histograms(drawn, drawn, drawn).axes[1]
    assert not lower.collections  # no stems
    outline = lower.patches[-1]
    assert not outline.get_fill()
    counts, edges, _ = outline.get_data()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(counts, np.maximum(np.histogram(drawn["w"], edges)[0], 0.5))


@pytest.mark.parametrize(
    ("shape", "value"), [((1, 1), 0.0), ((2, 2), 1e-300), ((4, 3, 2), 1e300), ((3, 2, 2, 2, 2), -3.0)]
)
def test_extreme_weights_draw(shape: tuple[int, ...], value: float) -> None:
    weights = {"w": np.full(shape, value)}
    assert _png(figures.weight_histograms(weights, weights, weights))
    assert _png(figures.sparsity_patterns(weights))


@pytest.mark.parametrize("net", figures.ORIGINAL_BYTES)
def test_labels_cover_neither_points_nor_each_other(net: str) -> None:
    ours = [figures.Size(f"ours {i}", row.bytes * 0.97, row.error, 0.02)
            for i, row in enumerate(figures.PUBLISHED) if row.net == net][:3]  # fmt: skip
    figure = figures.error_against_bytes(ours, net=net)
    (ax,) = figure.axes
    figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in ax.texts if isinstance(t, Annotation)]
    rows = [row for row in figures.PUBLISHED if row.net == net]
    assert len(boxes) == len(rows) + len(ours) + 1
    assert all(Bbox.intersection(a, b) is None for a, b in itertools.combinations(boxes, 2))
    points = [ax.transData.transform((p.bytes, p.error)) for p in [*rows, *ours]]
    assert not any(box.contains(*point) for box in boxes for point in points)
    assert all(ax.bbox.x0 <= box.x0 and box.x1 <= ax.bbox.x1 for box in boxes)


def test_published_rows_are_those_of_the_tables() -> None:
    bytes_of = {(row.net, row.method): row.bytes for row in figures.PUBLISHED}
    assert round(bytes_of["lenet-5-caffe", "BC-GHS"]) == 2236  # 771 times fewer than 431,080 weights of 4 bytes
    assert round(bytes_of["lenet-300-100", "Sparse VD"]) == 9438
    assert all(row.source and row.net in figures.ORIGINAL_BYTES for row in figures.PUBLISHED)


def test_recorder_keeps_what_is_left(recorded: tuple[figures.Recorder, bdl.Fit, Any]) -> None:
    recorder, _, guide = recorded
    assert len(recorder.snapshots) <= 12
    assert [s.epoch for s in recorder.snapshots] == [1, 8, 16, 24, 32, 40, 48, 56]
    first, last = recorder.snapshots[0], recorder.record(60, guide)
    assert recorder.snapshots[-1] is last
    assert first.total == 9 * 6 + 6 * 2
    posterior = weight_posterior(recorder.net, guide, recorder.example_input)
    above = {name: (score <= 3.0) & (posterior.mean[name] != 0) for name, score in weight_log_alpha(posterior).items()}
    # Units that are noise go as a whole, so that no more is left than weights of log alpha below the threshold.
    assert 0 < last.left <= sum(int(mask.sum()) for name, mask in above.items() if "weight" in name)
    assert last.left < first.left
    assert last.pixels is not None
    assert last.pixels[1, 1] > 0  # the one that tells the class
    assert last.accuracy is not None
    assert last.accuracy > 0.9


def test_recorder_is_bounded_and_ordered(recorded: tuple[figures.Recorder, bdl.Fit, Any]) -> None:
    recorder, _, guide = recorded
    other = figures.Recorder(recorder.net, recorder.example_input, frames=5, side=8)
    for epoch in (1, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11):
        other.record(epoch, guide)
        assert len(other.snapshots) <= 5
    epochs = [s.epoch for s in other.snapshots]
    assert epochs == sorted(set(epochs))
    assert epochs[0] == 1
    assert epochs[-1] == 11
    assert all(max(p.cells.shape) <= 8 for s in other.snapshots for p in s.patterns)


def test_threshold_decides(recorded: tuple[figures.Recorder, bdl.Fit, Any]) -> None:
    recorder, _, guide = recorded
    left = [
        figures.Recorder(recorder.net, recorder.example_input, threshold=t).record(1, guide).left
        for t in (-torch.inf, -2.0, 3.0, torch.inf)
    ]
    assert left == sorted(left)
    assert left[0] < left[-1] == 66


def test_an_animation(recorded: tuple[figures.Recorder, bdl.Fit, Any], tmp_path: Path) -> None:
    recorder, _, _ = recorded
    path = tmp_path / "thinning.gif"
    size = figures.thinning_animation(recorder, path, seconds=2.0)
    assert path.stat().st_size == size <= 2_000_000
    with Image.open(path) as film:
        assert film.n_frames == len(recorder.snapshots)
        assert film.info["loop"] == 0
        film.seek(film.n_frames - 1)
        assert film.info["duration"] > 2000
        drawn = np.asarray(film.convert("RGB")).astype(int)
    buffer = io.BytesIO()
    thinning_frame(
        recorder.snapshots, len(recorder.snapshots) - 1, title="A network thins out during training"
    ).savefig(buffer, format="png", dpi=100)
    with Image.open(buffer) as still:  # what changes is drawn where the figure has it
        assert np.abs(np.asarray(still.convert("RGB")).astype(int) - drawn).mean() < 2.0
    shorter = figures.thinning_animation(recorder, tmp_path / "short.gif", max_bytes=size * 3 // 4)
    assert shorter <= size * 3 // 4
    with pytest.raises(InputError, match="max_bytes"):
        figures.thinning_animation(recorder.snapshots[:2], path, max_bytes=1000)
    assert path.stat().st_size == size
    assert sorted(p.name for p in tmp_path.iterdir()) == ["short.gif", "thinning.gif"]


BAD: dict[str, Any] = {
    "bins": lambda: figures.weight_histograms(LAYERS, LAYERS, bins=4),
    "before": lambda: figures.weight_histograms({"fc1.weight": LAYERS["fc1.weight"]}, LAYERS),
    "after": lambda: figures.weight_histograms(LAYERS, {"bias": np.ones(3)}),
    "weights": lambda: figures.sparsity_patterns({}),
    "weights['w']": lambda: figures.sparsity_patterns({"w": np.full((2, 2), np.nan)}),
    "quantised['w']": lambda: figures.weight_histograms({"w": np.ones((1, 1))}, {"w": np.ones((1, 1))},
                                                        {"w": np.ones((0, 2))}),
    "image_shape": lambda: figures.sparsity_patterns(LAYERS, image_shape=(4,)),
    "side": lambda: figures.sparsity_patterns(LAYERS, side=2),
    "net": lambda: figures.error_against_bytes([], net="alexnet"),
    "ours": lambda: figures.error_against_bytes([]),
    "the bytes of a": lambda: figures.error_against_bytes([figures.Size("a", 0, 1.0)]),
    "the error of a": lambda: figures.error_against_bytes([figures.Size("a", 10, float("nan"))]),
    "the spread of a": lambda: figures.error_against_bytes([figures.Size("a", 10, 1, -1)]),
    "every": lambda: figures.Recorder(nn.Linear(1, 1), torch.zeros(1, 1), every=0),
    "frames": lambda: figures.Recorder(nn.Linear(1, 1), torch.zeros(1, 1), frames=1),
    "threshold": lambda: figures.Recorder(nn.Linear(1, 1), torch.zeros(1, 1), threshold=float("nan")),
    "recorded": lambda: figures.thinning_animation([], "never.gif"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_refuses(what: str) -> None:
    with pytest.raises(InputError) as caught:
        BAD[what]()
    assert caught.value.what == what


def test_refuses_a_bad_accuracy_and_mixed_networks(recorded: tuple[figures.Recorder, bdl.Fit, Any]) -> None:
    recorder, _, guide = recorded
    bad = figures.Recorder(recorder.net, recorder.example_input, accuracy=lambda net: 97.0)
    with pytest.raises(InputError, match="accuracy"):
        bad.record(1, guide)
    assert bad.snapshots == []
    first = recorder.snapshots[0]
    other = replace(first, patterns=first.patterns[:1])
    with pytest.raises(InputError, match="one network"):
        figures.thinning_animation([first, other], "never.gif")
    for seconds in (0.0, float("nan")):
        with pytest.raises(InputError, match="seconds"):
            figures.thinning_animation(recorder, "never.gif", seconds=seconds)
    assert not Path("never.gif").exists()
