"""Configurations, one file per family of runs; installed as `sequencematch.configs`."""
