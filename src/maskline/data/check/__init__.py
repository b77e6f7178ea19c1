"""Checks of a data set: its images, its masks, what lies in two splits."""
