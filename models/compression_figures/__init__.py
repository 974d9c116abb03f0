"""Figures of a compressed network: its weights, what is left of its layers, how it thinned out, error against bytes.

Figures are `matplotlib.figure.Figure`s that belong to no window; the animation is written to a file.
"""

from models.compression_figures.full_size import full_size
from models.compression_figures.histograms import weight_histograms
from models.compression_figures.published import PUBLISHED, Published
from models.compression_figures.recorder import Recorder, Snapshot
from models.compression_figures.sizes import Size, error_against_bytes
from models.compression_figures.sparsity import sparsity_patterns
from models.compression_figures.thinning import thinning_animation
from models.published import ORIGINAL_BYTES

__all__ = [
    "ORIGINAL_BYTES",
    "PUBLISHED",
    "Published",
    "Recorder",
    "Size",
    "Snapshot",
    "error_against_bytes",
    "full_size",
    "sparsity_patterns",
    "thinning_animation",
    "weight_histograms",
]
