"""stub"""

from pathlib import Path


def write(out: Path) -> None:
    """stub"""
