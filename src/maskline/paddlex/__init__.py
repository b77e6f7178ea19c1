"""PaddleX's own interface: its pipeline, module configurations, jobs and result files.

What follows from PaddleX's conventions rather than ours lies here, above the API and below the command line.
"""
