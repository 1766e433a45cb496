"""One row per kind of operator: all that the emulator's rooms know of it by name.

A row's words name what the rooms do with it; each room keeps a table from such a word to the function:

| column | what it says | the words' functions |
|---|---|---|
| group, point | what it is; where its value is quantised | |
| neutral | what the hardware model calls it | records/operator.py |
| describe | how capture normalises its call; "" keeps the arguments | graph/describe.py, REFINEMENTS |
| dpu | its call in the DPU's own arithmetic; "" as torch computes it | prepare/passes.py, DPU_CALLS |
| adjust | how its fix positions are kept in reach of the shifts | quantise/shift_limits.py, ADJUSTMENTS |
| align | the option under which its inputs take its output's position | quantise/shift_limits.py, AdjustOptions |
| integer | its form on integers; "" computes in float | integer/integer_forms.py, BUILDERS |
| xmodel | its lowering, named after the XIR op | export/lower_operators.py, LOWERINGS |
| told | what the file says of it as a custom op; "" its shape | export/lower_custom.py, TOLD |
| onnx | its writer, named after the ONNX operator; "" is refused | export/to_onnx/onnx_operators.py, WRITERS |
| tool | its type in the real tool's files, where that is another | listing.py |
| facts | what exactness, calibration and equalisation may rely on | |

Which torch function makes which kind stands in vocabulary.py. A kind without a row is an opaque float operator.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, Flag, auto

from dpuforge.records.operator import OpKind


class Group(Enum):
    """What an operator is."""

    INPUT = "input"
    BORDER = "where quantisation begins or ends"
    CONVOLUTION = "convolution"
    TRANSPOSED = "transposed convolution"
    DENSE = "dense"
    DENSE_OF_TWO = "product of two matrices"
    CONSTANT = "constant"
    NORMALISATION = "normalisation"
    ACTIVATION = "activation"
    ARITHMETIC = "arithmetic of two values"
    POOL = "pool"
    JOIN = "several values side by side"
    MOVE = "moves or selects values"
    SPLIT = "moves values into several tensors"
    OTHER = "other"


class Point(Enum):
    """Where an operator's value is quantised."""

    OWN = "at itself"
    JOINS = "with what comes before, if nothing else reads that; else at itself"
    MOVES = "never: it changes no value, and carries the point of what it moves"
    FLOAT = "never: it stays in float"
    DROPPED = "nowhere: it is gone before quantisation"


class Fact(Flag):
    """What else holds for an operator."""

    NONE = 0
    COMMUTES = auto()  # rounding before it gives the same as rounding after it
    KEEPS_SIGN = auto()  # of values of at least 0 it makes values of at least 0
    NOT_NEGATIVE = auto()  # it makes values of at least 0 of any
    ANY_LAYOUT = auto()  # a mean of activations: its sums are exact in float32, so their order does not show
    NEW_TENSOR = auto()  # its call makes a new tensor, which nobody else holds: its only reader may overwrite it
    SCALES = auto()  # equalisation may scale its channels: what it makes of them scales likewise
    EXTREME = auto()  # the largest or smallest: of two values, or along a dimension, with its place
    NO_XMODEL = auto()  # the real tool's xmodel export raises on it
    TAKES_PAD = auto()  # the xmodel's op takes a padding before it into its own


@dataclass(frozen=True)
class Traits:
    """One row: see the table above for the columns."""

    group: Group = Group.OTHER
    point: Point = Point.FLOAT
    neutral: OpKind = OpKind.OTHER
    describe: str = ""
    dpu: str = ""
    adjust: str = ""
    align: str = ""
    integer: str = ""
    xmodel: str = "custom"
    told: str = ""
    onnx: str = ""
    tool: str = ""
    facts: Fact = Fact.NONE

    @property
    def convolution(self) -> bool:
        """Whether it is a convolution, transposed or not."""
        return self.group in (Group.CONVOLUTION, Group.TRANSPOSED)

    @property
    def weighted(self) -> bool:
        """Whether it multiplies by a matrix of weights: a convolution or a dense layer."""
        return self.convolution or self.group is Group.DENSE

    @property
    def parametric(self) -> bool:
        """Whether it has parameters that are quantised."""
        return self.weighted or (self.group in (Group.NORMALISATION, Group.ACTIVATION) and self.point is Point.OWN)


