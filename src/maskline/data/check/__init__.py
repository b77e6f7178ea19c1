"""Checks of a data set: its images, its masks, what lies in two splits."""

import maskline.data.extra  # noqa: F401 (first, because it names the extra where it is missing)
