"""The Bayes net of the lectures as a Pyro model: its graph, its factorisation, exact answers, a Markov random field.

python -m models.traffic_jam
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

import pyro_bdl as bdl
from models.tables import table
from models.traffic_jam import figures
from models.traffic_jam.answers import exact_rows, separation_rows
from models.traffic_jam.field import ring_road
from models.traffic_jam.net import SHORT, traffic_jam


@dataclass
class Options:
    """Everything is exact: there is nothing to set but where it is written."""

    out: Path = Path("out/traffic_jam")
    """where the answers and the figures are written"""


def main(options: Options) -> dict[str, Any]:
    """Ask, print and draw; what was written."""
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console(width=120)
    begin = time.perf_counter()
    found: dict[str, Any] = {
        "factorisation": bdl.graph.factorisation(traffic_jam),
        "latex": bdl.graph.factorisation(traffic_jam, latex=True, names=SHORT),
        "net cliques": [list(clique) for clique in bdl.graph.cliques(traffic_jam)],
        "answers": exact_rows(),
        "separations": separation_rows(),
        "field": field_answers(),
    }
    console.print(f"p(r, w, a, s, j) = {bdl.graph.factorisation(traffic_jam, names=SHORT)}\n")
    console.print(
        table(found["answers"], title="Probability of yes, by enumeration and by the table of 32 cases", digits=6)
    )
    console.print(table(found["separations"], title="Independent? By the graph, and in the table"))
    told = found["field"]
    console.print(
        f"ring road: cliques {told['cliques']}, Z = {told['Z']:g}, p(a jam in the south) = {told['south']:.4f}"
    )
    (options.out / "traffic_jam.json").write_text(json.dumps(found, indent=1))
    for name, figure in (("net", figures.net()), ("balls", figures.balls()), ("field", figures.field())):
        figure.savefig(options.out / f"{name}.png")
    console.print(f"{time.perf_counter() - begin:.1f} s; answers and figures are in {options.out}/")
    return found


def field_answers() -> dict[str, Any]:
    """Of the ring road: cliques, partition function, a marginal, and which towns tell of which."""
    return {
        "cliques": [list(clique) for clique in bdl.graph.cliques(ring_road)],
        "Z": float(ring_road.log_partition().exp()),
        "south": float(bdl.graph.query(ring_road, "south")[1]),
        "south, north jammed": float(bdl.graph.query(ring_road, "south", given={"north": 1})[1]),
        "north and south independent given east and west": bdl.graph.d_separated(
            ring_road, "north", "south", given=["east", "west"]
        ),
        "north and south independent given east": bdl.graph.d_separated(ring_road, "north", "south", given="east"),
    }


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