INPUT, CONST, SHAPE = "nndct_input", "nndct_const", "nndct_shape"
# What arithmetic on the integers of a shape is in the real tool's graph.
INTEGER_KINDS = {
    "add": "nndct_elemwise_add",
    "sub": "nndct_elementwise_sub",
    "rsub": "nndct_rsub",
    "mul": "nndct_elemwise_mul",
    "floordiv": "nndct_floor_divide",
}
# Types of the real tool for operators that are opaque here, and for calls that write into their argument.
OPAQUE_TYPES = {
    "aten::floor": "nndct_floor",
    "aten::ceil": "nndct_ceil",
    "aten::equal": "nndct_equal",
    "aten::argmax": "nndct_argmax_no_dim",
    "aten::grid_sample": "nndct_grid_sample",
    "aten::new_zeros": "nndct_zeros",
    "aten::logsigmoid": "aten::log_sigmoid",
    "aten::unfold": "aten::im2col",
    "aten::conv2d": "aten::_convolution",
}
INPLACE_TYPES = {"nndct_elemwise_mul": "aten::mul_", "nndct_clamp": "aten::clamp_"}
OPAQUE = Traits()

_EXACT = Fact.COMMUTES | Fact.KEEPS_SIGN
_CONVOLUTION = Traits(
    Group.CONVOLUTION, Point.OWN, describe="convolution", adjust="weighted", onnx="Conv", facts=Fact.NEW_TENSOR
)
_CONVOLUTION_2D = replace(_CONVOLUTION, integer="convolution", facts=Fact.NEW_TENSOR | Fact.TAKES_PAD)
_TRANSPOSED = replace(_CONVOLUTION, group=Group.TRANSPOSED, onnx="ConvTranspose")
_LIMIT = Traits(Group.ACTIVATION, Point.JOINS, integer="clamp", xmodel="elementwise", onnx="Clip", facts=Fact.COMMUTES)
_RELU = replace(_LIMIT, facts=Fact.COMMUTES | Fact.NOT_NEGATIVE)
_NORM = Traits(Group.NORMALISATION, Point.OWN)
_GATE = Traits(Group.ACTIVATION, integer="table")
_ARITHMETIC = Traits(Group.ARITHMETIC, Point.OWN, describe="arithmetic", facts=Fact.NEW_TENSOR)
_MAX_POOL = Traits(Group.POOL, Point.OWN, describe="pool", onnx="MaxPool")
_MEAN = Traits(
    Group.POOL,
    Point.OWN,
    OpKind.AVERAGE_POOL,
    align="pool",
    xmodel="avgpool2d",
    onnx="AveragePool",
    facts=Fact.KEEPS_SIGN | Fact.ANY_LAYOUT | Fact.SCALES,
)
_MOVE = Traits(Group.MOVE, Point.MOVES, integer="move", facts=_EXACT)
_RESHAPE = replace(_MOVE, neutral=OpKind.RESHAPE, xmodel="reshape", onnx="Reshape")
_SPLIT = replace(_MOVE, group=Group.SPLIT, neutral=OpKind.SLICE, xmodel="split", onnx="Split")
_SAME = replace(_MOVE, neutral=OpKind.IDENTITY, xmodel="same", onnx="same")
_DROPPED = Traits(Group.MOVE, Point.DROPPED, OpKind.IDENTITY)

