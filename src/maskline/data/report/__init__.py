"""What a data set looks like: a page, a chart, images with their masks."""
