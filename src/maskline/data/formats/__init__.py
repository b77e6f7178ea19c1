"""Data set formats, each a module that implements `maskline.data.reading.Format`."""
