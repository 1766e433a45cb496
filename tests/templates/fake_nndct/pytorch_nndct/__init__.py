"""A stand-in for AMD's quantizer with its doors and its bad manners; it quantises nothing."""

__version__ = "0.0.fake"
