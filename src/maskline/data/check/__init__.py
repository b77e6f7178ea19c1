"""Checks of a data set: images, masks, and leaks between splits."""
