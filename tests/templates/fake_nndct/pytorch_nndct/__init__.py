"""A stand-in for AMD's quantizer with its doors and its bad manners; it quantises nothing."""

__version__ = "0.0.fake"


def __getattr__(name):
    """Import what trains only where it is asked for: the quantizer's doors need no torch."""
    if name != "QatProcessor":
        raise AttributeError(name)
    from pytorch_nndct.qat import QatProcessor

    return QatProcessor
