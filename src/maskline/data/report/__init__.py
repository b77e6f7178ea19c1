"""Visualise a data set: HTML report, chart, annotated images."""
