"""Tests of the quantizer config: verdict, settings, pitfalls."""
