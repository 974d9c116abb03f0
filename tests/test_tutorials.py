"""Every tutorial runs in a fresh kernel, and says what its text says.

A tutorial is executed as it stands, in an empty folder; a last cell, which is not in the file, prints the quantities
that its checks are about. The checks are of what the tutorial teaches, not of its digits: a seed gives the same
numbers on the same machine and versions only, so the tolerances are those of any seed.
"""

import asyncio
import itertools
import json
import math
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

FOLDER = Path(__file__).parent.parent / "tutorials"
MARK = "quantities of the tutorial: "


def bayesian_networks(told: dict[str, Any]) -> None:
    """Checks of 01_bayesian_networks."""
    inside, gap, outside = "data (x = -0.8)", "gap (x = 0)", "outside (x = -2.5)"
    linear, network = told["linear_sd"], told["network_sd"]

    # The exact posterior's deviation follows from the design alone, the mean field's from its precision's diagonal.
    assert linear["exact"][gap] > 2 * linear["exact"][inside]
    assert linear["exact"][outside] > 2 * linear["exact"][inside]
    assert linear["mean field"][inside] > 1.5 * linear["exact"][inside]
    assert linear["mean field"][outside] < 1.5 * linear["mean field"][inside]
    low, high = told["optimal_ratio"]
    assert 0.85 < low <= high < 1.15

    # Error bars grow away from the data, by both samplers, and they agree. The logarithm of a deviation's estimate has
    # a standard error of 1/sqrt(2 ESS). Short chains have an ESS of about 10 away from the data: 0.3 for the ratio of
    # two, of which a factor of 5 is more than five; and of 70 at the data: 0.12, of which a factor of 2 is as many.
    for method in ("NUTS", "SGLD"):
        assert network[method][gap] > 1.5 * network[method][inside]
        assert network[method][outside] > 1.5 * network[method][inside]
    for place, factor in {inside: 2.0, gap: 5.0, outside: 5.0}.items():
        assert 1 / factor < network["SGLD"][place] / network["NUTS"][place] < factor, place
    assert told["mean_difference_at_data"] < 0.35  # a posterior deviation is 0.15, a deviation of the data 0.35
    assert abs(told["density_difference"]) < 1e-3
    assert told["spaces"]["functions"]["median r_hat"] < told["spaces"]["weights"]["median r_hat"]

    elpd = told["elpd"]
    assert min(elpd["network, SGLD"], elpd["network, NUTS"]) > elpd["straight line"]

    # 360 test images: four standard errors of an accuracy of 0.97 are 0.036.
    for name, score in told["scores"].items():
        assert score["accuracy"] > 0.92, name
        assert score["negative log-likelihood"] < 0.35, name
    assert told["auroc"]["SVI, node prior"]["negatives"] > told["auroc"]["plain network"]["negatives"]
    assert told["kept_dark_pixels"] == 0
    assert 0 < told["kept"]["64 pixels"] < 64
    assert 0 < told["kept"]["100 hidden units"] < 100


