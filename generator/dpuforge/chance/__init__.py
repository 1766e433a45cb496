"""Leaf: telling skill from luck. The one place of intervals and tests of accuracies, for every part of dpuforge."""
