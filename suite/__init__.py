"""What an audit is: datasets, classifiers, attacks, defenses, measurements, runs and reports.

This package knows no table, no image and no hospital; it finds those by name (`suite.base.registry`).
"""