def latent_variables(told: dict[str, Any]) -> None:
    """Checks of 04_latent_variables."""
    assert told["least_gain"] > -1e-9  # of any step of EM from any start
    assert told["variational_gain"] > -1e-9
    assert told["touches"] < 1e-8
    low, high = told["ends"]
    assert low < high - 1

    # Of these the first is a theorem (z summed out for the same q), the others have at most 0.03 of Monte Carlo error.
    bounds = told["mixture_bounds"]
    exact = bounds["log p(x) - log 4!"]
    assert bounds["SVI with q(z)"] < bounds["its q(θ), z summed out"] - 0.5
    assert abs(bounds["SVI with q(z)"] - bounds["variational EM"]) < 1.0
    assert bounds["its q(θ), z summed out"] - 0.1 < bounds["SVI, z summed out"] < exact
    assert exact - bounds["SVI, z summed out"] < 2

    for part in ("training", "test"):
        gaps = told["gaps"][part]
        assert abs(gaps["log p(x)"] - gaps["on the grid"]) < 0.05, part
        assert gaps["amortisation"] > gaps["approximation"] > 0.02, part
    assert told["gaps"]["test"]["amortisation"] > told["gaps"]["training"]["amortisation"]

    # Each mean is known to within its standard error; of three differences one above five is no chance.
    gradient = told["variances"]
    right, reference = gradient["mean along the gradient"], "reparameterised"
    for name, error in gradient["standard error"].items():
        assert abs(right[name] - right[reference]) < 5 * (error**2 + gradient["standard error"][reference] ** 2) ** 0.5
    times = gradient["times reparameterised"]
    assert times["score function"] > 10 * max(times["with the average"], times["with a network"])
    assert min(times["with the average"], times["with a network"]) > 3
    learned = told["learned"]
    assert learned["reparameterised"] > 0.3 + max(curve for name, curve in learned.items() if name != "reparameterised")

    for name, by_draws in told["tightening"].items():
        values = list(by_draws.values())
        assert all(after > before - 0.03 for before, after in itertools.pairwise(values)), name
        assert abs(values[-1] - told["gaps"]["test"]["on the grid"]) < 0.1, name
    assert told["tightening"]["encoder"]["100"] > told["tightening"]["encoder"]["1"] + 0.2
    assert told["ratios"]["iwae"]["30"] < 0.6 * told["ratios"]["iwae"]["1"]
    assert all(told["ratios"]["dreg"][k] > 2 * told["ratios"]["iwae"][k] for k in told["ratios"]["iwae"])

    collapse = told["collapse"]
    sees = collapse["sees pixels"]
    assert sees["KL"] < 0.7 * collapse["ordinary decoder"]["KL"]
    assert sees["log p(x)"] > collapse["ordinary decoder"]["log p(x)"] + 0.5
    for remedy in ("sees pixels, KL warm-up", "sees pixels, free bits"):
        assert collapse[remedy]["KL"] > 1.2 * sees["KL"], remedy
        assert abs(collapse[remedy]["log p(x)"] - sees["log p(x)"]) < 0.4, remedy
    assert collapse["sees pixels, free bits"]["numbers above 0.1"] == 8 > sees["numbers above 0.1"]


def semi_supervised(told: dict[str, Any]) -> None:
    """Checks of 05_semi_supervised."""
    assert math.isclose(told["enumerated"], told["brute_force"], rel_tol=1e-5)
    assert math.isclose(told["difference"], told["term"], rel_tol=1e-3)  # of two sums of thousands of nats
    assert not told["taught"]

    # 360 test images: the standard error of an error of 10 to 20% is 1.6 to 2.1 points, of a difference 3 at most.
    errors = told["errors"]
    assert errors["20"]["M2"] < errors["20"]["classifier alone"]
    assert errors["50"]["M2"] < errors["50"]["classifier alone"] + 3
    assert abs(errors["100"]["M2"] - errors["100"]["classifier alone"]) < 6
    assert errors["50"]["M2"] < errors["20"]["M2"]
    assert told["variants"]["M2"] < min(told["variants"]["M1: support vectors of z"], told["variants"]["M1+M2"])

    soft, sharp = told["style_kl"]
    assert sharp > 2 * soft
    assert told["kept"][0] > max(0.85, told["kept"][1])  # where style says more, it says something of the class

    wrong = told["wrong"]
    assert wrong["as above"] + 5 < wrong["α = 0.1"] < wrong["α = 0.1, no start"]
    assert wrong["α = 0"] > wrong["as above"] + 10


