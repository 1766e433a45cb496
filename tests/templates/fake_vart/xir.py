"""A stand-in for AMD's xir: an xmodel is a JSON list of subgraphs."""

import json
from pathlib import Path


class Tensor:
    """Shape and fix position of one tensor."""

    def __init__(self, dims, fix_point):
        self.dims, self.fix_point = dims, fix_point

    def get_attr(self, name):
        """Return the one attribute that the application reads."""
        assert name == "fix_point"
        return self.fix_point


class Subgraph:
    """One subgraph with its attributes."""

    def __init__(self, attributes, children=()):
        self.attributes, self.children = attributes, children

    def has_attr(self, name):
        """Tell whether an attribute is set."""
        return name in self.attributes

    def get_attr(self, name):
        """Return an attribute."""
        return self.attributes[name]

    def toposort_child_subgraph(self):
        """Return the children in order."""
        return list(self.children)


class Graph:
    """A graph read from a file."""

    @staticmethod
    def deserialize(path):
        """Read the JSON list."""
        graph = Graph()
        graph.root = Subgraph({}, [Subgraph(item) for item in json.loads(Path(path).read_text())])
        return graph

    def get_root_subgraph(self):
        """Return the root."""
        return self.root
