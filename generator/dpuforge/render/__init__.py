"""Plan -> {path: text} in memory, then compare with, or write to, generated/<project>/."""
