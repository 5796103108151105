"""Adapters: one folder for each outside system, one file in it for each port it implements."""
