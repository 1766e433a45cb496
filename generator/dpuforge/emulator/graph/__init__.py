"""The network as a graph: the noun, how it is captured from PyTorch, the kinds of operators, how it is run."""
