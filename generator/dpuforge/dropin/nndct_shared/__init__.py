"""Stands in for the part of AMD's nndct_shared that scripts use: options."""

import importlib

importlib.import_module("pytorch_nndct")  # finds dpuforge where only this folder is on the path
