"""Bayesian compression: train under a sparsity-inducing prior, prune, quantise, code, and test the file that results.

python -m models.bayesian_compression --net digits
"""

import json
import time
from typing import Any

import tyro
from rich.console import Console
from safetensors.torch import load_file, save_file

import pyro_bdl as bdl
from models.competitors.rows import row_of_report, side_by_side
from models.competitors.training import error
from models.compression_figures import (
    Recorder,
    Size,
    error_against_bytes,
    sparsity_patterns,
    thinning_animation,
    weight_histograms,
)
from models.compression_problem import Problem
from models.compression_settings import IMPROPER, Options
from pyro_bdl.weight_moments import weight_moments

BYTE = 8 * 0.6931471805599453  # nats


def main(options: Options) -> dict[str, Any]:
    """Train (or read a posterior), compress, write, read again, test; the row."""
    console = Console(width=140)
    options.out.mkdir(parents=True, exist_ok=True)
    problem = Problem(options)
    begin = time.perf_counter()
    promised = float("nan")
    validation = problem.parts.x_validation, problem.parts.y_validation
    test = problem.parts.x_test, problem.parts.y_test
    initial = {name: value.detach().clone() for name, value in problem.net.named_parameters()}
    if options.posterior is None:
        recorder = None  # without scales nothing says what would be pruned
        if options.guide == "mean-field":
            recorder = Recorder(problem.net, problem.x[:1], accuracy=lambda net: 1.0 - error(net, validation))
        result = problem.fit(recorder)
        promised = result.kls[-1] / BYTE
        save_file(problem.state(), options.out / "posterior.safetensors")
        if recorder is not None:
            recorder.record(problem.settings.epochs, problem.guide)
            thinning_animation(recorder, options.out / "thinning.gif")
    else:
        problem.load_state(load_file(options.posterior))
    fitted = time.perf_counter()
    small = bdl.compress(
        problem.net, problem.guide, example_input=problem.x[:1],
        validation=validation, tolerance=options.tolerance,
        unit_thresholds=options.unit_threshold, codebook=problem.codebook,
        draw=bdl.RandomDraw(seed=options.seed) if options.draw else None,
        retraining=problem.retraining, progress=options.progress,
    )  # fmt: skip
    done = time.perf_counter()
    path = options.out / "net.bdl"
    small.save(path)
    again = bdl.load_compressed(path, problem.net)
    report = small.report()
    networks = {**small.variants, "coded": again}
    test_errors = {name: error(net, test) for name, net in networks.items()}
    row = {
        "net": options.net,
        "width": options.width,
        "prior": options.prior,
        **report.as_dict(),
        "bytes promised by the KL": promised,
        "test error %": {name: 100 * e for name, e in test_errors.items()},
        "training seconds": fitted - begin,
        "compression seconds": done - fitted,
    }
    console.print(report)
    # That of a log-uniform density is counted from where all is noise; the density itself has infinite mass.
    constant = ", up to the constant of an improper prior," if options.prior in IMPROPER else ""
    console.print(
        f"{options.net}, {options.prior}: test error of the file, reloaded: {100 * test_errors['coded']:.2f}%; "
        f"{path.stat().st_size:,} bytes, where the KL{constant} promised {promised:,.0f}; "
        f"{row['training seconds']:.0f} s of training, {row['compression seconds']:.1f} s of compression"
    )
    seconds = row["training seconds"] + row["compression seconds"]
    rows = [row_of_report(report, options.prior, errors=test_errors, seconds=seconds)]
    name = options.net if options.width == 1.0 else f"{options.net} of width {options.width:g}"
    console.print(side_by_side(rows, name))
    mean = weight_moments(problem.net, problem.guide, problem.x[:1], problem.y[:1]).mean
    weight_histograms(initial, mean, small, before_name="before the fit").savefig(options.out / "weights.png")
    sparsity_patterns(small).savefig(options.out / "sparsity.png")
    published = None if options.net == "digits" or options.width != 1.0 else options.net
    sizes = [Size(options.prior, report.file_bytes, 100 * test_errors["coded"])]
    error_against_bytes(sizes, net=published).savefig(options.out / "error_against_bytes.png")
    (options.out / "row.json").write_text(json.dumps(row, indent=1))
    console.print(f"the file, the row, the posterior and the figures are in {options.out}/")
    return row


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