def deep_survival(told: dict[str, Any]) -> None:
    """Checks of 06_deep_survival."""
    # The short cuts are wrong by a share of subjects; Kaplan-Meier's standard error is 0.016 at most.
    bias = told["bias"]
    assert abs(bias["Kaplan-Meier, all"]) < 0.06
    assert bias["censored left out"] < bias["censored as events"] < -0.08

    # 300 draws of NUTS know a mean to within 0.06 to 0.1 deviations, and a deviation to within 4 to 7%.
    for w in told["coefficients"].values():
        assert abs(w["partial, mean"] - w["scikit-survival"]) < 0.4 * w["partial, sd"]
        assert abs(w["full, mean"] - w["partial, mean"]) < 0.6 * w["partial, sd"]
        assert 0.7 < w["full, sd"] / w["partial, sd"] < 1.4
        assert abs(w["partial, mean"] - w["truth"]) < 5 * w["partial, sd"]
        cox = w["scikit-survival"]
        assert abs(w["one interval"]) < abs(cox) - 0.03
        assert abs(w["twenty intervals"] - cox) < 0.6 * w["partial, sd"]
    assert told["baseline_gap"] < 0.05

    # Of 1,000 test subjects the standard error of a concordance is 0.011; of a difference of two that agree, 0.006.
    test = told["ranking"]["test"]
    law = test["the law itself"]
    for likelihood in ("partial", "full"):
        assert abs(test[f"linear, {likelihood}"] - 0.5) < 0.06
        assert abs(test[f"deep, {likelihood}"] - law) < 0.03
    for kind, held_out in told["others"].items():
        assert held_out["deep"] > held_out["linear"] + 0.01, kind

    judged = told["judged"]
    assert set(told["deep_sites"]) == {"0.0.weight", "0.0.bias", "0.2.weight", "a"}
    for method in ("deep, SVI", "deep, chains"):
        assert abs(judged[method]["concordance"] - law) < 0.03
        assert judged["the law itself"]["integrated Brier"] - 0.002 < judged[method]["integrated Brier"]
        assert judged[method]["integrated Brier"] < judged["linear"]["integrated Brier"] - 0.008
        assert judged[method]["truth in band"] > 0.6  # one data set is one draw, of few independent errors
        assert judged[method]["in band, 0.1 years"] < judged[method]["truth in band"] - 0.1
        assert told["reliability"][method] < told["reliability"]["linear"] - 0.02
    assert judged["deep, SVI"]["width of band"] > judged["deep, chains"]["width of band"]
    assert judged["linear"]["truth in band"] < 0.3
    away = told["outward_sd"]
    assert away["|x1| = 3.0"]["deep, chains"] > 2.5 * away["|x1| = 0.5"]["deep, chains"]
    assert away["|x1| = 3.0"]["deep, chains"] > 1.5 * away["|x1| = 3.0"]["deep, SVI"]

    # 299 relapses: a concordance has a standard error of 0.016, a gain the one that is told, from five folds.
    for name, row in told["in_trial"].items():
        assert 0.62 < row["concordance"] < 0.73, name
        assert abs(row["gain"]) < 0.04, name

    mixing = told["mixing"]["worst r_hat"]
    assert mixing["survival"] < 1.12
    assert mixing["weights"] > 1.3
    elpd = told["comparison"]["elpd_loo"]
    assert elpd["deep"] > elpd["linear"] + 3 * told["comparison"]["dse"]["linear"]


