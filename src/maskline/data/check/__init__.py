"""Checks of a data set: images, masks, and leaks between splits."""

import maskline.data.extra  # noqa: F401 (first, because it names the extra where it is missing)
