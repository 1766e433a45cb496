"""Tiny as the emulator of dpuforge quantises it: one row per operator, in order of execution.

(name, inputs, parameters, output shape, quantised at its output, module)
"""

NODES = (
    ('Tiny::nndct_input_0', (), (), (1, 3, 32, 32), False, ''),
    ('Tiny::nndct_quant_stub_1', ('Tiny::nndct_input_0',), (), (1, 3, 32, 32), True, 'qat_quant_1'),
    ('Tiny::nndct_conv2d_2', ('Tiny::nndct_quant_stub_1',), ('Tiny::stem.0.weight', 'Tiny::stem.0.bias'), (1, 8, 16, 16), False, 'stem.0'),
    ('Tiny::nndct_relu_3', ('Tiny::nndct_conv2d_2',), (), (1, 8, 16, 16), True, 'stem.2'),
    ('Tiny::nndct_conv2d_4', ('Tiny::nndct_relu_3',), ('Tiny::body.0.weight', 'Tiny::body.0.bias'), (1, 16, 8, 8), False, 'body.0'),
    ('Tiny::nndct_relu_5', ('Tiny::nndct_conv2d_4',), (), (1, 16, 8, 8), True, 'body.2'),
    ('Tiny::nndct_adaptive_avg_pool2d_6', ('Tiny::nndct_relu_5',), (), (1, 16, 1, 1), True, 'pool'),
    ('Tiny::nndct_flatten_7', ('Tiny::nndct_adaptive_avg_pool2d_6',), (), (1, 16), False, ''),
    ('Tiny::nndct_dense_8', ('Tiny::nndct_flatten_7',), ('Tiny::fc.weight', 'Tiny::fc.bias'), (1, 3), True, 'fc'),
    ('Tiny::nndct_dequant_stub_9', ('Tiny::nndct_dense_8',), (), (1, 3), False, 'qat_dequant_2'),
)
