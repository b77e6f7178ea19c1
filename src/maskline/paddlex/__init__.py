"""PaddleX's interface: its pipeline, module configurations, jobs and result files.

Everything that follows PaddleX's conventions rather than ours is here, above the API and below the command line.
"""
