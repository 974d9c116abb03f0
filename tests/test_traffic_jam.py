"""The traffic jam's command runs; its answers are exact, and its graph's statements hold in its table."""

import json
from pathlib import Path

import pytest

import pyro_bdl as bdl
from models.traffic_jam import __main__ as command
from models.traffic_jam.answers import NAMES, SEPARATIONS, dependence
from models.traffic_jam.net import joint_table, traffic_jam
from tests.fresh_state import fresh_state  # noqa: F401


def test_command(tmp_path: Path) -> None:
    found = command.main(command.Options(out=tmp_path))
    assert json.loads((tmp_path / "traffic_jam.json").read_text()) == found
    assert all(row["difference"] < 1e-6 for row in found["answers"])
    assert all((row["d-separated"] == "yes") == (row["information (nats)"] < 1e-12) for row in found["separations"])
    assert found["field"]["Z"] == pytest.approx(225)
    assert found["field"]["north and south independent given east and west"]
    assert not found["field"]["north and south independent given east"]
    assert {path.name for path in tmp_path.glob("*.png")} == {"net.png", "balls.png", "field.png"}


def test_the_question_of_the_lectures() -> None:
    assert bdl.graph.d_separated(traffic_jam, "rush_hour", "bad_weather", given=["sirens"])
    assert not bdl.graph.d_separated(traffic_jam, "rush_hour", "bad_weather", given=["traffic_jam"])
    assert not bdl.graph.d_separated(traffic_jam, "rush_hour", "bad_weather", given=["sirens", "traffic_jam"])


def test_explaining_away() -> None:
    """A jam makes an accident more likely; rush hour explains the jam and makes it less likely again."""

    def accident(**given: float) -> float:
        return float(bdl.graph.query(traffic_jam, "accident", given=given)[1])

    assert accident() < accident(traffic_jam=1.0, rush_hour=1.0) < accident(traffic_jam=1.0)


def test_dependence_is_symmetric() -> None:
    table = joint_table()
    for a, b, given in SEPARATIONS:
        assert dependence(a, b, given, table) == pytest.approx(dependence(b, a, given, table), abs=1e-14)
    assert tuple(traffic_jam_sites()) == NAMES


def traffic_jam_sites() -> list[str]:
    return list(bdl.graph.of(traffic_jam))