QUANTITIES: dict[str, tuple[dict[str, str], Callable[[dict[str, Any]], None]]] = {
    "01_bayesian_networks.ipynb": (
        {
            "linear_sd": "linear_sd.to_dict()",
            "network_sd": "network_sd.to_dict()",
            "optimal_ratio": "[float(optimal_ratio[0]), float(optimal_ratio[-1])]",
            "mean_difference_at_data": "float((f_sgld.mean(0) - f_nuts.mean(0))[[30, 34, 38, 62, 66, 70]].abs().max())",
            "density_difference": "density_difference",
            "spaces": "spaces.to_dict()",
            "elpd": "comparison['elpd_loo'].to_dict()",
            "scores": "scores.to_dict()",
            "auroc": "auroc.to_dict()",
            "kept": "kept",
            "kept_dark_pixels": "int((named['64 pixels'][dark] >= 1).sum())",
        },
        bayesian_networks,
    ),
    "02_compression.ipynb": ({}, lambda told: None),  # asserts in its cells check what its text says
    "03_langevin.ipynb": ({}, lambda told: None),  # likewise
    "04_latent_variables.ipynb": (
        {
            "least_gain": "least_gain",
            "variational_gain": "min(b - a for a, b in zip(vb_bounds, vb_bounds[1:]))",
            "touches": "touches",
            "ends": "[float(ends.min()), float(ends.max())]",
            "mixture_bounds": "mixture_bounds",
            "gaps": "gaps.to_dict()",
            "variances": "variances.to_dict()",
            "learned": "{name: float(curve[-1]) for name, curve in curves.items()}",
            "tightening": "tightening.to_dict()",
            "ratios": "ratios.to_dict()",
            "collapse": "collapse.to_dict('index')",
        },
        latent_variables,
    ),
    "05_semi_supervised.ipynb": (
        {
            "enumerated": "enumerated",
            "brute_force": "brute_force",
            "difference": "difference",
            "term": "term",
            "taught": "any(taught)",
            "errors": "errors",
            "variants": "variants",
            "style_kl": "[style_kl[0.3], style_kl[0.15]]",
            "kept": "list(kept.values())",
            "wrong": "wrong['test error, %'].to_dict()",
        },
        semi_supervised,
    ),
    "06_deep_survival.ipynb": (
        {
            "bias": "bias",
            "coefficients": "coefficients.join(by_count.rename(columns={1: 'one interval', 20: 'twenty intervals'}))"
            ".to_dict('index')",
            "baseline_gap": "baseline_gap",
            "ranking": "ranking.to_dict()",
            "deep_sites": "[name for name in sites.stochastic_nodes if name != 'data']",
            "others": "others.to_dict('index')",
            "judged": "judged.to_dict('index')",
            "reliability": "{name: r.error for name, r in reliability.items()}",
            "outward_sd": "outward_sd.to_dict()",
            "in_trial": "in_trial.to_dict('index')",
            "mixing": "mixing.to_dict()",
            "comparison": "comparison.to_dict()",
        },
        deep_survival,
    ),
}


def tutorials() -> list[Path]:
    return sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture
def _own_event_loop() -> Iterator[None]:
    """nbclient runs its kernel in an event loop; it gets one, and it is closed."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


def test_every_tutorial_is_listed() -> None:
    assert [path.name for path in tutorials()] == sorted(QUANTITIES)


@pytest.mark.parametrize("path", tutorials(), ids=lambda path: path.stem)
def test_the_file_is_fit_to_be_shown(path: Path) -> None:
    """It was run from top to bottom, without errors and warnings, its figures are there, and it names no machine."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    figures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(figures) == sum("\nplots." in f"\n{cell.source}" for cell in cells) > 0
    shown = [str(o.get("text", "")) for o in outputs] + [
        str(value) for o in outputs for kind, value in o.get("data", {}).items() if kind != "image/png"
    ]
    text = "\n".join(shown)
    found = re.findall(r"(?<![\w<.])/(?:home|root|tmp|work|usr|opt|Users|var|mnt)/[\w.-]+|[A-Z]:\\\\\w+|Warning", text)
    assert not found, found


@pytest.mark.usefixtures("_own_event_loop")
@pytest.mark.parametrize("path", tutorials(), ids=lambda path: path.stem)
def test_tutorial(path: Path, tmp_path: Path) -> None:
    """It runs without an error, and its results are what its text says."""
    with warnings.catch_warnings():
        # Jupyter's own: it announces encrypted connections, and its platform folders.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="(jupyter|nbclient|zmq).*")
        from nbclient import NotebookClient

        quantities, check = QUANTITIES[path.name]
        notebook = nbformat.read(path, as_version=4)
        if any("sksurv" in cell.source for cell in notebook.cells):
            pytest.importorskip("sksurv")  # scikit-survival, an optional dependency
        told = ", ".join(f"{name!r}: {expression}" for name, expression in quantities.items())
        notebook.cells.append(nbformat.v4.new_code_cell(f"import json\nprint({MARK!r} + json.dumps({{{told}}}))"))
        client = NotebookClient(
            notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
        )
        client.execute()
    stderr = [o.text for c in notebook.cells for o in c.get("outputs", []) if o.get("name") == "stderr"]
    assert not stderr, stderr
    line = next(o.text for o in notebook.cells[-1].outputs if o.output_type == "stream")
    check(json.loads(line.removeprefix(MARK)))