KINDS: dict[str, Traits] = {
    INPUT: Traits(Group.INPUT, Point.OWN, OpKind.INPUT, integer="input", xmodel="data", onnx="input"),
    "nndct_quant_stub": Traits(Group.BORDER, Point.OWN, OpKind.IDENTITY, onnx="Identity", facts=Fact.KEEPS_SIGN),
    "nndct_dequant_stub": Traits(Group.BORDER, Point.FLOAT, OpKind.IDENTITY, onnx="Identity", facts=Fact.KEEPS_SIGN),
    # -- with weights ------------------------------------------------------------------------------------------------
    "nndct_conv1d": replace(_CONVOLUTION, xmodel="conv1d"),
    "nndct_conv2d": replace(_CONVOLUTION_2D, neutral=OpKind.CONV, xmodel="conv2d"),
    "nndct_depthwise_conv2d": replace(_CONVOLUTION_2D, neutral=OpKind.DEPTHWISE, xmodel="depthwise-conv2d"),
    "nndct_conv3d": replace(_CONVOLUTION, neutral=OpKind.CONV3D),
    "nndct_conv_transpose_1d": _TRANSPOSED,
    "nndct_conv_transpose_2d": replace(_TRANSPOSED, neutral=OpKind.TRANSPOSED, xmodel="transposed-conv2d"),
    "nndct_depthwise_conv_transpose_2d": replace(
        _TRANSPOSED, neutral=OpKind.DEPTHWISE_TRANSPOSED, xmodel="transposed-depthwise-conv2d"
    ),
    "nndct_conv_transpose_3d": _TRANSPOSED,
    "nndct_dense": Traits(
        Group.DENSE,
        Point.OWN,
        OpKind.DENSE,
        describe="dense",
        adjust="weighted",
        integer="dense",
        xmodel="matmul",
        onnx="Gemm",
        facts=Fact.NEW_TENSOR,
    ),
    "nndct_batch_norm": Traits(
        Group.NORMALISATION,
        Point.OWN,
        OpKind.BATCH_NORM,
        describe="batch_norm",
        integer="scale",
        xmodel="scale",
        onnx="scale",
        facts=Fact.NEW_TENSOR,
    ),
    "nndct_layer_norm": replace(_NORM, told="layer_norm", onnx="LayerNormalization"),
    "nndct_group_norm": replace(_NORM, xmodel="elementwise", told="group_norm", onnx="group_norm"),
    "nndct_instance_norm": replace(_NORM, onnx="InstanceNormalization"),
    # -- activations -------------------------------------------------------------------------------------------------
    "nndct_relu": replace(
        _RELU,
        neutral=OpKind.RELU,
        integer="relu",
        xmodel="relu",
        onnx="Relu",
        facts=_RELU.facts | Fact.NEW_TENSOR | Fact.SCALES,
    ),
    "nndct_relu6": replace(_RELU, neutral=OpKind.RELU6, integer="relu6", xmodel="relu6", onnx="relu6"),
    "nndct_reluk": replace(_RELU, integer="", xmodel="custom", onnx="relu6", facts=_RELU.facts | Fact.SCALES),
    "nndct_hardtanh": replace(_LIMIT, describe="clamp"),
    "nndct_clamp": replace(_LIMIT, point=Point.FLOAT, describe="clamp"),
    "nndct_leaky_relu": Traits(
        Group.ACTIVATION,
        Point.JOINS,
        OpKind.LEAKY_RELU,
        dpu="leaky_relu",
        integer="table",
        xmodel="leaky-relu",
        onnx="LeakyRelu",
    ),
    "nndct_prelu": Traits(Group.ACTIVATION, Point.OWN, OpKind.PRELU, xmodel="prelu", onnx="PRelu"),
    "nndct_hsigmoid": Traits(
        Group.ACTIVATION,
        Point.OWN,
        OpKind.HARD_SIGMOID,
        dpu="hard_sigmoid",
        adjust="hard_sigmoid",
        integer="table",
        xmodel="hard-sigmoid",
        onnx="hard_sigmoid",
        facts=Fact.NOT_NEGATIVE,
    ),
    "nndct_hswish": Traits(
        Group.ACTIVATION,
        Point.OWN,
        OpKind.HARD_SWISH,
        dpu="hard_swish",
        adjust="hard_swish",
        integer="table",
        xmodel="hard-swish",
        onnx="hard_swish",
    ),
    "nndct_sigmoid": replace(_GATE, neutral=OpKind.SIGMOID, xmodel="sigmoid", onnx="Sigmoid"),
    "nndct_tanh": replace(_GATE, neutral=OpKind.TANH, xmodel="tanh", onnx="Tanh"),
    "nndct_gelu": replace(
        _GATE, point=Point.OWN, neutral=OpKind.GELU, xmodel="gelu", onnx="gelu", tool="nndct_GELU"
    ),
    "nndct_silu": replace(_GATE, neutral=OpKind.SILU, onnx="silu", tool="aten::silu"),
    "nndct_mish": replace(_GATE, point=Point.OWN, xmodel="elementwise", onnx="mish"),
    "nndct_elu": replace(_GATE, onnx="Elu", tool="aten::elu"),
    "nndct_elemwise_exp": replace(_GATE, xmodel="elementwise", onnx="Exp"),
    "nndct_sqrt": Traits(Group.ACTIVATION, Point.OWN, xmodel="elementwise", onnx="Sqrt"),
    "nndct_neg": replace(_GATE, xmodel="neg", onnx="Neg"),
    "nndct_softmax": Traits(Group.ACTIVATION, Point.OWN, OpKind.SOFTMAX, xmodel="softmax", onnx="Softmax"),
    "nndct_log_softmax": Traits(Group.ACTIVATION, onnx="LogSoftmax"),
    # -- arithmetic --------------------------------------------------------------------------------------------------
    "nndct_elemwise_add": replace(
        _ARITHMETIC, neutral=OpKind.ADD, align="add", integer="add", xmodel="add", onnx="Add"
    ),
    "nndct_elementwise_sub": replace(_ARITHMETIC, integer="scalar", xmodel="sub", onnx="Sub"),
    "nndct_elemwise_mul": replace(_ARITHMETIC, neutral=OpKind.MUL, integer="multiply", xmodel="mul", onnx="Mul"),
    "nndct_elemwise_div": replace(_ARITHMETIC, integer="scalar", xmodel="div", onnx="Div"),
    "nndct_rsub": replace(_ARITHMETIC, integer="scalar", xmodel="rsub", onnx="rsub"),
    "nndct_floor_divide": Traits(Group.ARITHMETIC, describe="arithmetic"),
    "nndct_remainder": Traits(Group.ARITHMETIC, describe="arithmetic", tool="aten::remainder"),
    "nndct_matmul": Traits(Group.DENSE_OF_TWO, Point.OWN, onnx="MatMul"),
    "nndct_bmm": Traits(Group.DENSE_OF_TWO, Point.OWN, onnx="MatMul", tool="nndct_matmul"),
    "nndct_sum": Traits(Group.OTHER, Point.OWN, xmodel="reduction_sum", onnx="ReduceSum"),
    "aten::max": Traits(xmodel="reduction_max", onnx="max", facts=Fact.EXTREME),
    "aten::min": Traits(onnx="min", facts=Fact.EXTREME),
    "aten::abs": Traits(onnx="Abs"),
    "aten::pow": Traits(onnx="Pow"),
    "aten::glu": Traits(onnx="glu", facts=Fact.NO_XMODEL),
    "aten::where": Traits(onnx="Where"),
    "aten::gt": Traits(told="truth", onnx="Greater"),
    "aten::ge": Traits(told="truth", onnx="GreaterOrEqual"),
    "aten::lt": Traits(told="truth", onnx="Less"),
    "aten::le": Traits(told="truth", onnx="LessOrEqual"),
    "aten::eq": Traits(told="truth", onnx="Equal"),
    "aten::ne": Traits(told="truth"),
    "nndct_normalize": Traits(told="norm", onnx="norm"),
    CONST: Traits(Group.CONSTANT, integer="constant", xmodel="const", onnx="Constant"),
    # -- pools -------------------------------------------------------------------------------------------------------
    "nndct_maxpool": replace(
        _MAX_POOL,
        neutral=OpKind.MAX_POOL,
        align="pool",
        integer="max_pool",
        xmodel="maxpool2d",
        facts=_EXACT | Fact.NEW_TENSOR | Fact.SCALES,
    ),
    "nndct_maxpool1d": _MAX_POOL,
    "nndct_maxpool3d": replace(_MAX_POOL, point=Point.FLOAT),
    "nndct_adaptive_max_pool2d": Traits(
        Group.POOL,
        neutral=OpKind.MAX_POOL,
        describe="adaptive_pool",
        onnx="adaptive_max_pool",
        tool="aten::adaptive_max_pool2d",
    ),
    "nndct_avgpool": replace(_MEAN, describe="pool", dpu="average_pool", facts=_MEAN.facts | Fact.NEW_TENSOR),
    "nndct_adaptive_avg_pool2d": replace(_MEAN, describe="adaptive_pool", dpu="adaptive_average_pool"),
    "aten::mean": Traits(Group.POOL, neutral=OpKind.AVERAGE_POOL, onnx="ReduceMean", facts=Fact.ANY_LAYOUT),
    # -- moves -------------------------------------------------------------------------------------------------------
    "nndct_concat": Traits(
        Group.JOIN,
        Point.OWN,
        OpKind.CONCAT,
        align="concat",
        integer="concat",
        xmodel="concat",
        onnx="Concat",
        facts=_EXACT | Fact.NEW_TENSOR,
    ),
    "nndct_stack": Traits(onnx="stack"),
    "nndct_flatten": _RESHAPE,
    "nndct_reshape": replace(_RESHAPE, describe="reshape"),
    "nndct_squeeze": _RESHAPE,
    "nndct_unsqueeze": _RESHAPE,
    "nndct_unflatten": replace(_RESHAPE, neutral=OpKind.OTHER),
    "nndct_permute": replace(
        _MOVE, neutral=OpKind.PERMUTE, describe="permute", xmodel="transpose", onnx="Transpose"
    ),
    "nndct_transpose": Traits(
        Group.MOVE, Point.OWN, OpKind.PERMUTE, integer="move", xmodel="transpose", onnx="Transpose"
    ),
    "nndct_strided_slice": replace(
        _MOVE, neutral=OpKind.SLICE, adjust="copy_input", xmodel="strided_slice", onnx="Slice"
    ),
    "nndct_select": replace(_MOVE, neutral=OpKind.SLICE, xmodel="select", onnx="select"),
    "nndct_index": replace(_MOVE, neutral=OpKind.SLICE, onnx="index"),
    "nndct_narrow": replace(_MOVE, xmodel="narrow", onnx="narrow", tool="aten::narrow"),
    "nndct_chunk": _SPLIT,
    "nndct_split": _SPLIT,
    "nndct_unbind": replace(_MOVE, tool="aten::unbind"),
    "nndct_pixel_shuffle": replace(
        _MOVE, neutral=OpKind.PIXEL_SHUFFLE, xmodel="pixel-shuffle", onnx="DepthToSpace"
    ),
    "nndct_pixel_unshuffle": replace(
        _MOVE, point=Point.FLOAT, neutral=OpKind.PIXEL_SHUFFLE, xmodel="pixel-unshuffle", onnx="pixel_unshuffle"
    ),
    "nndct_channel_shuffle": replace(_MOVE, tool="aten::channel_shuffle"),
    "nndct_clone": replace(_MOVE, neutral=OpKind.IDENTITY, onnx="Identity", tool="aten::clone"),
    "nndct_expand": replace(_MOVE, onnx="Expand"),
    "nndct_expand_as": Traits(Group.MOVE, onnx="Expand"),
    "nndct_repeat": Traits(Group.MOVE),
    "nndct_convert": Traits(tool="nndct_cast", onnx="Cast"),
    "nndct_pad_nd": Traits(Group.MOVE, neutral=OpKind.PAD, adjust="copy_input", xmodel="pad", onnx="Pad"),
    "nndct_resize": Traits(
        Group.MOVE, Point.OWN, OpKind.RESIZE, describe="resize", adjust="resize", xmodel="resize", onnx="Resize"
    ),
    "nndct_dropout": _DROPPED,
    "nndct_contiguous": _SAME,
    "nndct_detach": _SAME,
    "nndct_cast": _SAME,
}  # fmt: skip


def traits_of(kind: str) -> Traits:
    """Return what is known of a kind; of one without a row, that it is opaque."""
    return KINDS.get(kind, OPAQUE)


def plain_name(kind: str) -> str:
    """Return a kind as messages name it: without the tool's prefix."""
    return kind.removeprefix("nndct_")
