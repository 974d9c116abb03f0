"""The questions and their answers: by Pyro's enumeration, and by the table of all 32 cases."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

import pyro_bdl as bdl
from models.tables import Row
from models.traffic_jam.net import SHORT, joint_table, traffic_jam

NAMES = tuple(SHORT)

QUESTIONS: tuple[tuple[str, dict[str, float]], ...] = (
    ("traffic_jam", {}),
    ("rush_hour", {}),
    ("rush_hour", {"traffic_jam": 1.0}),
    ("rush_hour", {"traffic_jam": 1.0, "sirens": 1.0}),
    ("accident", {}),
    ("accident", {"traffic_jam": 1.0}),
    ("accident", {"traffic_jam": 1.0, "rush_hour": 1.0}),
    ("accident", {"sirens": 1.0}),
    ("bad_weather", {"traffic_jam": 1.0}),
    ("bad_weather", {"sirens": 1.0}),
)

SEPARATIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("rush_hour", "bad_weather", ()),
    ("rush_hour", "bad_weather", ("sirens",)),
    ("rush_hour", "bad_weather", ("traffic_jam",)),
    ("rush_hour", "sirens", ()),
    ("rush_hour", "sirens", ("traffic_jam",)),
    ("bad_weather", "sirens", ()),
    ("bad_weather", "sirens", ("accident",)),
    ("traffic_jam", "sirens", ()),
    ("traffic_jam", "sirens", ("accident",)),
)


def probability(of: str, given: Mapping[str, float], table: Tensor) -> float:
    """p(of = yes | given), from the table."""
    place = [slice(None) if name not in given else slice(int(given[name]), int(given[name]) + 1) for name in NAMES]
    part = table[tuple(place)]
    return float(part.select(NAMES.index(of), 1).sum() / part.sum())


def dependence(a: str, b: str, given: Sequence[str], table: Tensor) -> float:
    """The conditional mutual information of a and b, nats: 0 for independent ones alone."""
    kept = [NAMES.index(name) for name in (a, b, *given)]
    order = [*kept, *(axis for axis in range(table.dim()) if axis not in kept)]
    joint = table.permute(order).reshape(2, 2, 2 ** len(given), -1).sum(-1)
    apart = joint.sum(0, keepdim=True) * joint.sum(1, keepdim=True) / joint.sum((0, 1), keepdim=True)
    return max(0.0, float(torch.special.xlogy(joint, joint / apart).sum()))  # but for rounding it is never below 0


def exact_rows() -> list[Row]:
    """Each question, answered in both ways."""
    table = joint_table()
    rows = []
    for of, given in QUESTIONS:
        by_pyro = float(bdl.graph.query(traffic_jam, of, given=given)[1])
        by_table = probability(of, given, table)
        rows.append({
            "of": of, "given": ", ".join(given), "enumerated": by_pyro, "table": by_table,
            "difference": abs(by_pyro - by_table),
        })  # fmt: skip
    return rows


def separation_rows() -> list[Row]:
    """Each pair: what the graph says, the ball's way, and the dependence in the table."""
    table = joint_table()
    rows = []
    for a, b, given in SEPARATIONS:
        way = bdl.graph.bayes_ball(traffic_jam, a, b, given=given)
        rows.append({
            "a": a, "b": b, "given": ", ".join(given), "d-separated": "yes" if way is None else "no",
            "the ball's way": "" if way is None else " ~ ".join(SHORT[name] for name in way),
            "information (nats)": dependence(a, b, given, table),
        })  # fmt: skip
    return rows
